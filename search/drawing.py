"""A study's figures for W&B, drawn by a process of their own: what drawing imports takes two seconds, beside trials.

`python -m search.drawing` reads one line of JSON, draws, and answers with one.
"""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


class DrawingError(Exception):
    """A study could not be drawn; its text says why."""


class DrawingProcess:
    """Draws one study. `start` it before it is needed, `close` it in the end."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Returns at once; to start it again does nothing. Raises OSError where no process can be started."""
        if self._process is None:
            command = [sys.executable, "-m", "search.drawing"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            # In a session of its own: signals of the terminal are for the search, and `close` reaches all it forks.
            self._process = subprocess.Popen(command, cwd=REPOSITORY, text=True, start_new_session=True, **pipes)

    def save_study(self, results_dir: Path, study: str, folder: Path) -> dict[str, tuple[Path, str]]:
        """What `report.figures.save_study` returns. Raises DrawingError whatever goes wrong."""
        try:
            self.start()
            request = {"results_dir": str(results_dir.resolve()), "study": study, "folder": str(folder)}
            answer, _ = self._process.communicate(json.dumps(request))
            found = json.loads(answer)
        except (OSError, ValueError) as error:
            raise DrawingError("the process that draws them cannot work") from error
        if "problem" in found:
            raise DrawingError(found["problem"])
        return {name: (Path(path), caption) for name, (path, caption) in found["saved"].items()}

    def close(self) -> None:
        """Ends the process and those that it forked, whatever they do."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode != 0:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            with process:  # closes its pipes and waits for it
                pass


def main() -> None:
    """Draws what the one line that it reads asks for; where nothing comes, the search is gone."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints
    try:
        gc.disable()  # it passes over all that is imported and drawn, and over what forked processes share
        from report.figures import save_study

        request = sys.stdin.readline()
        if not request:
            return
        wanted = json.loads(request)
        saved = save_study(Path(wanted["results_dir"]), wanted["study"], Path(wanted["folder"]))
        answer = {"saved": {name: (str(path), caption) for name, (path, caption) in saved.items()}}
    except Exception as error:  # a search never fails by its figures
        answer = {"problem": " ".join(str(error).split()) or type(error).__name__}
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
