"""The process that draws for W&B: what it returns, and that it neither fails a search nor outlives it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from run_folders import make_results

from report.loading import load
from search.drawing import DrawingError, DrawingProcess

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def drawing() -> Iterator[DrawingProcess]:
    process = DrawingProcess()
    yield process
    process.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A results folder and the name of its study."""
    results = tmp_path_factory.mktemp("results")
    make_results(results, models=["memory_kernel"], families=["mackey"], trials=8)
    return results, next(iter(load(results).runs["study"]))


def all_end(pids: list[int]) -> bool:
    """Whether none of these processes is left a minute from now; one that waits to be buried has ended."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        if all(process.status() == psutil.STATUS_ZOMBIE for process in left):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_it_draws_a_study(drawing: DrawingProcess, study: tuple[Path, str], tmp_path: Path) -> None:
    drawing.start()
    saved = drawing.save_study(*study, tmp_path)
    assert "heatmap" in saved
    assert all(path.stat().st_size > 10_000 and caption.endswith(".") for path, caption in saved.values())


@pytest.mark.slow
def test_it_says_what_is_wrong(drawing: DrawingProcess, study: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(DrawingError, match="other"):
        drawing.save_study(study[0], "other", tmp_path)


def test_a_process_that_died_is_an_error_of_drawing(drawing: DrawingProcess, study: tuple[Path, str]) -> None:
    drawing.start()
    drawing._process.kill()
    with pytest.raises(DrawingError, match="cannot work"):
        drawing.save_study(*study, study[0])


def test_closing_what_was_never_started_does_nothing() -> None:
    DrawingProcess().close()


@pytest.mark.slow
def test_closing_ends_what_it_forked_as_well(drawing: DrawingProcess, study: tuple[Path, str], tmp_path: Path) -> None:
    drawing.start()
    request = f'{{"results_dir": "{study[0]}", "study": "{study[1]}", "folder": "{tmp_path}"}}\n'
    drawing._process.stdin.write(request)
    drawing._process.stdin.flush()
    until, forked = time.monotonic() + 60, []
    while len(forked) < 3 and time.monotonic() < until:
        forked = psutil.Process(drawing._process.pid).children()
        time.sleep(0.01)
    assert len(forked) >= 3
    drawing.close()
    assert all_end([process.pid for process in forked])
    assert not list(tmp_path.glob("heatmap.png"))  # the last one was still at work


@pytest.mark.slow
def test_it_ends_when_the_search_is_killed() -> None:
    code = "from search.drawing import DrawingProcess\nimport os\n"
    code += "drawing = DrawingProcess()\ndrawing.start()\nprint(drawing._process.pid, flush=True)\nos._exit(9)"
    script = [sys.executable, "-c", code]
    done = subprocess.run(script, cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 9
    assert all_end([int(done.stdout)])
