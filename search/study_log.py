"""What a study's own W&B run shows: the report's figures, every trial, the course of the search, the best."""

import contextlib
import logging
import math
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from optuna.trial import FrozenTrial, TrialState

from experiment_tracker import NullWandb, StudyLog
from search.leaderboard import Row
from search.plan import StudyPlan
from search.slots import finished_trials
from search.trials import Bench

logger = logging.getLogger(__name__)

STATUSES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
METRICS = ("val_rel_error", "test_rel_error", "rollout_error", "stability_score")
COSTS = ("epochs", "train_seconds", "n_parameters")


def track_study(bench: Bench, rows: Sequence[Row], *, with_pictures: bool) -> None:
    """Logs the study's own W&B run. Drawing its pictures takes some seconds, and can fail without harm."""
    trials = finished_trials(bench.study, bench.plan.n_slots)
    if not trials or isinstance(bench.wandb, NullWandb):
        return
    log = study_log(bench.plan, trials, rows, bench.options.results_dir)
    with contextlib.ExitStack() as until_logged:
        pictures = _pictures(bench, until_logged) if with_pictures and rows else {}
        bench.wandb.log_study(replace(log, pictures=pictures))


def study_log(plan: StudyPlan, trials: Sequence[FrozenTrial], rows: Sequence[Row], results_dir: Path) -> StudyLog:
    """All but the pictures: `trials` are those that finished a slot, `rows` the leaderboard."""
    places = {row.slot: row.rank for row in rows}
    names = list(plan.space)
    table = [
        (
            *(places.get(trial.user_attrs["slot"]), trial.user_attrs["slot"], STATUSES[trial.state]),
            *(_metrics(trial).get(name) for name in (*METRICS, *COSTS)),
            *(trial.params.get(name) for name in names),
            *(trial.user_attrs.get("run_folder", ""), trial.user_attrs.get("reason")),
        )
        for trial in sorted(trials, key=lambda trial: places.get(trial.user_attrs["slot"], math.inf))
    ]
    return StudyLog(
        name=plan.name,
        tags=(plan.model, plan.family, plan.search_type),
        config=plan.fingerprint(),
        columns=("rank", "slot", "status", *METRICS, *COSTS, *names, "run_folder", "reason"),
        rows=table,
        course=course(trials),
        summary=_counts(trials) | (_best(trials, rows[0], results_dir) if rows else {}),
    )


def course(trials: Sequence[FrozenTrial]) -> list[dict[str, float]]:
    """Validation error of every complete trial, and the lowest so far, over the trials in the order of their ends."""
    ended = sorted(trials, key=lambda trial: trial.datetime_complete)
    found, lowest = [], math.inf
    for number, trial in enumerate(ended, start=1):
        error = _metrics(trial).get("val_rel_error", math.nan)
        if trial.state == TrialState.COMPLETE and math.isfinite(error):
            lowest = min(lowest, error)
            found.append({"trial": number, "search/val_rel_error": error, "search/lowest_val_rel_error": lowest})
    return found


def _counts(trials: Sequence[FrozenTrial]) -> dict[str, object]:
    states = [STATUSES[trial.state] for trial in trials]
    return {f"n_{status}": states.count(status) for status in STATUSES.values()}


def _best(trials: Sequence[FrozenTrial], row: Row, results_dir: Path) -> dict[str, object]:
    """The winner: errors, costs, configuration, and the command that trains it again."""
    (trial,) = (trial for trial in trials if trial.user_attrs["slot"] == row.slot)
    metrics = _metrics(trial)
    best = {f"best_{name}": metrics[name] for name in (*METRICS, *COSTS) if name in metrics}
    best |= {f"best_{name}": value for name, value in trial.params.items()}
    for i, name in enumerate(("val", "test")):
        errors = [pair[i] for pair in row.confirmed]
        best |= {f"confirmed_{name}_rel_error": statistics.fmean(errors)} if errors else {}
    folder = shlex.quote(str(results_dir / row.run_folder))
    return best | {"best_run_folder": row.run_folder, "rerun": f"python hyperparameter_search.py --rerun {folder}"}


def _metrics(trial: FrozenTrial) -> dict[str, float]:
    return trial.user_attrs.get("metrics", {})


def _pictures(bench: Bench, until_logged: contextlib.ExitStack) -> dict[str, tuple[Path, str]]:
    """The report's figures of this study. Whatever goes wrong with them costs a line: a search never fails by it."""
    try:
        from report.figures import save_study

        folder = until_logged.enter_context(TemporaryDirectory(prefix="dno-report-", ignore_cleanup_errors=True))
        return save_study(bench.options.results_dir, bench.plan.name, Path(folder))
    except Exception as error:
        logger.warning("no figures of study %s for W&B: %s", bench.plan.name, " ".join(str(error).split()))
        logger.debug("", exc_info=True)
        return {}
