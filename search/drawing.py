"""The process that draws a study's figures for W&B: what drawing imports takes two seconds, beside the last trials."""

import contextlib
import signal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from search.processes import start_process


class DrawingError(Exception):
    """A study could not be drawn; its text says why."""


class DrawingProcess:
    """Draws one study after another. `start` it before it is needed, `close` it in the end."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def start(self) -> None:
        """Returns at once; to start it again does nothing. Raises OSError where no process can be started."""
        if self._process is None:
            self._process, self._connection = start_process("drawing", _draw_on_request)

    def save_study(self, results_dir: Path, study: str, folder: Path) -> dict[str, tuple[Path, str]]:
        """What `report.figures.save_study` returns. Raises DrawingError whatever goes wrong."""
        try:
            self.start()
            self._connection.send((results_dir, study, folder))
            saved = self._connection.recv()
        except (OSError, EOFError) as error:
            raise DrawingError(f"the process that draws them cannot work ({type(error).__name__})") from error
        if isinstance(saved, str):
            raise DrawingError(saved)
        return saved

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def _draw_on_request(connection: Connection) -> None:
    """The life of the process: draws what it is asked for until nobody can ask any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the search decides
    with contextlib.suppress(Exception):  # what is wrong is said at the first request
        import report.figures  # noqa: F401
    with contextlib.suppress(OSError, EOFError):
        while True:
            request = connection.recv()
            try:
                from report.figures import save_study

                answer = save_study(*request)
            except Exception as error:
                answer = " ".join(str(error).split()) or type(error).__name__
            connection.send(answer)
