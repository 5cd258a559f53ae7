"""Run folders → the tables that every figure starts from. `docs/report.md` documents the columns."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from experiment_tracker import EpochRecord, Run, read_runs
from report import ReportError
from report.metrics import COSTS

TEXT_COLUMNS = (
    *("run", "path", "study", "model", "family", "configuration", "role", "search_type", "status", "reason"),
    *("created", "command"),
)
NUMBER_COLUMNS = ("slot", "attempt", "seed", "max_epochs", "patience", "threads", "objective", "seconds_total")
EPOCH_COLUMNS = tuple(field.name for field in dataclasses.fields(EpochRecord))
PARAMETER = "param_"
UNFINISHED = "unfinished"
PAUSED = "paused at a rung"  # the reason of a pruned run that a search with `--pruner promote` may go on with


@dataclass(frozen=True)
class Results:
    """What was read. `runs` has a row per run folder, `epochs` a row per epoch (column `run` names the folder)."""

    results_dir: Path
    runs: pd.DataFrame
    epochs: pd.DataFrame
    problems: tuple[str, ...]


def load(
    results_dir: Path,
    *,
    models: Sequence[str] = (),
    families: Sequence[str] = (),
    studies: Sequence[str] = (),
    since: datetime | None = None,
) -> Results:
    """The runs of a results folder, restricted to what is named; empty means all.

    Raises ReportError where no run is left, in one line that says what there is.
    """
    if not results_dir.is_dir():
        raise ReportError(
            f"--results_dir {results_dir}: expected a folder of runs, found none; run python hyperparameter_search.py"
        )
    runs, problems = read_runs(results_dir)
    if not runs:
        found = f"found none ({len(problems)} unreadable: {problems[0]})" if problems else "found none"
        raise ReportError(
            f"--results_dir {results_dir}: expected a folder of run folders with a config.json each; {found}; run "
            "python hyperparameter_search.py"
        )
    wanted = [run for run in runs if _is_wanted(run, models, families, studies, since)]
    if not wanted:
        raise ReportError(_nothing_left(runs, models, families, studies, since))
    problems = [*problems, *_unknown(runs, models, families)]
    return Results(results_dir, run_table(wanted), epoch_table(wanted), tuple(problems))


def run_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run: identity, end, every scalar metric under its name, hyperparameters as `param_<name>`."""
    frame = pd.DataFrame([_row(run) for run in runs])
    leading = [*TEXT_COLUMNS, *NUMBER_COLUMNS]
    frame = frame.reindex(columns=leading + [name for name in frame.columns if name not in leading])
    pairs = frame.groupby("study")[["model", "family"]].nunique().max(axis=1)
    for study in pairs.index[pairs > 1]:  # one name for several searches: told apart by what they searched
        rows = frame["study"] == study
        frame.loc[rows, "study"] = study + "_" + frame.loc[rows, "model"] + "_" + frame.loc[rows, "family"]
    return frame


def epoch_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per epoch of every run: the columns of metrics.csv and `run`."""
    rows = [(run.name, *(getattr(epoch, name) for name in EPOCH_COLUMNS)) for run in runs for epoch in run.epochs]
    return pd.DataFrame(rows, columns=["run", *EPOCH_COLUMNS])


def metric_columns(runs: pd.DataFrame) -> list[str]:
    """The columns that hold a metric of at least one run."""
    names = [name for name in runs.columns if name.startswith(("val_", "test_")) or name in COSTS or _is_shift(name)]
    return [name for name in names if runs[name].notna().any()]


def parameter_columns(runs: pd.DataFrame) -> list[str]:
    """The columns that hold a hyperparameter."""
    return [name for name in runs.columns if name.startswith(PARAMETER)]


def predictions(run_path: str | Path) -> tuple[dict, str | None]:
    """The arrays of a run's predictions.npz, or an empty dict and the line that says why there are none."""
    from experiment_tracker import RecordError, read_run

    try:
        return dict(read_run(Path(run_path)).predictions()), None
    except (RecordError, FileNotFoundError) as error:
        return {}, f"{Path(run_path).name}: no trajectories: {error}"


def _is_shift(name: str) -> bool:
    return name.startswith(("tau_", "history_", "rollout_", "stability_")) or name == "noise_gain"


def _row(run: Run) -> dict[str, object]:
    config, results = run.config, run.results
    metrics = results.metrics if results else {}
    seconds = results.seconds if results else {}
    origin = getattr(config, "origin", None)
    return {
        "run": run.name,
        "path": str(run.path),
        "study": config.study,
        "model": config.model,
        "family": config.family,
        "configuration": f"slot {config.slot if origin is None else origin}",
        "role": config.role,
        "search_type": config.search_type,
        "status": results.status if results else UNFINISHED,
        "reason": PAUSED if _is_paused(run) else (results.reason if results else None) or "",
        "created": config.created,
        "command": config.command,
        "slot": config.slot,
        "attempt": config.attempt,
        "seed": config.seed,
        "max_epochs": config.max_epochs,
        "patience": config.patience,
        "threads": config.threads,
        "objective": ",".join(config.objectives),
        "seconds_total": seconds.get("total", math.nan),
        **_scalars(metrics),
        **{f"{PARAMETER}{name}": value for name, value in config.hyperparameters.items()},
    }


def _is_paused(run: Run) -> bool:
    is_pruned = run.results is not None and run.results.status == "pruned"
    return is_pruned and bool(run.epochs) and run.epochs[-1].epoch in run.config.rungs


def _scalars(metrics: Mapping[str, object]) -> dict[str, float]:
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def _is_wanted(
    run: Run, models: Sequence[str], families: Sequence[str], studies: Sequence[str], since: datetime | None
) -> bool:
    config = run.config
    named = ((models, config.model), (families, config.family), (studies, config.study))
    if any(choice and name not in choice for choice, name in named):
        return False
    if since is None:
        return True
    created = _time(config.created)
    return created is not None and created >= since


def _unknown(runs: Sequence[Run], models: Sequence[str], families: Sequence[str]) -> list[str]:
    """A line for every name asked for that no run has."""
    lines = []
    for flag, names, there in (
        ("--models", models, {run.config.model for run in runs}),
        ("--families", families, {run.config.family for run in runs}),
    ):
        lines += [
            f"{flag} {name}: no run has it, only {', '.join(sorted(there))}" for name in names if name not in there
        ]
    return lines


def _time(text: str) -> datetime | None:
    """A moment with its offset; local time where none is written."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None


def _nothing_left(
    runs: Sequence[Run], models: Sequence[str], families: Sequence[str], studies: Sequence[str], since: datetime | None
) -> str:
    asked = {"--models": models, "--families": families, "studies": studies}
    asked = [f"{flag} {','.join(names)}" for flag, names in asked.items() if names]
    asked += [f"--since {since:%Y-%m-%dT%H:%M}"] if since else []
    there = {f"{run.config.model} on {run.config.family}" for run in runs}
    newest = max(run.config.created for run in runs)
    return f"{' '.join(asked)}: matches none of {len(runs)} runs ({', '.join(sorted(there))}; newest {newest})"
