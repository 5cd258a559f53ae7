"""The end of a search: ranked trials, where the time went, and the exact next commands."""

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from experiment_tracker import ARTIFACTS
from search.command_line import DEFAULT_RESULTS_DIR, Options, without_password
from search.plan import StudyPlan
from search.sampling import grid_size
from search.slots import finished_trials

SHOWN = 10
MODEL = Path(ARTIFACTS, "best_model.pt")  # of a run folder


class Repetition(NamedTuple):
    """A training of a configuration with a fresh seed: its first objective, and its errors."""

    objective: float
    val_error: float
    test_error: float


@dataclass(frozen=True)
class Row:
    """One complete trial. `confirmed` holds the trainings of its configuration with fresh seeds."""

    rank: int
    slot: int
    values: tuple[float, ...]
    is_on_front: bool
    val_error: float
    test_error: float
    differing: dict[str, object]
    run_folder: str
    host: str  # of the machine that trained it
    confirmed: tuple[Repetition, ...] = ()


@dataclass(frozen=True)
class Times:
    """Seconds of process time since the command began (wall time times workers)."""

    training: float
    evaluation: float
    everything: float
    idle: float  # of workers for which no slot was left; of one, while it waited for other machines
    n_workers: int

    def line(self) -> str:
        """Seconds and shares of training, evaluation, and all the rest."""
        rest = max(0.0, self.everything - self.training - self.evaluation - self.idle)
        parts = (
            ("training steps", self.training),
            ("evaluation", self.evaluation),
            *([("idle at the end", self.idle)] if self.n_workers > 1 or self.idle >= 1 else []),
            ("everything else (start-up, files, W&B, Optuna)", rest),
        )
        total = max(self.everything, 1e-9)
        shares = ", ".join(f"{name} {seconds:.1f} s ({100 * seconds / total:.0f} %)" for name, seconds in parts)
        workers = "" if self.n_workers == 1 else f" of {self.n_workers} workers together"
        return f"time: {self.everything:.1f} s{workers}: {shares}"


def leaderboard_rows(
    study: optuna.Study, plan: StudyPlan, confirmed: Mapping[int, Sequence[Repetition]] | None = None
) -> list[Row]:
    """All complete trials, best first; with several objectives the Pareto front first, by the first of them.

    Those trained again with fresh seeds come before all others, by their mean in the first objective: the best of many
    single trainings is partly luck.
    """
    trials = [t for t in finished_trials(study) if t.state == TrialState.COMPLETE]
    front = {t.number for t in pareto_front(trials, study.directions)}
    signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions]

    def order(trial: FrozenTrial) -> tuple[object, ...]:
        again = (confirmed or {}).get(trial.user_attrs["slot"])
        mean = signs[0] * statistics.fmean(repetition.objective for repetition in again) if again else math.inf
        values = [sign * value for sign, value in zip(signs, trial.values, strict=True)]
        return (mean, trial.number not in front, values, trial.number)

    trials.sort(key=order)
    differing = {n for n in plan.space if len({repr(t.params.get(n)) for t in trials}) > 1}
    return [
        Row(
            rank=rank,
            slot=trial.user_attrs["slot"],
            values=tuple(trial.values),
            is_on_front=trial.number in front,
            val_error=_metric(trial, "val_rel_error"),
            test_error=_metric(trial, "test_rel_error"),
            differing={name: trial.params[name] for name in plan.space if name in differing},
            run_folder=trial.user_attrs.get("run_folder", ""),
            host=str(trial.user_attrs.get("owner", "")).rsplit(":", 2)[0],
            confirmed=tuple((confirmed or {}).get(trial.user_attrs["slot"], ())),
        )
        for rank, trial in enumerate(trials, start=1)
    ]


def pareto_front(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """The trials that no other one beats in every objective; with one objective, the best."""
    signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions]
    points = [tuple(sign * value for sign, value in zip(signs, trial.values, strict=True)) for trial in trials]

    def is_beaten(point: tuple[float, ...]) -> bool:
        return any(other != point and all(o <= p for o, p in zip(other, point, strict=True)) for other in points)

    return [trial for trial, point in zip(trials, points, strict=True) if not is_beaten(point)]


def _metric(trial: FrozenTrial, name: str) -> float:
    return float(trial.user_attrs.get("metrics", {}).get(name, math.nan))


def format_leaderboard(study: optuna.Study, plan: StudyPlan, rows: Sequence[Row], results_dir: Path) -> str:
    """The table as text, the best ten; two lines a trial."""
    others = [name for name in plan.objectives if name != "rel_error"]
    header = ["rank", "val error", "test error", *others, "slot", "run folder"]
    lines = []
    for row in rows[:SHOWN]:
        mark = "*" if row.is_on_front and len(plan.objectives) > 1 else ""
        values = [f"{v:.4g}" for v, name in zip(row.values, plan.objectives, strict=True) if name in others]
        cells = [f"{row.rank}{mark}", f"{row.val_error:.4g}", f"{row.test_error:.4g}", *values, str(row.slot)]
        folder = results_dir / row.run_folder
        lines.append([*cells, str(folder) if folder.is_dir() else f"{row.run_folder} on {row.host}"])
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    text = [f"{plan.name}: {count_line(study, plan)}"]
    if rows:
        text.append("  ".join(cell.ljust(width) for cell, width in zip(header, widths, strict=True)).rstrip())
    for row, line in zip(rows, lines, strict=False):
        text.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if row.differing:
            text.append("      " + " ".join(f"{name}={shown(value)}" for name, value in row.differing.items()))
        if row.confirmed:
            text.append("      " + confirmed_line(row.confirmed))
    if len(rows) > SHOWN:
        text.append(f"... and {len(rows) - SHOWN} more complete trials")
    if any(row.confirmed for row in rows):
        text.append("configurations trained again come first, by the mean over their fresh seeds")
    if len(plan.objectives) > 1:
        text.append(f"* on the Pareto front of {', '.join(plan.objectives)}")
    return "\n".join(text)


def count_line(study: optuna.Study, plan: StudyPlan) -> str:
    """How many slots are finished, and how."""
    trials = finished_trials(study)
    pruned = "paused" if plan.pauses() else "pruned"
    words = {TrialState.COMPLETE: "complete", TrialState.PRUNED: pruned, TrialState.FAIL: "failed"}
    counts = Counter(words[trial.state] for trial in trials)
    parts = [f"{counts[word]} {word}" for word in words.values() if counts[word]]
    failed = sorted({str(t.user_attrs.get("reason")) for t in trials if t.state == TrialState.FAIL})
    why = f" ({'; '.join(failed)[:200]})" if failed else ""
    total = max(plan.n_slots, len(trials))  # an earlier command may have asked for more
    return f"{len(trials)} of {total} slots finished: {', '.join(parts) or 'none'}{why}"


def confirmed_line(confirmed: Sequence[Repetition]) -> str:
    """Mean ± standard deviation over the fresh seeds; of one seed, its errors."""
    val, test = (_with_spread([getattr(c, name) for c in confirmed]) for name in ("val_error", "test_error"))
    seeds = "1 fresh seed" if len(confirmed) == 1 else f"{len(confirmed)} fresh seeds"
    return f"with {seeds}: val {val}, test {test}"


def _with_spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread}"


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Progress(Enum):
    """How far a search came: to its last slot, not so far, or as far as `--target_error` or `--stop_when_flat` ask."""

    FINISHED = "finished"
    UNFINISHED = "unfinished"
    ENOUGH = "enough"


def with_flags(arguments: Sequence[str], **flags: object) -> str:
    """The command line with some flags set to other values, or left out for None, ready to paste."""
    kept, skip = [], False
    for argument in arguments:
        name = argument.partition("=")[0].replace("-", "_")
        if skip:
            skip = False
        elif name.startswith("__") and name[2:] in flags:
            skip = "=" not in argument
        else:
            kept.append(argument)
    new = [word for name, value in flags.items() if value is not None for word in (f"--{name}", str(value))]
    return "python hyperparameter_search.py " + shlex.join([*kept, *new])


def next_commands(plan: StudyPlan, rows: Sequence[Row], options: Options, kept: Path | None, progress: Progress) -> str:
    """What to do now: report, going on, repeating the best trial, using the best model, which is `kept` here."""
    results_dir, lines, n_slots = options.results_dir, [], max([plan.n_slots, *(row.slot + 1 for row in rows)])
    if rows:
        elsewhere = "" if results_dir == DEFAULT_RESULTS_DIR else f" --results_dir {shlex.quote(str(results_dir))}"
        lines += ["see the report:", f"  python advanced_visualizations.py{elsewhere}"]
    if progress is Progress.UNFINISHED:
        lines += ["go on where this ended:", f"  {options.command}"]
    elif progress is Progress.ENOUGH:
        lines += ["go on all the same:", "  " + with_flags(options.arguments, target_error=None, stop_when_flat=None)]
    elif plan.search_type != "grid":
        lines += ["go on with more trials:", "  " + with_flags(options.arguments, n_trials=2 * n_slots)]
    elif n_slots < grid_size(plan.space):
        lines += ["go on with more cells:", "  " + with_flags(options.arguments, max_combinations=2 * n_slots)]
    if options.storage is not None and without_password(options.storage) != options.storage:
        lines += ["  (its password is left out here: export PGPASSWORD, or put it into ~/.pgpass)"]
    if rows:
        folder = results_dir / rows[0].run_folder
        where = [f"{name} {value}" for name, value in flags_of_place(options.arguments)]
        command = ["python hyperparameter_search.py --rerun", shlex.quote(str(folder)), *where]
        lines += ["repeat the best trial:", "  " + " ".join(command)]
        if kept is not None:
            lines += ["use the best model:", *("  " + line for line in snippet(kept))]
        else:
            lines += [f"the best model lies on {rows[0].host}; with --artifacts models travel, see docs/cluster.md"]
    return "\n".join(lines)


def flags_of_place(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """The flags that say where things lie, as they were given."""
    pairs = []
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("-", "_") in ("__data_root", "__results_dir", "__device"):
            pairs.append((name, shlex.quote(value if equals else arguments[i + 1])))
    return pairs


def snippet(model: Path) -> list[str]:
    """Five lines of Python that predict with a model."""
    return [
        "import dno, numpy as np",
        f"operator = dno.load({str(model)!r})",
        "history = np.ones((33, operator.spec.channels))  # values at equidistant times from -tau to 0",
        "tau, params = operator.typical()  # those of training in the mean; give yours",
        "print(operator.predict(history, tau, params, times=np.linspace(0, 10 * tau, 101)))",
    ]
