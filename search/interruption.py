"""Ctrl-C and SIGTERM: the first asks the running trials to stop at their next epoch, the second stops at once."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)


class Interruption:
    """Remembers the signals that came. `signal_number` is None as long as none did."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @property
    def is_requested(self) -> bool:
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.signal_number or 0)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.signal_number = number
        logger.warning("stopping at the next epoch; once more to stop at once")


@contextmanager
def watched() -> Iterator[Interruption]:
    """Takes over SIGINT and SIGTERM for the length of the block."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
