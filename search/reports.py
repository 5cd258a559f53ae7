"""What a study hears of a trial while it trains, and whether its pruner stops it."""

import math
import time
from collections.abc import Sequence

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from experiment_tracker import EpochRecord
from search.plan import StudyPlan
from search.slots import SlotLost, report_all

TOGETHER_SECONDS = 5.0  # a server hears of several errors at once, at most this often


class Reports:
    """The validation errors of one trial, told to its study: one by one to a journal, several at once to a server."""

    def __init__(self, trial: optuna.Trial, plan: StudyPlan, is_remote: bool) -> None:
        self._trial, self._plan, self._is_remote = trial, plan, is_remote
        self._waiting: dict[int, float] = {}
        self._told_at = time.monotonic()

    def add(self, record: EpochRecord) -> bool:
        """Takes the error of an epoch; returns whether the trial is to be stopped. Raises SlotLost."""
        if not self._take(record) or (self._is_remote and time.monotonic() < self._told_at + TOGETHER_SECONDS):
            return False
        self.flush()
        return self._trial.should_prune()

    def restore(self, records: Sequence[EpochRecord]) -> None:
        """The epochs that the trial trained before it was cut off; they were judged then."""
        for record in records:
            self._take(record)
        self.flush()

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

    def _take(self, record: EpochRecord) -> bool:
        is_reported = self._plan.is_reported() and record.epoch < self._plan.max_epochs
        if is_reported and math.isfinite(record.val_rel_error):
            self._waiting[record.epoch] = record.val_rel_error
            return True
        return False
