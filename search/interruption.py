"""What ends a search early: Ctrl-C and SIGTERM, of which the second stops at once, and budgets that are used up."""

import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from data.generate import send_again

logger = logging.getLogger(__name__)


class Interruption:
    """Asks running trials to stop at their next epoch: after a signal, at the deadline, or when a study has enough.

    `signal_number` is None as long as no signal came, `enough` as long as the present study goes on.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.signal_number: int | None = None
        self.enough: str | None = None
        self._deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self._deadline

    @property
    def is_requested(self) -> bool:
        return self.signal_number is not None or self.enough is not None or self.is_late

    @property
    def ends_everything(self) -> bool:
        """Whether no further study is to begin."""
        return self.signal_number is not None or self.is_late

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM; a budget that is used up is no failure."""
        return 0 if self.signal_number is None else 128 + self.signal_number

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number
        logger.warning("stopping at the next epoch; once more to stop at once")


@contextmanager
def watched(minutes: float | None = None) -> Iterator[Interruption]:
    """Takes over SIGINT and SIGTERM for the length of the block, which is to end after so many minutes."""
    interruption = Interruption(minutes)
    before = {number: signal.signal(number, interruption.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    hook, sys.unraisablehook = sys.unraisablehook, send_again
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
