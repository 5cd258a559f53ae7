"""The process that draws for W&B: what it returns, and that it neither fails a search nor outlives it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from run_folders import make_results

from report.loading import load
from search.drawing import DrawingError, DrawingProcess

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.slow
def test_it_draws_says_what_is_wrong_and_draws_again(tmp_path: Path) -> None:
    make_results(tmp_path / "results", models=["memory_kernel"], families=["mackey"], trials=2)
    study = next(iter(load(tmp_path / "results").runs["study"]))
    drawing = DrawingProcess()
    try:
        with pytest.raises(DrawingError, match="other"):
            drawing.save_study(tmp_path / "results", "other", tmp_path)
        saved = drawing.save_study(tmp_path / "results", study, tmp_path)
        assert saved["trajectories"][0].stat().st_size > 10_000
        psutil.Process(drawing._process.pid).kill()
        with pytest.raises(DrawingError, match="cannot work"):
            drawing.save_study(tmp_path / "results", study, tmp_path)
    finally:
        drawing.close()


def test_closing_what_was_never_started_does_nothing() -> None:
    DrawingProcess().close()


@pytest.mark.slow
def test_it_ends_when_the_search_is_killed() -> None:
    code = "from search.drawing import DrawingProcess\nimport os\nif __name__ == '__main__':\n"
    code += " drawing = DrawingProcess()\n drawing.start()\n print(drawing._process.pid, flush=True)\n os._exit(9)"
    script = [sys.executable, "-c", code]
    done = subprocess.run(script, cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 9
    until = time.monotonic() + 60
    while psutil.pid_exists(int(done.stdout)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not psutil.pid_exists(int(done.stdout))
