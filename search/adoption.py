"""How a study sees a finished run folder, and what it takes over from them where its journal was lost."""

import logging
import math
from datetime import datetime
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from experiment_tracker import RESULTS, FinalResults, Run, read_runs
from hyperparameter_config import Choice, Range
from search.objectives import objective_values
from search.plan import StudyPlan
from search.sampling import snap
from search.slots import ERROR, FAILED, TrialEnd

logger = logging.getLogger(__name__)

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, FAILED: TrialState.FAIL}


def trial_end(results: FinalResults, objectives: tuple[str, ...]) -> TrialEnd:
    """How the study sees the end of a run: the objectives of a complete one, the reason of any other."""
    metrics = {k: v for k, v in results.metrics.items() if isinstance(v, int | float) and math.isfinite(v)}
    status, reason, values = results.status, results.reason, None
    if results.traceback is not None:
        status = ERROR
    elif status == "complete":
        values = objective_values(metrics, objectives)
        if values is None:
            status, reason = FAILED, f"one of {', '.join(objectives)} is not finite"
    seconds = {k: v for k, v in results.seconds.items() if math.isfinite(v)}
    return TrialEnd(status, reason, values, metrics, seconds)


def adopt_folders(study: optuna.Study, plan: StudyPlan, results_dir: Path) -> None:
    """Adds the finished trials of an earlier journal to a study that has none; call it under the guard lock.

    A folder counts where this plan would have trained it, from the same seed on the same data, and where no file of it
    changed since.
    """
    found: dict[int, FrozenTrial] = {}
    for run in read_runs(results_dir)[0]:
        if run.config.slot in found or not _is_of(plan, run):
            continue
        end = trial_end(run.results, plan.objectives)
        changed = [*run.problems, *run.changed_artifacts()]
        if changed:
            logger.warning("%s is not taken over: %s", run.name, changed[0])
        elif end.status in STATES:
            found[run.config.slot] = _trial(plan, run, end)
    study.add_trials([found[slot] for slot in sorted(found)])
    if found:
        logger.warning("study %s: %d finished trials were taken over from their run folders", plan.name, len(found))


def _is_of(plan: StudyPlan, run: Run) -> bool:
    """Whether the run is finished and its trial what this plan has in its slot."""
    config, own = run.config, run.config.hyperparameters
    wanted = (plan.parent or plan.name, plan.origin, plan.role, plan.model, plan.family, plan.search_type)
    is_ours = wanted == (config.study, config.origin, config.role, config.model, config.family, config.search_type)
    if run.results is None or not is_ours or config.slot < 0 or set(own) != set(plan.defaults) | set(plan.space):
        return False
    limits = (plan.max_epochs, plan.patience, plan.max_seconds, list(plan.rungs()))
    trained = (config.max_epochs, config.patience, config.max_seconds, config.rungs)
    if (*limits, list(plan.objectives), plan.dataset_sha256) != (*trained, config.objectives, config.dataset_sha256):
        return False
    if config.seed != plan.training_seed(config.slot):
        return False
    if plan.cells is not None and config.slot >= len(plan.cells):
        return False
    chosen = {name: own[name] for name in plan.space}
    is_laid_down = plan.parameters(config.slot) in ({}, chosen)
    is_fixed = all(own[name] == value for name, value in plan.defaults.items() if name not in plan.space)
    return is_laid_down and is_fixed and snap(chosen, plan.space) == (chosen, [])


def _trial(plan: StudyPlan, run: Run, end: TrialEnd) -> FrozenTrial:
    """The trial as it was in the journal."""
    errors = {e.epoch: e.val_rel_error for e in run.epochs if e.epoch < plan.max_epochs and e.val_rel_error >= 0}
    attributes = {"slot": run.config.slot, "attempt": run.config.attempt, "sampled": True, "run_folder": run.name}
    told = {"end": end.status, "reason": end.reason, "metrics": end.metrics, "seconds": end.seconds}
    trial = optuna.trial.create_trial(
        state=STATES[end.status],
        values=None if end.values is None else list(end.values),
        params={name: run.config.hyperparameters[name] for name in plan.space},
        distributions={name: _distribution(entry) for name, entry in plan.space.items()},
        intermediate_values=errors if plan.is_reported() else {},
        user_attrs=attributes | {name: value for name, value in told.items() if value},
    )
    # Not now: its seconds are of an earlier command.
    trial.datetime_start = trial.datetime_complete = datetime.fromtimestamp((run.path / RESULTS).stat().st_mtime)
    return trial


def _distribution(entry: Range | Choice) -> BaseDistribution:
    if isinstance(entry, Choice):
        return CategoricalDistribution(list(entry.values))
    if entry.scale == "int":
        return IntDistribution(entry.low, entry.high)
    return FloatDistribution(entry.low, entry.high, log=entry.scale == "log")
