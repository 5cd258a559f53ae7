"""What a process that trains says to the one that shows: progress lines, and whether to stop."""

import logging
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Protocol

from tqdm import tqdm

from search.interruption import Interruption


class Channel(Protocol):
    """The trainer's side: tell what happens, ask whether to stop."""

    def stop_requested(self) -> bool: ...

    def began(self, label: str) -> None: ...

    def epoch(self, slot: int, epoch: int, value: float) -> None: ...

    def ended(self, slot: int, status: str) -> None: ...


class Display:
    """One line for the study and one for every trial in training. Silent where nobody watches.

    `on_finished` is called whenever the number of finished slots has changed.
    """

    def __init__(
        self,
        study: str,
        n_slots: int,
        finished: int,
        n_lines: int,
        max_epochs: int,
        on_finished: Callable[[], None],
        *,
        quiet: bool,
    ) -> None:
        self._finished, self._on_finished = finished, on_finished
        disable = True if quiet else None  # None: only on a terminal
        self._total = tqdm(total=n_slots, initial=finished, desc=study, unit="trial", position=0, disable=disable)
        self._lines = [
            tqdm(total=max_epochs, unit="epoch", position=i + 1, leave=False, disable=disable) for i in range(n_lines)
        ]

    def began(self, line: int, label: str) -> None:
        bar = self._lines[line]
        bar.reset()
        bar.set_description_str(f"  {label}", refresh=True)

    def epoch(self, line: int, epoch: int, value: float) -> None:
        bar = self._lines[line]
        if value == value:
            bar.set_postfix_str(f"val {value:.3g}", refresh=False)
        bar.update(epoch - bar.n)

    def finished(self, count: int) -> None:
        self._total.update(count - self._total.n)
        if count != self._finished:
            self._finished = count
            self._on_finished()

    def close(self) -> None:
        for bar in (*self._lines, self._total):
            bar.close()


class HereChannel:
    """For trials that run in the process that shows."""

    def __init__(self, display: Display, interruption: Interruption) -> None:
        self._display, self._interruption = display, interruption

    def stop_requested(self) -> bool:
        return self._interruption.is_requested

    def began(self, label: str) -> None:
        self._display.began(0, label)

    def epoch(self, slot: int, epoch: int, value: float) -> None:
        self._display.epoch(0, epoch, value)

    def ended(self, slot: int, status: str) -> None:
        pass


class PipeChannel:
    """For trials in a worker process. A pipe whose other end is gone means that the search died: stop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.stop = False

    def stop_requested(self) -> bool:
        if not self.stop:
            try:
                self.stop = self._connection.poll()  # whatever comes, end of file too, says stop
            except OSError:
                self.stop = True
        return self.stop

    def began(self, label: str) -> None:
        self.send("began", label)

    def epoch(self, slot: int, epoch: int, value: float) -> None:
        self.send("epoch", epoch, value)

    def ended(self, slot: int, status: str) -> None:
        self.send("ended", slot, status)

    def send(self, *message: object) -> None:
        try:
            self._connection.send(message)
        except OSError:
            self.stop = True


class PipeLog(logging.Handler):
    """Passes a worker's log records to the process that shows."""

    def __init__(self, channel: PipeChannel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self._channel.send("log", record.name, record.levelno, record.getMessage())
