"""A study's own W&B run, live from the first trial to the last: its course, then every trial, the figures, the best."""

import contextlib
import logging
import math
import shlex
import statistics
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from optuna.trial import FrozenTrial, TrialState

from experiment_tracker import NullWandb, StudyHead, StudyLog
from search.drawing import DrawingError, DrawingProcess
from search.leaderboard import Row
from search.plan import StudyPlan
from search.slots import finished_trials, host_identity, is_finished
from search.storage import patiently
from search.trials import Bench

logger = logging.getLogger(__name__)

STATUSES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
METRICS = ("val_rel_error", "test_rel_error", "rollout_error", "stability_score")
COSTS = ("epochs", "train_seconds", "n_parameters")
COURSE = ("val_rel_error", "test_rel_error", "lowest_val_rel_error", *STATUSES.values())  # keys of its rows
RUN_ID = "wandb_run"  # attribute of the study


class LiveStudy:
    """The study's run while the search goes on. The searching process alone writes it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._drawing = DrawingProcess()
        self._n_logged = 0
        self._begin()

    def update(self) -> None:
        """Logs a row for every trial that ended since the last time."""
        bench = self._bench
        if bench.wandb.is_study_open():
            trials = patiently(bench.options.storage, lambda: bench.study.get_trials(deepcopy=False))
            for row in course(trials)[self._n_logged :]:
                bench.wandb.log_row(row)
                self._n_logged += 1
            ended = {trial.user_attrs.get("slot") for trial in trials if is_finished(trial)}
            if len(ended) >= bench.plan.n_slots - bench.options.n_workers:  # the last trials have begun
                with contextlib.suppress(OSError):  # said when it is needed
                    self._drawing.start()

    def close(self) -> None:
        """Ends what is still open; the run as failed, where `finish` was not called."""
        self._drawing.close()
        self._bench.wandb.finish_study(None)

    def finish(self, rows: Sequence[Row], *, with_pictures: bool) -> None:
        """Logs the table, the best and the figures. `rows` are the leaderboard; drawing takes some seconds."""
        bench = self._bench
        if isinstance(bench.wandb, NullWandb):
            return
        if not bench.wandb.is_study_open():  # it broke off: all of it once more
            self._begin()
        self.update()
        trials = finished_trials(bench.study)
        with contextlib.ExitStack() as until_logged:
            pictures = self._pictures(until_logged) if with_pictures and rows else {}
            log = study_log(bench.plan, trials, rows, bench.options.results_dir)
            bench.wandb.finish_study(replace(log, pictures=pictures))

    def _pictures(self, until_logged: contextlib.ExitStack) -> dict[str, tuple[Path, str]]:
        """The report's figures of this study. Whatever goes wrong costs a line: a search never fails by its figures."""
        bench = self._bench
        try:
            folder = until_logged.enter_context(TemporaryDirectory(prefix="dno-report-", ignore_cleanup_errors=True))
            return self._drawing.save_study(bench.options.results_dir, bench.plan.name, Path(folder))
        except (OSError, DrawingError) as error:
            logger.warning("no figures of study %s for W&B: %s", bench.plan.name, error)
            return {}

    def _begin(self) -> None:
        if not isinstance(self._bench.wandb, NullWandb):
            plan = self._bench.plan
            tags, keys = (plan.model, plan.family, plan.search_type), tuple(f"search/{name}" for name in COURSE)
            head = StudyHead(run_id(self._bench), plan.name, tags, plan.fingerprint(), keys)
            self._n_logged = self._bench.wandb.start_study(head)
            self.update()


@contextlib.contextmanager
def live_study(bench: Bench) -> Iterator[LiveStudy]:
    """The study's run, open for the block; if the block raises before `finish`, the run ends as failed."""
    live = LiveStudy(bench)
    try:
        yield live
    finally:
        live.close()


def run_id(bench: Bench) -> str:
    """The id of the study's run, which stays the same when the search is started again: kept in the study.

    Where machines share the study, each has a run of its own, as two cannot write one.
    """
    key = RUN_ID if bench.options.storage is None else f"{RUN_ID}_{host_identity()}"
    if key not in bench.study.user_attrs:
        bench.study.set_user_attr(key, uuid.uuid4().hex[:16])
    return bench.study.user_attrs[key]


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
        columns=("rank", "slot", "status", *METRICS, *COSTS, *names, "run_folder", "reason"),
        rows=table,
        summary=_counts(trials) | (_best(trials, rows[0], results_dir) if rows else {}),
    )


def course(trials: Sequence[FrozenTrial]) -> list[dict[str, float]]:
    """A row for each trial that ended, in the order of the ends: later ends never change it.

    Errors of a complete trial, the lowest validation error so far, and how many slots ended in which way; one that was
    paused counts as pruned until it goes on.
    """
    ended = [trial for trial in trials if is_finished(trial) and "slot" in trial.user_attrs]
    statuses: dict[int, str] = {}
    found, lowest = [], math.inf
    for number, trial in enumerate(sorted(ended, key=lambda trial: (trial.datetime_complete, trial.number)), start=1):
        statuses[trial.user_attrs["slot"]] = STATUSES[trial.state]
        counts = Counter(statuses.values())
        row = {name: float(counts[name]) for name in STATUSES.values()}
        if trial.state == TrialState.COMPLETE:
            row |= {name: _metrics(trial).get(name, math.nan) for name in COURSE[:2]}
            lowest = min(lowest, row["val_rel_error"]) if math.isfinite(row["val_rel_error"]) else lowest
        row["lowest_val_rel_error"] = lowest
        found.append(
            {"trial": number} | {f"search/{name}": value for name, value in row.items() if math.isfinite(value)}
        )
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
    if row.confirmed:
        best["confirmed_val_rel_error"] = statistics.fmean(again.val_error for again in row.confirmed)
        best["confirmed_test_rel_error"] = statistics.fmean(again.test_error for again in row.confirmed)
    folder = shlex.quote(str(results_dir / row.run_folder))
    return best | {"best_run_folder": row.run_folder, "rerun": f"python hyperparameter_search.py --rerun {folder}"}


def _metrics(trial: FrozenTrial) -> dict[str, float]:
    return trial.user_attrs.get("metrics", {})
