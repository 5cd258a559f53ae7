"""The quick forms of the fault harness; `python -m tests.faults --help` lists the long ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiment_tracker import read_runs
from tests.faults import checks, integrity, kills, soak, storages, tiny
from tests.private_postgresql import binaries


@pytest.mark.slow
def test_search_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    data_root, results = tiny.make_data(tmp_path / "data"), tmp_path / "results"
    results.mkdir()
    report = kills.Episode(3, results, data_root).run(4)
    assert report.problems == []
    assert sum(report.kills.values()) == 4


@pytest.mark.slow
@pytest.mark.postgresql
@pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server here: apt-get install postgresql")
def test_search_loses_nothing_when_its_server_is_killed_as_well(tmp_path: Path) -> None:
    data_root, results = tiny.make_data(tmp_path / "data"), tmp_path / "results"
    results.mkdir()
    with storages.storages("postgresql") as new_storage:
        report = kills.Episode(279, results, data_root, new_storage("quick")).run(2)
    assert report.problems == []
    assert set(report.kills) == {"server killed", "server stopped"}


@pytest.mark.slow
def test_nothing_grows_from_trial_to_trial(tmp_path: Path) -> None:
    watched = soak.soak("one process", 1, 9)
    assert watched.code == 0 and watched.samples[-1].trials >= 8
    early, late = watched.samples[:3], watched.samples[-2:]
    assert late[-1].memory < 1.05 * watched.samples[len(watched.samples) // 2].memory
    # A run's own come and go; one left by each trial would be four more.
    for name in ("threads", "temporary", "handles"):
        assert min(getattr(each, name) for each in late) <= max(getattr(each, name) for each in early) + 2, name


def test_folder_that_a_kill_left_half_made_is_taken_over(tmp_path: Path) -> None:
    data_root, results = tiny.make_data(tmp_path / "data"), tmp_path / "results"
    flags = ["--model", "memory_kernel", "--family", "cosine", "--max_epochs", 1, "--n_trials", 1]
    flags += ["--n_workers", 1, "--confirm_top", 0]
    flags += ["--wandb_mode", "disabled", "--data_root", data_root, "--results_dir", results]
    for name, code in (("artifacts", -9), ("metrics.csv", -9), (None, 0)):
        output = tmp_path / f"{name}.txt"
        assert tiny.start(*flags, output=output, die_at_write=name, token=output.with_suffix("")).wait(60) == code
    runs, found = read_runs(results)
    assert found == [] and [run.results.status for run in runs] == ["complete"]
    assert checks.problems(results, "memory_kernel_cosine_random", 1) == []


def test_a_second_signal_that_is_lost_in_a_destructor_still_stops_the_search() -> None:
    code = """
import os, signal, sys, time
from search.interruption import watched
class Sends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
try:
    with watched() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        Sends()
        time.sleep(20)
except KeyboardInterrupt:
    sys.exit(interruption.exit_code)
"""
    end = subprocess.run([sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, timeout=30)
    assert end.returncode == 143 and "Traceback" not in end.stderr, end.stderr


def test_no_flipped_bit_and_no_cut_is_silently_wrong() -> None:
    for tally in integrity.run(flips=40, cuts=15):
        assert tally.wrong == 0, tally
        assert tally.refused >= 15, tally
