"""Damaged, foreign and hand-edited run folders cost one line each and never a run beside them."""

import dataclasses
import json
import math
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from runs import CONFIG, RESULTS, finished_run

from experiment_tracker import (
    FinalResults,
    RecordError,
    RunConfig,
    RunFolder,
    read_run,
    read_runs,
)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGED_CONFIGS = {
    "empty": b"",
    "cut": b'{"study": "a", "slo',
    "binary": b"\xff\xfe\x00",
    "list": b"[1, 2]",
    "nan": b'{"study": NaN}',
    "deep": b"[" * 100_000,
    "long number": b'{"seed": ' + b"9" * 5000 + b"}",
}


def test_literals_that_are_no_json_are_missing_metrics(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    path = run / "final_results.json"
    content = json.loads(path.read_text())
    first, second = sorted(content["metrics"])[:2]
    content["metrics"] |= {first: math.nan, second: math.inf}
    path.write_text(json.dumps(content))
    (found,), problems = read_runs(tmp_path)
    assert found.results.status == "complete" and len(problems) == 1  # it was changed since it was written
    assert all(math.isnan(found.results.metrics[name]) for name in (first, second))


@pytest.mark.parametrize("case", DAMAGED_CONFIGS)
def test_damaged_config_costs_one_line(tmp_path: Path, case: str) -> None:
    whole = finished_run(tmp_path)
    damaged = finished_run(tmp_path)
    (damaged / "config.json").write_bytes(DAMAGED_CONFIGS[case])
    runs, problems = read_runs(tmp_path)
    assert [run.path for run in runs] == [whole]
    (line,) = problems
    assert line.startswith(f"{damaged / 'config.json'}: expected") and line.endswith("left out") and "\n" not in line
    with pytest.raises(RecordError, match=r"config\.json"):
        read_run(damaged)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"slot": "7"}, "slot: expected int, got '7'"),
        ({"slot": True}, "slot: expected int, got True"),
        ({"seed": None}, "seed: expected int, got None"),
        ({"max_seconds": "long"}, "max_seconds: expected float | None, got 'long'"),
        ({"hyperparameters": [1]}, "hyperparameters: expected dict"),
        ({"hyperparameters": {"width": {}}}, "hyperparameters.width"),
        ({"objectives": [1]}, "objectives: expected str, got 1"),
        ({"role": "x"}, "role: expected one of"),
        ({"schema_version": 2}, "schema_version: expected 1, got 2"),
        ({"extra": 1}, "extra: no such field"),
    ],
)
def test_edited_config_is_refused_field_by_field(tmp_path: Path, changes: dict[str, object], fragment: str) -> None:
    path = finished_run(tmp_path)
    edit_json(path / "config.json", **changes)
    runs, problems = read_runs(tmp_path)
    assert runs == [] and len(problems) == 1 and fragment in problems[0]


def test_missing_field_and_missing_version_are_named(tmp_path: Path) -> None:
    content = json.loads(CONFIG.to_json())
    for name in ("seed", "schema_version"):
        with pytest.raises(RecordError, match=f"^{name}: expected"):
            RunConfig.from_json(json.dumps({key: value for key, value in content.items() if key != name}))


def test_folder_from_before_a_field_was_added_is_read() -> None:
    content = json.loads(CONFIG.to_json())
    del content["rungs"]
    assert RunConfig.from_json(json.dumps(content)) == CONFIG and CONFIG.rungs == []


@pytest.mark.parametrize("name", ["config.json", "metrics.csv", "final_results.json"])
def test_hand_edited_file_is_reported_as_changed(tmp_path: Path, name: str) -> None:
    path = finished_run(tmp_path)
    text = (path / name).read_text()
    (path / name).write_text(text.replace("0.25", "0.24") if name != "config.json" else text.replace("64", "65"))
    runs, problems = read_runs(tmp_path)
    assert len(runs) == 1 and problems == [f"{path}: {name}: changed since written"]


def test_results_file_that_was_only_reformatted_is_not_reported(tmp_path: Path) -> None:
    path = finished_run(tmp_path)
    edit_json(path / "final_results.json")
    assert read_runs(tmp_path)[1] == []


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"{}", "schema_version"),
        (b"", "valid JSON"),
        (b"\x00" * 20, "valid JSON"),
    ],
)
def test_damaged_results_leave_a_run_unfinished(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = finished_run(tmp_path)
    (path / "final_results.json").write_bytes(content)
    runs, problems = read_runs(tmp_path)
    assert runs[0].results is None and len(runs[0].epochs) == 3
    assert len(problems) == 1 and fragment in problems[0] and problems[0].endswith("taken as unfinished")


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"status": "won"}, "status: expected one of"),
        ({"metrics": {"a": "0.1"}}, "metrics.a"),
        ({"metrics": {"a": True}}, "metrics.a"),
        ({"seconds": {"total": "x"}}, "seconds.total: expected float"),
        ({"files": {"config.json": 1}}, "files.config.json: expected str"),
    ],
)
def test_results_of_wrong_types_are_refused(changes: dict[str, object], fragment: str) -> None:
    content = json.loads(RESULTS.to_json()) | changes
    with pytest.raises(RecordError, match=fragment):
        FinalResults.from_json(json.dumps(content))


@pytest.mark.parametrize(
    ("text", "epochs", "fragment"),
    [
        ("epoch,loss\n1,2\n", 0, "expected the columns epoch,train_loss"),
        ("{header}1,1,,,,,\n2,oops,,,,,\n3,1,,,,,\n", 1, "line 3: expected numbers"),
        ("{header}1,1,,,,,\n2,1\n", 1, "line 3: expected 7 cells, got 2"),
        ("{header}1.5,1,,,,,\n", 0, "line 2: expected numbers"),
        ('{header}1,"1,,,,,\n', 0, "metrics.csv"),
        ("\x00\xff", 0, "metrics.csv"),
    ],
)
def test_damaged_metrics_keep_the_epochs_before_the_damage(
    tmp_path: Path, text: str, epochs: int, fragment: str
) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)
    header = (folder.path / "metrics.csv").read_text()
    (folder.path / "metrics.csv").write_text(text.replace("{header}", header), encoding="latin-1")
    runs, problems = read_runs(tmp_path)
    assert len(runs[0].epochs) == epochs
    assert len(problems) == 1 and fragment in problems[0] and "\n" not in problems[0]


def test_foreign_folders_cost_one_line_and_known_ones_none(tmp_path: Path) -> None:
    path = finished_run(tmp_path)
    for name in ("wandb", ".locks", "holiday pictures", "two\nlines"):
        (tmp_path / name).mkdir()
    (tmp_path / "studies.journal").write_text("{}")
    (tmp_path / "config is a folder" / "config.json").mkdir(parents=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    runs, problems = read_runs(tmp_path)
    assert [run.path for run in runs] == [path]
    assert len(problems) == 3 and not any("\n" in line for line in problems)
    assert any("holiday pictures: no config.json, so not a run folder" in line for line in problems)


def test_results_folder_that_does_not_exist_has_no_runs(tmp_path: Path) -> None:
    assert read_runs(tmp_path / "nowhere") == ([], [])
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        read_run(tmp_path / "nowhere")


def test_runs_come_in_order_of_creation(tmp_path: Path) -> None:
    times = ["2026-01-02T12:00:00+00:00", "2026-01-02T12:30:00+02:00", "no time at all"]
    for created in times:
        finished_run(tmp_path, dataclasses.replace(CONFIG, created=created))
    assert [run.config.created for run in read_runs(tmp_path)[0]] == [times[1], times[0], times[2]]


@pytest.mark.parametrize("damage", ["cut", "garbage", "pickle", "bomb", "lzma", "encrypted"])
def test_damaged_predictions_are_refused(tmp_path: Path, damage: str) -> None:
    folder = RunFolder.create(tmp_path, CONFIG)  # unfinished, so that no sha256 stands in front of the reading
    target = folder.save_predictions({"best_time": np.arange(1000.0)})
    content = target.read_bytes()
    if damage == "cut":
        target.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        target.write_bytes(content[:60] + b"\xff" * 40 + content[100:])
    elif damage == "pickle":
        np.savez(target, best_time=np.array([{"a": 1}], dtype=object))
    elif damage == "lzma":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("best_time.npy", content)
    elif damage == "encrypted":  # by one bit of the archive's directory
        place = content.rindex(b"PK\x01\x02") + 8
        target.write_bytes(content[:place] + bytes([content[place] | 1]) + content[place + 1 :])
    else:
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }".ljust(117) + b"\n"
        folder.save_artifact("x", lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header))
        target.unlink()
        shutil.make_archive(str(target.with_suffix("")), "zip", target.parent, "x")
        target.with_suffix(".zip").rename(target)
    with pytest.raises(RecordError, match=r"predictions\.npz: expected"):
        dict(read_run(folder.path).predictions())


def test_changed_and_missing_artifacts_are_noticed(tmp_path: Path) -> None:
    path = finished_run(tmp_path)
    artifacts = path / "artifacts"
    content = bytearray((artifacts / "predictions.npz").read_bytes())
    content[50] ^= 1
    (artifacts / "predictions.npz").write_bytes(content)
    (artifacts / "best_model.pt").unlink()
    run = read_run(path)
    assert run.problems == ()  # artifacts are only looked at when they are needed
    with pytest.raises(RecordError, match="changed since written"):
        run.predictions()
    assert run.changed_artifacts() == [
        "artifacts/best_model.pt: missing",
        "artifacts/predictions.npz: changed since written",
    ]
    (artifacts / "predictions.npz").unlink()
    with pytest.raises(FileNotFoundError, match="missing"):
        run.predictions()


def test_listed_files_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    path = finished_run(tmp_path)
    results = read_run(path).results
    files = {"../secret": "00", "/etc/hostname": "00", "artifacts/../../x": "00"}
    (path / "final_results.json").write_text(dataclasses.replace(results, files=files).to_json())
    lines = read_run(path).changed_artifacts()
    assert lines == [f"{name}: lies outside the run folder" for name in files]


def test_three_hundred_folders_are_read_in_two_seconds(tmp_path: Path) -> None:
    first = finished_run(tmp_path, epochs=60)
    for number in range(1, 300):
        shutil.copytree(first, tmp_path / f"copy_{number:03d}")
    start = time.process_time()  # of this process: the machine may be busy
    runs, problems = read_runs(tmp_path)
    seconds = time.process_time() - start
    assert len(runs) == 300 and problems == []
    assert seconds < 2.0
