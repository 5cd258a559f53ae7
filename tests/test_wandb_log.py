"""W&B logs every epoch, goes offline by itself, and never stops a search or asks anybody."""

import dataclasses
import json
import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from offline_runs import offline_folders, read_offline_run
from runs import CONFIG, RESULTS, epoch

from experiment_tracker import (
    NullWandb,
    RunFolder,
    StudyHead,
    StudyLog,
    WandbLogger,
    WandbSettings,
    open_wandb,
)
from tests.wandb_server import Server
from tracking import wandb_log

ROOT = Path(__file__).parent.parent
HEAD = StudyHead("0123456789abcdef", "study", ("mackey",), {"seed": 0}, ("search/val", "search/pruned"))
STUDY = StudyLog(("slot", "status", "val"), [[0, "complete", 0.2], [1, None, math.nan]], {"best": 0.2})


@pytest.fixture
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nobody is logged in to W&B, and the working folder is an empty one, which is returned."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(home))
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    return working


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("tracking")]


def log_trial(wandb: WandbLogger | NullWandb, results_dir: Path, slot: int, epochs: int) -> None:
    config = dataclasses.replace(CONFIG, slot=slot)
    folder = RunFolder.create(results_dir, config)
    wandb.start_trial(config)
    for number in range(1, epochs + 1):
        folder.append_epoch(epoch(number))
        wandb.log_epoch(epoch(number))
    folder.save_artifact("best_model.pt", lambda path: path.write_bytes(b"weights"))
    folder.save_artifact("rollout.png", lambda path: path.write_bytes(b"picture"))
    wandb.finish_trial(folder.finish(RESULTS), folder.path)


def test_wandb_logs_every_epoch_of_every_trial_and_the_study(logged_out: Path, tmp_path: Path) -> None:
    results_dir = tmp_path / "results"
    wandb = open_wandb(WandbSettings("offline", "dno-search", "None", results_dir))
    assert wandb.start_study(HEAD) == 0
    for slot in (0, 1):
        log_trial(wandb, results_dir, slot, epochs=40 + slot)
        wandb.log_row({"trial": slot + 1, "search/val": 0.3 - slot / 10})  # beside the trials' runs
    wandb.finish_study(STUDY)
    wandb.close()
    runs = {run.name: run for run in map(read_offline_run, offline_folders(results_dir))}
    assert sorted(runs) == ["study", "trial-0000", "trial-0001"]
    for slot in (0, 1):
        run = runs[f"trial-{slot:04d}"]
        assert [row["epoch"] for row in run.history] == list(range(1, 41 + slot))
        assert [row["train/loss"] for row in run.history] == [1 / n for n in range(1, 41 + slot)]
        assert [row["epoch"] for row in run.history if "val/rel_error" in row] == list(range(2, 41 + slot, 2))
        assert {"lr", "grad_norm", "epoch_time"} <= set(run.history[0])
        assert (run.group, run.job_type, run.project, run.entity) == (CONFIG.study, "trial", "dno-search", "")
        assert run.tags == ["memory_kernel", "mackey", "random"]
        assert run.config["width"] == 64 and run.config["slot"] == slot and run.config["log_state"] is True
        assert not any(isinstance(value, dict | list) for key, value in run.config.items() if key != "_wandb")
        assert all(run.steps[name] == "epoch" for name in ("train/*", "val/*", "lr", "grad_norm", "epoch_time"))
        expected = {"best_val": 0.2, "best_epoch": 2, "test_rel_error": 0.25, "rollout_error": 0.5, "n_params": 1234}
        assert expected.items() <= run.summary.items() and run.summary["status"] == "complete"
        assert run.artifacts == {"model": ["best_model.pt"], "pictures": ["rollout.png"]}
        assert run.exit_code == 0
    study = runs["study"]
    assert (study.group, study.job_type, study.summary["best"]) == ("study", "study", 0.2)
    assert study.tags == ["study", "mackey"] and study.steps["search/val"] == "trial"
    assert study.steps["search/pruned"] == "trial" and study.exit_code == 0
    assert [row["search/val"] for row in study.history if "search/val" in row] == [0.3, 0.3 - 1 / 10]
    (table,) = results_dir.glob("wandb/offline-run-*/files/media/table/*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["slot", "status", "val"]
    assert content["data"] == [[0, "complete", 0.2], [1, None, None]]
    assert list(logged_out.iterdir()) == []
    assert (
        not (tmp_path / "home" / ".local").exists()
        and not (tmp_path / "home" / ".cache" / "wandb" / "artifacts").exists()
    )


def test_wandb_goes_offline_in_one_line_when_nobody_is_logged_in(
    logged_out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tracking")
    wandb = open_wandb(WandbSettings("online", "dno-search", None, tmp_path / "results"))
    log_trial(wandb, tmp_path / "results", 0, epochs=2)
    wandb.close()
    (line,) = ours(caplog)
    assert "not logged in, so runs are logged offline" in line
    (folder,) = offline_folders(tmp_path / "results")
    assert len(read_offline_run(folder).history) == 2


def test_wandb_never_asks_on_a_terminal(logged_out: Path, tmp_path: Path) -> None:
    code = (
        "from experiment_tracker import WandbSettings, choose_wandb_mode; from pathlib import Path;"
        "print(choose_wandb_mode(WandbSettings('online', 'p', 'none', Path('.'))))"
    )
    primary, secondary = os.openpty()  # a terminal at which nobody sits
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    end = subprocess.run(
        command, stdin=secondary, stderr=secondary, stdout=subprocess.PIPE, env=environment, timeout=30, text=True
    )
    os.close(primary)
    os.close(secondary)
    assert "mode='offline'" in end.stdout and "entity=None" in end.stdout


def test_wandb_goes_offline_when_the_key_is_wrong(
    logged_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tracking")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    wandb = open_wandb(WandbSettings("online", "p", None, tmp_path))
    assert wandb.settings.mode == "offline"
    (line,) = ours(caplog)
    assert "WANDB_API_KEY invalid" in line


def test_wandb_mode_of_the_environment_replaces_online(
    logged_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert isinstance(open_wandb(WandbSettings("online", "p", None, tmp_path)), NullWandb)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert open_wandb(WandbSettings("online", "p", None, tmp_path)).settings.mode == "offline"


def test_wandb_stays_offline_once_the_server_cannot_be_reached(
    logged_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wandb_log, "INIT_SECONDS", 1.0)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    wandb = WandbLogger(WandbSettings("online", "p", None, tmp_path))
    assert wandb.settings.mode == "online"
    for slot in (0, 1):
        log_trial(wandb, tmp_path, slot, epochs=5)
    wandb.close()
    (line,) = ours(caplog)
    assert "cannot start a run" in line and "logging offline" in line
    runs = {run.name: run for run in map(read_offline_run, offline_folders(tmp_path))}
    assert {name: len(run.history) for name, run in runs.items()} == {"trial-0000": 5, "trial-0001": 5}


def test_wandb_that_dies_costs_one_line_and_the_next_run_is_logged(
    logged_out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = WandbLogger(WandbSettings("offline", "p", None, tmp_path))
    wandb.start_trial(CONFIG)
    for process in psutil.Process().children(recursive=True):
        if "wandb" in process.name():
            process.kill()
            process.wait()
    for number in (1, 2):
        wandb.log_epoch(epoch(number))
    wandb.finish_trial(RESULTS)
    (line,) = ours(caplog)
    assert "broke off the run trial-0007" in line
    log_trial(wandb, tmp_path, 8, epochs=3)
    wandb.close()
    runs = {run.name: run for run in map(read_offline_run, offline_folders(tmp_path))}
    assert len(runs["trial-0008"].history) == 3


def test_study_run_goes_on_where_the_server_left_it(
    logged_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(summary={"trial": 5, "search/val": 0.3})
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    wandb = open_wandb(WandbSettings("online", "p", None, tmp_path))
    assert wandb.start_study(HEAD) == 5
    wandb.log_row({"trial": 6, "search/val": 0.2})
    wandb.finish_study(None)
    wandb.close()
    server.die()
    (folder,) = (tmp_path / "wandb").glob(f"run-*-{HEAD.id}")
    (row,) = read_offline_run(folder).history
    assert (row["trial"], row["search/val"]) == (6, 0.2)
    assert any("search/val" in text for text in server.streamed)


def test_run_of_a_trial_goes_on_where_the_server_left_it(
    logged_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(summary={"epoch": 5})
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    wandb = open_wandb(WandbSettings("online", "p", None, tmp_path))
    for _ in range(2):  # killed, and going on
        wandb.start_trial(CONFIG, "a_run_folder")
        for number in range(1, 8):
            wandb.log_epoch(epoch(number))
        time.sleep(1.1)  # W&B names folders by the second
    wandb.close()
    server.die()
    runs = sorted((tmp_path / "wandb").glob("run-*-*"))
    assert len({folder.name.rsplit("-", 1)[1] for folder in runs}) == 1
    assert [[row["epoch"] for row in read_offline_run(folder).history] for folder in runs] == [[6, 7]] * len(runs)


def test_study_run_that_breaks_off_costs_one_line_and_can_begin_again(
    logged_out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = WandbLogger(WandbSettings("offline", "p", None, tmp_path))
    wandb.start_study(HEAD)
    for process in psutil.Process().children(recursive=True):
        if "wandb" in process.name():
            process.kill()
            process.wait()
    for number in (1, 2):
        wandb.log_row({"trial": number, "search/val": 0.3})
    (line,) = ours(caplog)
    assert "broke off the run study" in line and not wandb.is_study_open()
    wandb.start_study(HEAD)
    wandb.log_row({"trial": 1, "search/val": 0.3})
    wandb.finish_study(STUDY)
    wandb.close()
    runs = [read_offline_run(folder) for folder in offline_folders(tmp_path)]
    assert any(run.summary.get("best") == 0.2 for run in runs) and len(ours(caplog)) == 1


def test_wandb_service_of_a_parent_that_is_gone_costs_one_run(
    logged_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from pathlib import Path; from experiment_tracker import *; from runs import CONFIG, RESULTS\n"
        f"wandb = open_wandb(WandbSettings('offline', 'p', None, Path({str(tmp_path)!r})))\n"
        "for _ in range(2): wandb.start_trial(CONFIG); wandb.finish_trial(RESULTS)\n"
        "wandb.close()"
    )
    gone = {"WANDB_SERVICE": f"3-1-unix-{tmp_path}/socket", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    end = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | gone, capture_output=True, text=True, check=True
    )
    assert end.stderr.count("W&B cannot start a run") == 1
    logged = [folder for folder in offline_folders(tmp_path) if list(folder.glob("*.wandb"))]
    assert [read_offline_run(folder).exit_code for folder in logged] == [0]


def test_wandb_disabled_logs_nothing_and_imports_nothing(logged_out: Path, tmp_path: Path) -> None:
    wandb = open_wandb(WandbSettings("disabled", "p", None, tmp_path / "results"))
    assert isinstance(wandb, NullWandb)
    log_trial(wandb, tmp_path / "results", 0, epochs=1)
    assert wandb.start_study(HEAD) == 0 and not wandb.is_study_open()
    wandb.log_row({"trial": 1})
    wandb.finish_study(STUDY)
    wandb.close()
    assert not (tmp_path / "results" / "wandb").exists()
    code = "import sys, experiment_tracker; assert 'wandb' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_wandb_cuts_long_tags_and_cleans_names(logged_out: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, family="f" * 100, study="a study/with: signs " + "s" * 150)
    folder = RunFolder.create(tmp_path, config)
    folder.save_artifact("best_model.pt", lambda path: path.write_bytes(b"weights"))
    wandb = WandbLogger(WandbSettings("offline", "p", "None", tmp_path))
    wandb.start_trial(config)
    wandb.finish_trial(folder.finish(RESULTS), folder.path)
    wandb.close()
    (run,) = map(read_offline_run, offline_folders(tmp_path))
    assert "f" * 64 in run.tags and run.artifacts == {"model": ["best_model.pt"]}


def test_wandb_settings_refuse_an_unknown_mode(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--wandb_mode: expected one of online, offline, disabled, got 'on'"):
        WandbSettings("on", "p", None, tmp_path)
