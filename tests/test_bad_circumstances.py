"""Circumstances that nobody asked for: full disks, little memory, odd paths, other searches, clocks that go back."""

import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path

import pytest
import wandb

from search.storage import open_storage
from tests.bad_inputs import Case, Place, assert_refused, call
from tests.faults import tiny
from tests.faults.checks import problems
from tests.private_postgresql import binaries, private_server
from tests.runs import finished_run
from tests.wandb_server import Server
from tracking import wandb_log

CIRCUMSTANCES = (
    "another search of the study",
    "path with spaces",
    "path in other letters",
    "path of 200 characters",
    "clock set back",
    "disk full",
    "file size limited",
    "little memory",
    "read-only results",
    "read-only data",
    "disk full for the workers",
    "disk full on one of two machines",
    "disk full for the artifacts",
    "files changed since written",
    "W&B server that hangs",
    "W&B server that dies",
    "output closed",
)


NO_TRACEBACK_OF_A_THREAD = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


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
def mounted(folder: Path, *arguments: object) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *map(str, arguments), folder], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def small_disk(folder: Path, size: str = "32k") -> AbstractContextManager[None]:
    """By default without room for one trial."""
    return mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def test_read_only_results_are_refused_in_one_line(place: Place) -> None:
    with mounted(place.root / "fixed", "-t", "tmpfs", "-o", "ro", "tmpfs"):
        for folder in (place.root / "fixed", place.root / "fixed" / "results"):
            assert_refused(place, Case(lambda p, to=folder: p.search("--results_dir", to), ("--results_dir", "fixed")))


def test_read_only_results_of_an_earlier_search_are_refused_in_one_line(place: Place) -> None:
    assert call(place.search()).code == 0
    with mounted(place.results, "--bind", "-o", "ro", place.results):
        assert_refused(place, Case(lambda p: p.search("--n_trials", 2), ("--results_dir", "another folder")))
        assert_refused(place, Case(lambda p: p.report("--output_dir", p.results / "page"), ("--output_dir",)))
    assert call(place.search("--n_trials", 2)).code == 0
    assert statuses(place.results) == ["complete"] * 2


def test_read_only_data_can_be_searched(place: Place) -> None:
    with mounted(place.data, "--bind", "-o", "ro", place.data):
        assert call(place.search()).code == 0
        command = ["generate", "--family", "mackey", "--data_root", place.data]
        assert_refused(place, Case(lambda p: command, ("--data_root", "Read-only")))


def test_full_disk_stops_in_one_line_and_the_search_goes_on_elsewhere(place: Place) -> None:
    with small_disk(place.root / "small"):
        code, err = run(place, "--results_dir", place.root / "small" / "results", "-q")
        assert code == 2 and "Traceback" not in err, err
        assert "No space left on device" in err and "--results_dir" in err and err.count("\n") == 1, err
        left = [path.name for path in (place.root / "small").rglob("*") if path.name.startswith(".partial")]
        assert left == []
    assert call(place.search()).code == 0


def test_full_disk_stops_workers_in_one_line_and_the_search_goes_on_with_room(place: Place) -> None:
    small = place.root / "small"
    with small_disk(small):
        code, err = run(place, "--results_dir", small / "results", "-q", "--n_workers", 2, "--n_trials", 2)
        assert code == 2 and "Traceback" not in err, err
        assert "No space left on device" in err and "--results_dir" in err and err.count("\n") == 1, err
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        code, err = run(place, "--results_dir", small / "results", "-q", "--n_workers", 2, "--n_trials", 2)
        assert code == 0, err
        assert problems(small / "results", "method_of_steps_cosine_random", 2) == []


@pytest.mark.postgresql
@pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server here: apt-get install postgresql")
def test_full_disk_of_one_machine_leaves_its_trials_to_the_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNO_HEARTBEAT_SECONDS", "0.3")
    with small_disk(place.root / "small"), private_server() as server:
        common = ["--storage", server.url(), "-q", "--n_trials", 2]
        monkeypatch.setenv("DNO_HOST_ID", "full")
        code, err = run(place, "--results_dir", place.root / "small" / "results", *common)
        assert code == 2 and "No space left on device" in err and err.count("\n") == 1, err
        monkeypatch.setenv("DNO_HOST_ID", "roomy")
        code, err = run(place, *common)
        assert code == 0, err
        found = problems(
            place.results, "method_of_steps_cosine_random", 2, lambda folder: open_storage(folder, server.url())
        )
    assert found == []


@pytest.mark.postgresql
@pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server here: apt-get install postgresql")
def test_full_disk_of_the_artifacts_keeps_the_trial(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNO_HEARTBEAT_SECONDS", "0.3")
    shared = place.root / "small"
    with small_disk(shared, "64k"), private_server() as server:
        common = ["--storage", server.url(), "--artifacts", shared, "-q"]
        (shared / "filler").write_bytes(b"0" * 52_000)
        for _ in range(2):
            code, err = run(place, *common)
            assert code == 2 and "Traceback" not in err and err.count("\n") == 1, err
            assert "No space left on device" in err and "--artifacts" in err, err
        assert statuses(place.results) == ["complete"]
        subprocess.run(["mount", "-o", "remount,size=64m", shared], check=True)
        code, err = run(place, *common)
        assert code == 0, err
        assert statuses(place.results) == ["complete"] and len(list(shared.iterdir())) >= 3


def test_files_changed_since_written_are_named_and_drawn_all_the_same(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    folder = finished_run(place.results)
    (folder / "metrics.csv").write_text((folder / "metrics.csv").read_text().replace("0.25", "0.24"))
    answer = call(place.report())
    assert answer.code == 0, answer
    assert "metrics.csv: changed since written" in caplog.text
    page = (place.root / "pictures" / "report.html").read_text()
    assert "changed since written" in page and folder.name in page


def test_limited_file_size_stops_in_one_line(place: Place) -> None:
    code, err = run(place, "-q", limit=(resource.RLIMIT_FSIZE, 6000))
    assert code == 2 and "Traceback" not in err and "File too large" in err and err.count("\n") == 1, err
    assert call(place.search()).code == 0
    assert statuses(place.results) == ["complete"]


def test_little_memory_is_said_in_one_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    code, err = run(place, "--results_dir", place.results, limit=(resource.RLIMIT_AS, 400 * 2**20))
    assert code == 2 and "memory" in err and err.count("\n") == 1, err
    assert call(place.search()).code == 0


def go_online(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Logs in to a W&B of one's own, with little patience."""
    wandb.teardown()  # it keeps the address of its server
    for name in ("INIT_SECONDS", "FINISH_SECONDS"):
        monkeypatch.setattr(wandb_log, name, 2.0)
    for name in ("WANDB_MODE", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)


@NO_TRACEBACK_OF_A_THREAD
def test_wandb_server_that_hangs_costs_seconds(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = []
    threading.Thread(target=lambda: ends.append(server.accept()[0]), daemon=True).start()  # and says nothing
    go_online(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}")
    assert call(place.search("--wandb_mode", "online")).code == 0
    assert statuses(place.results) == ["complete"]
    assert list(place.results.glob("wandb/offline-run-*"))
    server.close()


@NO_TRACEBACK_OF_A_THREAD
def test_wandb_server_that_dies_costs_seconds_and_no_trial(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    threading.Thread(target=lambda: server.has_streamed.wait() and server.die(), daemon=True).start()
    go_online(monkeypatch, server.url)
    assert call(place.search("--wandb_mode", "online", "--n_trials", 2, "--max_epochs", 30)).code == 0
    assert server.has_streamed.is_set()
    assert statuses(place.results) == ["complete"] * 2
    assert list(place.results.glob("wandb/run-*")) and list(place.results.glob("wandb/offline-run-*"))
    assert problems(place.results, "method_of_steps_cosine_random", 2) == []


def test_closed_output_gives_no_traceback(place: Place) -> None:
    with open("/dev/full", "w") as full:
        code, err = run(place, "-q", stdout=full, stderr=subprocess.PIPE)
    assert "Traceback" not in err and code in (0, 1), err
    assert statuses(place.results) == ["complete"]
