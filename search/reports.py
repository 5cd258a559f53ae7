"""What a study hears of a trial while it trains, and whether its pruner stops it."""

import copy
import math
import time
from collections.abc import Container, Sequence

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, TrialState

from experiment_tracker import EpochRecord
from search.plan import StudyPlan
from search.slots import SlotLost, report_all, trials_by_slot

TOGETHER_SECONDS = 5.0  # a server hears of several errors at once, at most this often


class _BySlot(optuna.Study):
    """A study as if every slot had been tried once: a killed attempt is no rival of the one that goes on for it."""

    def __init__(self, study: optuna.Study) -> None:
        self.__dict__.update(study.__dict__)
        self._whole = study

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        found = []
        for slot, trials in trials_by_slot(self._whole).items():
            trial = copy.copy(trials[-1])
            trial.number = slot
            if states is None or trial.state in states:
                found.append(copy.deepcopy(trial) if deepcopy else trial)
        return found


class Reports:
    """The validation errors of one trial, told to its study: one by one to a journal, several at once to a server."""

    def __init__(self, trial: optuna.Trial, plan: StudyPlan, is_remote: bool) -> None:
        self._trial, self._plan, self._is_remote = trial, plan, is_remote
        self._waiting: dict[int, float] = {}
        self._is_condemned = False
        self._told_at = time.monotonic()

    def add(self, record: EpochRecord) -> bool:
        """Takes the error of an epoch; returns whether the trial is to be stopped. Raises SlotLost."""
        if self._is_condemned:
            return True
        if not self._take(record) or (self._is_remote and time.monotonic() < self._told_at + TOGETHER_SECONDS):
            return False
        self.flush()
        return self._is_pruned()

    def restore(self, records: Sequence[EpochRecord]) -> None:
        """The epochs that the trial trained before it was cut off, judged again one after the other.

        A pruner remembers at which errors a trial passed. The last epoch may have been its end, which was not told.
        """
        is_judged = not isinstance(self._trial.study.pruner, NopPruner)
        for record in records:
            if self._take(record) and is_judged:
                self.flush()
                self._is_condemned = self._is_pruned()

    def flush(self) -> None:
        """Tells the study all that waits."""
        waiting, self._waiting, self._told_at = self._waiting, {}, time.monotonic()
        try:
            report_all(self._trial, waiting)
        except UpdateFinishedTrialError as error:
            raise SlotLost from error
        except optuna.exceptions.StorageInternalError:
            self._waiting = waiting | self._waiting
            raise

    def _is_pruned(self) -> bool:
        """What the pruner says: it sees one trial for every slot, its last, numbered by the slot."""
        trial = self._trial._get_latest_trial()
        trial.number = trial.user_attrs["slot"]
        return self._trial.study.pruner.prune(_BySlot(self._trial.study), trial)

    def _take(self, record: EpochRecord) -> bool:
        is_reported = self._plan.is_reported() and record.epoch < self._plan.max_epochs
        if is_reported and math.isfinite(record.val_rel_error):
            self._waiting[record.epoch] = record.val_rel_error
            return True
        return False
