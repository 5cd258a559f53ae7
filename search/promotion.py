"""`--pruner promote`: successive halving that pauses trials instead of stopping them (ASHA, Li et al. 2020).

Every trial trains to a rung, where its learning rate has run down: errors there can be compared. The best third of all
that came so far goes on at once, and always the best: from the first trial on there is a model. The others pause with a
checkpoint, and one of them goes on where it stopped as soon as it belongs to the best third of its rung. No epoch is
trained twice.
"""

from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from search.slots import is_failed

REDUCTION = 3  # of the trials at a rung, one in so many goes on
FIRST_RUNG = 3  # epochs: a shorter cycle of the learning rate tells nothing
MOST_RUNGS = 2

Slots = Mapping[int, Sequence[FrozenTrial]]


def rungs(max_epochs: int) -> tuple[int, ...]:
    """The epochs at which trials are compared: a third and a ninth of all, not before FIRST_RUNG."""
    epochs = (max_epochs // REDUCTION**k for k in range(MOST_RUNGS, 0, -1))
    return tuple(epoch for epoch in epochs if epoch >= FIRST_RUNG)


def goes_on(slots: Slots, slot: int, rung: int) -> bool:
    """Whether a slot whose trial has just told its error at a rung belongs to the best third there."""
    return slot in _best(_errors_at(slots, rung))


def promoted(slots: Slots, n_slots: int, ladder: Sequence[int]) -> list[int]:
    """The paused slots that are to go on now, of the highest rung first."""
    last = {slot: trials[-1] for slot, trials in slots.items() if slot < n_slots}
    paused = {slot: trial.last_step for slot, trial in last.items() if trial.state == TrialState.PRUNED}
    return [
        slot
        for rung in sorted(ladder, reverse=True)
        for slot in _best(_errors_at(slots, rung))
        if paused.get(slot) == rung
    ]


def _errors_at(slots: Slots, rung: int) -> dict[int, float]:
    """The least error until then of each slot that came to a rung, and has not failed behind it."""
    return {
        slot: min(error for epoch, error in trial.intermediate_values.items() if epoch <= rung)
        for slot, trials in slots.items()
        if not is_failed(trials[-1])
        for trial in trials
        if rung in trial.intermediate_values
    }


def _best(errors: Mapping[int, float]) -> list[int]:
    return sorted(errors, key=errors.__getitem__)[: max(1, len(errors) // REDUCTION)]
