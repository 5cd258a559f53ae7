"""What must hold of a results folder once the search that was killed again and again has ended."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from experiment_tracker import Run, read_runs
from search.slots import finished_trials, is_finished, trials_by_slot
from search.storage import open_storage
from tracking.folders import PARTIAL

FINISHED = ("complete", "pruned", "failed")


def problems(results_dir: Path, study_name: str, n_slots: int, storage: Callable = open_storage) -> list[str]:
    """One line for everything that is not as it should be; an empty list means that nothing was lost."""
    study = optuna.load_study(study_name=study_name, storage=storage(results_dir))
    runs, unreadable = read_runs(results_dir)
    found = list(unreadable)
    found += _slot_problems(study, n_slots)
    by_name = {run.name: run for run in runs if run.config.study == study_name}
    for trial in finished_trials(study, n_slots):
        found += [f"slot {trial.user_attrs['slot']}: {problem}" for problem in _trial_problems(trial, by_name)]
    finished = [run for run in by_name.values() if run.results is not None and run.results.status in FINISHED]
    repeated = [slot for slot, count in Counter(run.config.slot for run in finished).items() if count > 1]
    found += [f"slot {slot}: finished in more than one run folder" for slot in repeated]
    told = {trial.user_attrs.get("run_folder") for trial in finished_trials(study, n_slots)}
    found += [f"{run.name}: finished, but not in the storage" for run in finished if run.name not in told]
    left = [path for path in results_dir.rglob("*") if path.name.startswith(PARTIAL) or path.name.endswith(".partial")]
    return found + [f"{path.relative_to(results_dir)}: a temporary file was left" for path in left]


def _slot_problems(study: optuna.Study, n_slots: int) -> list[str]:
    slots, found = trials_by_slot(study), []
    for slot in range(n_slots):
        ends = [trial.state for trial in slots.get(slot, []) if is_finished(trial)]
        # A paused trial that went on ended as pruned before.
        count = len(ends) - ends[:-1].count(TrialState.PRUNED)
        if count != 1:
            found.append(f"slot {slot}: finished {count} times")
    found += [f"slot {slot}: there are only {n_slots}" for slot in slots if slot >= n_slots]
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
        found.append(f"trial {trial.number} of slot {trial.user_attrs.get('slot')} is left {trial.state.name}")
    return found


def _trial_problems(trial: FrozenTrial, by_name: dict[str, Run]) -> list[str]:
    """Whether a finished trial and its run folder agree, and the folder is whole."""
    name = trial.user_attrs.get("run_folder")
    if trial.user_attrs.get("reason", "").startswith("killed in each"):
        return []
    if name not in by_name:
        return [f"its run folder {name} is not there"]
    run = by_name[name]
    if run.results is None:
        return [f"{name} has no final_results.json"]
    found = [*run.problems, *run.changed_artifacts()]
    results, state = run.results, trial.state
    expected = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    if state != expected.get(results.status):
        found.append(f"{name} is {results.status}, the storage says {state.name}")
    if results.status == "complete":
        if trial.value != results.metrics["val_rel_error"]:
            found.append(f"{name} has {results.metrics['val_rel_error']}, the storage {trial.value}")
        if not math.isfinite(results.metrics.get("test_rel_error", math.nan)):
            found.append(f"{name} has no test error")
        found += [f"{name} has no {file}" for file in ("best_model.pt", "predictions.npz") if not _has(run, file)]
    epochs = [record.epoch for record in run.epochs]
    if epochs != list(range(1, int(results.metrics["epochs"]) + 1)):
        found.append(f"{name} trained {results.metrics['epochs']} epochs, metrics.csv has {epochs}")
    return found


def _has(run: Run, file: str) -> bool:
    return (run.path / "artifacts" / file).is_file()
