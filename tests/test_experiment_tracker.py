"""Run folders are written so that kills and collisions lose nothing, and read back as they were written."""

import dataclasses
import json
import math
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from runs import CONFIG, METRICS, RESULTS, epoch, finished_run

from experiment_tracker import (
    EpochRecord,
    FinalResults,
    RecordError,
    RunFolder,
    read_run,
    read_runs,
)


def test_run_folder_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = finished_run(tmp_path)
    runs, problems = read_runs(tmp_path)
    assert problems == []
    (run,) = runs
    assert (run.path, run.name, run.config, run.problems) == (path, path.name, CONFIG, ())
    assert path.name.startswith("memory_kernel_mackey_")
    assert str(run.epochs) == str(tuple(epoch(number) for number in (1, 2, 3)))  # nan is not equal to itself
    assert (run.results.status, run.results.metrics, run.results.seconds) == ("complete", METRICS, RESULTS.seconds)
    assert sorted(run.results.files) == [
        "artifacts/best_model.pt",
        "artifacts/predictions.npz",
        "config.json",
        "metrics.csv",
    ]
    arrays = run.predictions()
    np.testing.assert_array_equal(arrays["best_time"], np.arange(4.0))
    assert float(arrays["best_tau"]) == 17.0
    assert run.changed_artifacts() == []


def test_files_are_valid_json_when_numbers_are_not_finite(tmp_path: Path) -> None:
    metrics = {
        "a": math.nan,
        "b": [1.0, -math.inf],
        "c": np.float32(0.5),
        "d": np.int64(3),
        "e": np.array([0.25, np.nan]),
    }
    folder = RunFolder.create(tmp_path, CONFIG)
    folder.finish(FinalResults("failed", "diverged: loss is nan", metrics, {"total": math.inf}))
    text = (folder.path / "final_results.json").read_text()
    written = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert written["metrics"] == {"a": None, "b": [1.0, None], "c": 0.5, "d": 3, "e": [0.25, None]}
    run = read_run(folder.path)
    assert run.problems == ()
    assert math.isnan(run.results.metrics["a"]) and math.isnan(run.results.metrics["b"][1])
    assert isinstance(run.results.metrics["d"], int)


def test_metrics_csv_leaves_cells_empty_for_what_was_not_computed(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    folder.append_epoch(EpochRecord(1, np.float32(0.5)))
    lines = (folder.path / "metrics.csv").read_text().splitlines()
    assert lines == [
        "epoch,train_loss,val_rel_error,learning_rate,gradient_norm,epoch_seconds,elapsed_seconds",
        "1,0.5,,,,,",
    ]
    (record,) = read_run(folder.path).epochs
    assert record.train_loss == 0.5 and math.isnan(record.elapsed_seconds)


def test_run_without_results_is_unfinished_and_no_problem(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    folder.append_epoch(epoch(1))
    runs, problems = read_runs(tmp_path)
    assert problems == [] and runs[0].results is None and len(runs[0].epochs) == 1


@pytest.mark.parametrize("kept", range(1, 40, 3))
def test_torn_last_line_is_left_out(tmp_path: Path, kept: int) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    for number in (1, 2):
        folder.append_epoch(epoch(number))
    whole = folder.path.joinpath("metrics.csv").read_bytes()
    first = whole.index(b"\n2,") + 1
    (folder.path / "metrics.csv").write_bytes(whole[: min(first + kept, len(whole) - 1)])
    run = read_run(folder.path)
    assert [record.epoch for record in run.epochs] == [1] and run.problems == ()


def test_artifact_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)

    def fail_halfway(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.save_artifact("best_model.pt", fail_halfway)
    assert list((folder.path / "artifacts").iterdir()) == []
    seen = []
    target = folder.save_artifact("plot.png", lambda path: (seen.append(path), path.write_bytes(b"whole")))
    assert target == folder.path / "artifacts" / "plot.png" and target.read_bytes() == b"whole"
    assert seen[0].suffix == ".png" and not seen[0].exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", ".."])
def test_artifact_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        RunFolder.create(tmp_path, CONFIG).save_artifact(name, lambda path: path.write_bytes(b""))


def test_finish_refuses_to_write_twice(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    folder.finish(RESULTS)
    with pytest.raises(RuntimeError, match="finished already"):
        folder.finish(RESULTS)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"role": "boss"}, "role: expected one of trial, confirmation, rerun, got 'boss'"),
        ({"family": "../x"}, "family: expected a plain name"),
        ({"model": ""}, "model: expected a plain name"),
        ({"hyperparameters": {"width": [1]}}, "hyperparameters.width"),
        ({"hyperparameters": {"path": Path("x")}}, "Path"),
    ],
)
def test_config_refuses_what_could_not_be_read_again(tmp_path: Path, change: dict[str, object], fragment: str) -> None:
    with pytest.raises(RecordError, match=fragment):
        RunFolder.create(tmp_path, dataclasses.replace(CONFIG, **change))
    assert list(tmp_path.iterdir()) == []


def create_many(results_dir: Path, n: int) -> None:
    for _ in range(n):
        RunFolder.create(results_dir, CONFIG).close()


def test_run_folders_never_collide_across_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=create_many, args=(tmp_path, 25)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    runs, problems = read_runs(tmp_path)
    assert len(runs) == 100 and problems == []


def test_run_folder_takes_a_suffix_when_its_name_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracking import folders

    class FrozenClock(folders.datetime):
        @classmethod
        def now(cls, tz: object = None) -> "FrozenClock":
            return cls(2026, 1, 2, 3, 4, 5, 6)

    monkeypatch.setattr(folders, "datetime", FrozenClock)
    names = [RunFolder.create(tmp_path, CONFIG).path.name for _ in range(3)]
    stem = "memory_kernel_mackey_20260102_030405_000006"
    assert names == [stem, f"{stem}_1", f"{stem}_2"]


def run_until_killed(results_dir: Path) -> None:
    folder = RunFolder.create(results_dir, CONFIG)
    for number in range(1, 1_000_000):
        folder.append_epoch(epoch(number))
        folder.save_artifact("best_model.pt", lambda path: path.write_bytes(b"weights" * 1000))


def test_killed_run_keeps_its_epochs_and_is_unfinished(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=run_until_killed, args=(tmp_path,))
    process.start()
    while not list(tmp_path.glob("*/artifacts/best_model.pt")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    runs, problems = read_runs(tmp_path)
    (run,) = runs
    assert problems == [] and run.results is None
    assert [record.epoch for record in run.epochs] == list(range(1, len(run.epochs) + 1)) and run.epochs
    assert (run.path / "artifacts" / "best_model.pt").read_bytes() == b"weights" * 1000
