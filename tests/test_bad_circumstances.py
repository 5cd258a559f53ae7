"""Circumstances that nobody asked for: full disks, little memory, odd paths, other searches, clocks that go back."""

import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from tests.bad_inputs import Place, call
from tests.faults import tiny

CIRCUMSTANCES = (
    "another search of the study",
    "path with spaces",
    "path in other letters",
    "path of 200 characters",
    "clock set back",
    "disk full",
    "file size limited",
    "little memory",
    "W&B server that hangs",
    "output closed",
)


def statuses(results: Path) -> list[str]:
    return sorted(json.loads(p.read_text())["status"] for p in results.glob("*/final_results.json"))


def run(place: Place, *flags: object, limit: tuple[int, int] | None = None, **more: object) -> tuple[int, str]:
    """The search in a process of its own: exit code and stderr."""
    command = [sys.executable, tiny.__file__, *map(str, place.search(*flags)[1:])]
    done = subprocess.run(
        command,
        capture_output="stdout" not in more,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=None if limit is None else lambda: resource.setrlimit(limit[0], (limit[1], limit[1])),
        **more,
    )
    return done.returncode, done.stderr or ""


def test_another_search_of_the_study_is_refused(place: Place) -> None:
    assert call(place.search()).code == 0
    lock = place.results / ".locks" / "method_of_steps_cosine_random.search.lock"
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(); input()"
    holder = subprocess.Popen([sys.executable, "-c", code, lock], stdin=-1, stdout=-1, text=True)
    holder.stdout.readline()
    answer = call(place.search("--n_trials", 2))
    holder.communicate("\n")
    assert answer.code == 2 and answer.err.count("\n") == 1, answer
    assert "searched by another process" in answer.err and "--study NEW" in answer.err
    assert call(place.search("--n_trials", 2)).code == 0


@pytest.mark.parametrize("name", ["with spaces and 'quotes'", "τ→∞ 遅延", "x" * 200])
def test_odd_paths_work(place: Place, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (place.root / name).mkdir()
    place.data.rename(place.root / name / "data")
    data, results = place.root / name / "data", place.root / name / "results"
    assert call(place.search("--data_root", data, "--results_dir", results)).code == 0
    assert statuses(results) == ["complete"]


def test_clock_set_back_loses_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracking.folders

    class Clock(datetime):
        """Stands still at a moment long ago."""

        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2001, 1, 1, tzinfo=tz)

    assert call(place.search()).code == 0
    monkeypatch.setattr(tracking.folders, "datetime", Clock)
    assert call(place.search("--n_trials", 3)).code == 0
    assert statuses(place.results) == ["complete"] * 3
    assert len(list(place.results.glob("*20010101*"))) == 2


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_full_disk_stops_in_one_line_and_the_search_goes_on_elsewhere(place: Place) -> None:
    with small_disk(place.root / "small"):
        code, err = run(place, "--results_dir", place.root / "small" / "results", "-q")
        assert code == 1 and "Traceback" not in err, err
        assert "No space left on device" in err and "--results_dir" in err and err.count("\n") == 1, err
        left = [path.name for path in (place.root / "small").rglob("*") if path.name.startswith(".partial")]
        assert left == []
    assert call(place.search()).code == 0


def test_limited_file_size_stops_in_one_line(place: Place) -> None:
    code, err = run(place, "-q", limit=(resource.RLIMIT_FSIZE, 6000))
    assert code == 1 and "Traceback" not in err and "File too large" in err and err.count("\n") == 1, err
    assert call(place.search()).code == 0
    assert statuses(place.results) == ["complete"]


def test_little_memory_is_said_in_one_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    code, err = run(place, "--results_dir", place.results, limit=(resource.RLIMIT_AS, 400 * 2**20))
    assert code == 2 and "memory" in err and err.count("\n") == 1, err
    assert call(place.search()).code == 0


def test_wandb_server_that_hangs_costs_seconds(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracking import wandb_log

    server = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = []
    threading.Thread(target=lambda: ends.append(server.accept()[0]), daemon=True).start()  # and says nothing
    monkeypatch.setattr(wandb_log, "INIT_SECONDS", 2.0)
    for name in ("WANDB_MODE", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert call(place.search("--wandb_mode", "online")).code == 0
    assert statuses(place.results) == ["complete"]
    assert list(place.results.glob("wandb/offline-run-*"))
    server.close()


def test_closed_output_gives_no_traceback(place: Place) -> None:
    with open("/dev/full", "w") as full:
        code, err = run(place, "-q", stdout=full, stderr=subprocess.PIPE)
    assert "Traceback" not in err and code in (0, 1), err
    assert statuses(place.results) == ["complete"]
