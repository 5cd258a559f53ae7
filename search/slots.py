"""The N slots of a study: who holds which, which are finished, and what happens to those whose holder died.

A slot is finished by a trial that is COMPLETE, PRUNED, or FAIL with the end "failed" (its own divergence or lack of
memory). All other ends ("killed", "interrupted", "error", "withdrawn") free the slot again.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState, create_trial

logger = logging.getLogger(__name__)

MAX_REPEATS = 5  # a slot whose trials are killed is tried again this often

FAILED, KILLED, INTERRUPTED, ERROR, WITHDRAWN = "failed", "killed", "interrupted", "error", "withdrawn"
PRUNED = "pruned"
SPENT_BEFORE = "seconds_before"  # attribute of a trial that goes on from a checkpoint: the seconds in that


class SlotLost(Exception):
    """Another machine has taken the slot over."""


class StorageLost(Exception):
    """The storage did not answer for so long that the search gives up; its text is for the user."""


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended, as the study stores it. `status` is complete, pruned, or one of the ends above."""

    status: str
    reason: str | None
    values: tuple[float, ...] | None
    metrics: dict[str, float | int]
    seconds: dict[str, float]
    record: dict[str, object] = field(default_factory=dict)  # the run folder's files, for machines that do not see it


@dataclass(frozen=True)
class Tally:
    """The state of the slots 0 .. n-1."""

    finished: int
    running: int
    waiting: int


def host_identity() -> str:
    """The name of this machine; DNO_HOST_ID gives another where several share one, as containers may."""
    return os.environ.get("DNO_HOST_ID") or socket.gethostname()


def owner_identity() -> str:
    """`host:pid:start time` of this process: unlike a pid alone, never used twice."""
    return f"{host_identity()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_alive(owner: str | None, living_hosts: Collection[str] = ()) -> bool:
    """Whether the process that recorded itself as owner still runs on this machine, or its machine still lives.

    Without a storage for many machines no other lives: the search lock of the study is ours, so its search is over.
    """
    if owner is None:
        return False
    host, pid, started = owner.rsplit(":", 2)
    if host != host_identity():
        return host in living_hosts
    try:
        process = psutil.Process(int(pid))
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - float(started)) < 0.05
    except psutil.NoSuchProcess:
        return False


def one_transaction(study: optuna.Study) -> contextlib.AbstractContextManager[None]:
    """What the block writes is committed at once where the study lies in a database; with a journal one by one."""
    backend = getattr(study._storage, "_backend", None)
    return backend.transaction() if hasattr(backend, "transaction") else contextlib.nullcontext()


def report_all(trial: optuna.Trial, values: dict[int, float]) -> None:
    """Reports several finite errors by epoch; to a database in one statement."""
    backend = getattr(trial.study._storage, "_backend", None)
    if not hasattr(backend, "report_all"):
        for epoch, error in values.items():
            trial.report(error, epoch)
    elif values:
        backend.report_all(trial._trial_id, values)
        trial._cached_frozen_trial.intermediate_values.update(values)  # what `report` does for the pruner


def is_finished(trial: FrozenTrial) -> bool:
    """Whether this trial finishes its slot, unless it was pruned and goes on."""
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return True
    return is_failed(trial)


def is_failed(trial: FrozenTrial) -> bool:
    """Whether this trial ended by its own divergence or lack of memory."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get("end") == FAILED


def finisher(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The trial of a slot that finishes it, of all its trials, oldest first. A pruned one that goes on does not."""
    for trial in trials:
        if is_finished(trial) and (trial.state != TrialState.PRUNED or trial is trials[-1]):
            return trial
    return None


def trials_by_slot(study: optuna.Study) -> dict[int, list[FrozenTrial]]:
    """All trials of the study by slot, oldest first."""
    slots: dict[int, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        if "slot" in trial.user_attrs:
            slots.setdefault(trial.user_attrs["slot"], []).append(trial)
    return slots


def finished_trials(study: optuna.Study, n_slots: int | None = None) -> list[FrozenTrial]:
    """The trial that finished each slot, in the order of the slots."""
    chosen = {slot: finisher(trials) for slot, trials in trials_by_slot(study).items()}
    return [chosen[s] for s in sorted(chosen) if chosen[s] is not None and (n_slots is None or s < n_slots)]


def latest_results(study: optuna.Study) -> list[FrozenTrial]:
    """The last result of every slot that has one, in the order of the slots: what a sampler may learn from."""
    slots = trials_by_slot(study)
    found = (next((trial for trial in reversed(slots[slot]) if is_finished(trial)), None) for slot in sorted(slots))
    return [trial for trial in found if trial is not None]


def record_end(study: optuna.Study, number: int, end: TrialEnd) -> None:
    """Writes the end of a RUNNING trial into the study; the state changes last."""
    attributes = {"end": end.status, "reason": end.reason, "metrics": end.metrics, "seconds": end.seconds} | end.record
    storage = study._storage
    trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    with one_transaction(study):
        for key, value in attributes.items():
            if value:
                storage.set_trial_user_attr(trial_id, key, value)
        if end.status == "complete":
            study.tell(number, list(end.values or ()))
        else:
            study.tell(number, state=TrialState.PRUNED if end.status == PRUNED else TrialState.FAIL)


def reconcile(
    study: optuna.Study,
    n_slots: int,
    parameters: Callable[[int], dict[str, object]],
    adopt: Callable[[FrozenTrial], TrialEnd | None],
    mark: str = KILLED,
    living_hosts: Collection[str] = (),
    promoted: Callable[[dict[int, list[FrozenTrial]]], list[int]] = lambda slots: [],
) -> Tally:
    """Makes the study agree with the world; call it under the guard lock.

    A RUNNING trial whose owner is dead is adopted when `adopt` finds its complete result, else it ends as `mark`. Then
    every slot without a waiting, running or finished trial is enqueued again, with its last parameters where it had
    any, else with `parameters(slot)`; an empty dict means that the sampler chooses. So are those that are `promoted`:
    paused ones that go on.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not is_alive(trial.user_attrs.get("owner"), living_hosts):
            _bury(study, trial, adopt(trial), mark)
    _withdraw(study, n_slots)
    slots = trials_by_slot(study)
    for slot in promoted(slots):
        _enqueue(study, slot, slots[slot], parameters)
        slots = trials_by_slot(study)
    finished = running = waiting = 0
    for slot in range(n_slots):
        trials = slots.get(slot, [])
        states = {trial.state for trial in trials}
        if finisher(trials) is not None:
            finished += 1
        elif TrialState.RUNNING in states:
            running += 1
        else:
            if TrialState.WAITING not in states:
                _enqueue(study, slot, trials, parameters)
            waiting += 1
    return Tally(finished, running, waiting)


def claim(study: optuna.Study, owner: str) -> optuna.Trial | None:
    """Takes the lowest waiting slot, or None where nothing waits; call it under the guard lock.

    The lowest, where `study.ask` would take the oldest trial: a slot that was interrupted is not put off.
    """
    with one_transaction(study):
        trial_id = _lowest_waiting(study)
        if trial_id is None:
            return None
        study._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        study._storage.set_trial_user_attr(trial_id, "owner", owner)
    return optuna.Trial(study, trial_id)


def _lowest_waiting(study: optuna.Study) -> int | None:
    cached = study._storage
    backend = getattr(cached, "_backend", None)
    if not hasattr(backend, "lowest_waiting"):
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return min(waiting, key=lambda trial: trial.user_attrs["slot"])._trial_id if waiting else None
    found = backend.lowest_waiting(study._study_id)
    if found is None:
        return None
    # Optuna's cache must know a trial before it takes its parameters; of one that is not finished it keeps no more.
    known = create_trial(state=TrialState.WAITING)
    known._trial_id, known.number = found
    cached.get_study_name_from_id(study._study_id)
    with cached._lock:
        cached._add_trials_to_cache(study._study_id, [known])
    return known._trial_id


def _bury(study: optuna.Study, trial: FrozenTrial, result: TrialEnd | None, mark: str) -> None:
    slot, attempt = trial.user_attrs.get("slot"), trial.user_attrs.get("attempt", 0)
    if result is not None:
        logger.info("slot %s: the trial was fully written before its process ended; its result is kept", slot)
    elif mark == KILLED and attempt >= MAX_REPEATS:
        result = TrialEnd(FAILED, f"killed in each of {attempt + 1} attempts", None, {}, {})
        logger.warning("slot %s: %s; counted as failed", slot, result.reason)
    else:
        result = TrialEnd(mark, f"its process was {mark}", None, {}, {})
        logger.info("slot %s: its process was %s; the slot is tried again", slot, mark)
    record_end(study, trial.number, result)


def _withdraw(study: optuna.Study, n_slots: int) -> None:
    """Takes back waiting slots beyond the present number: the last search of the study wanted more."""
    storage = study._storage
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if trial.user_attrs.get("slot", n_slots) >= n_slots:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, trial.number)
            storage.set_trial_user_attr(trial_id, "end", WITHDRAWN)
            storage.set_trial_state_values(trial_id, TrialState.FAIL)


def _enqueue(
    study: optuna.Study, slot: int, trials: list[FrozenTrial], parameters: Callable[[int], dict[str, object]]
) -> None:
    values, attributes = parameters(slot), {"slot": slot, "attempt": 0}
    if trials:
        last = trials[-1].user_attrs
        attributes["attempt"] = last.get("attempt", 0) + (last.get("end") == KILLED)
        if last.get("sampled"):
            values = dict(trials[-1].params)
        if last.get("run_folder") and last.get("end") in (KILLED, INTERRUPTED, PRUNED):
            attributes["run_folder"] = last["run_folder"]  # its training goes on from its last checkpoint
    study.enqueue_trial(values, user_attrs=attributes)
