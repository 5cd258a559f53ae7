"""The real command at tiny size, from datasets to leaderboards."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small_search import SMALL, SMALL_SPACES, start

import hyperparameter_config
import model_trainer
from hyperparameter_search import main
from search import workers

pytestmark = pytest.mark.usefixtures("small_spaces")


def search(data_root: Path, results: Path, *arguments: object) -> int:
    """Runs the command in this process."""
    try:
        return main([*SMALL, "--data_root", str(data_root), "--results_dir", str(results), *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code)


def run_folders(results: Path) -> list[Path]:
    return sorted(path.parent for path in results.glob("*/config.json"))


def final(folder: Path) -> dict[str, object]:
    return json.loads((folder / "final_results.json").read_text())


def errors_by_slot(results: Path) -> dict[int, dict[str, object]]:
    """Metrics by slot, without measured times."""
    timed = ("seconds", "inference_ms")
    found = {}
    for folder in run_folders(results):
        metrics = final(folder)["metrics"]
        slot = json.loads((folder / "config.json").read_text())["slot"]
        found[slot] = {name: value for name, value in metrics.items() if not any(t in name for t in timed)}
    return found


def finished_slots(results: Path) -> list[int]:
    """Slots of all finished runs, as often as they were finished."""
    slots = []
    for folder in run_folders(results):
        if (folder / "final_results.json").exists() and final(folder)["status"] in ("complete", "pruned", "failed"):
            slots.append(json.loads((folder / "config.json").read_text())["slot"])
    return sorted(slots)


def test_search_trains_writes_ranks_and_goes_on(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = Path("results")
    assert search(data_root, results, "--n_trials", 2) == 0
    text = capsys.readouterr().out
    assert "2 of 2 slots finished: 2 complete" in text
    assert re.search(r"training steps .* s \(\d+ %\), evaluation .* everything else", text)
    assert "--n_trials 4" in text
    assert "--rerun results/method_of_steps_mackey_" in text
    for folder in run_folders(results):
        config, metrics = json.loads((folder / "config.json").read_text()), final(folder)["metrics"]
        assert config["study"] == "method_of_steps_mackey_random"
        assert config["role"] == "trial"
        assert len((folder / "metrics.csv").read_text().splitlines()) == 3
        assert math.isfinite(metrics["val_rel_error"]) and math.isfinite(metrics["test_rel_error"])
        assert (folder / "artifacts" / "predictions.npz").exists()
    printed = text.split("use the best model:\n")[1].splitlines()[:5]
    exec("\n".join(line.strip() for line in printed), {})
    assert re.search(r"\d\.\d", capsys.readouterr().out)

    assert search(data_root, results, "--n_trials", 2) == 0
    assert len(run_folders(results)) == 2
    assert search(data_root, results, "--n_trials", 3) == 0
    assert finished_slots(results) == [0, 1, 2]


def test_search_gives_the_same_bits_when_interrupted_and_rerun_repeats_a_trial(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--search_type", "bayesian", "--n_trials", 3]
    assert search(data_root, tmp_path / "a", *arguments) == 0
    epochs, train_epoch = [], model_trainer.train_epoch

    def interrupted(*given: object) -> tuple[float, float]:
        epochs.append(1)
        if len(epochs) == 4:
            raise KeyboardInterrupt
        return train_epoch(*given)

    with monkeypatch.context() as patch:
        patch.setattr(model_trainer, "train_epoch", interrupted)
        search(data_root, tmp_path / "b", *arguments)
    assert finished_slots(tmp_path / "b") == [0]
    assert search(data_root, tmp_path / "b", *arguments) == 0
    assert errors_by_slot(tmp_path / "a") == errors_by_slot(tmp_path / "b")
    capsys.readouterr()
    folder = run_folders(tmp_path / "a")[1]
    assert search(data_root, tmp_path / "a", "--rerun", folder) == 0
    text = capsys.readouterr().out
    assert "identical, bit for bit" in text
    new = run_folders(tmp_path / "a")[-1]
    assert json.loads((new / "config.json").read_text())["role"] == "rerun"
    old_weights, new_weights = ((f / "artifacts" / "best_model.pt").exists() for f in (folder, new))
    assert old_weights and new_weights


def test_first_slot_holds_the_default_configuration(
    data_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert search(data_root, tmp_path, "--n_trials", 1) == 0
    values = json.loads((run_folders(tmp_path)[0] / "config.json").read_text())["hyperparameters"]
    assert values["learning_rate"] == model_trainer.TrainingSettings().learning_rate
    assert values["width"] == 8
    assert any("width: the default" in message for message in caplog.messages)


@pytest.mark.slow
def test_exactly_n_slots_after_kills_of_search_and_workers(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data_root", data_root, "--results_dir", tmp_path, "--n_trials", 5, "--max_epochs", 4]
    process = start(*SMALL, *arguments, "--n_workers", 2)
    wait_for(lambda: run_folders(tmp_path), process)
    children = psutil.Process(process.pid).children(recursive=True)
    next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
    wait_for(lambda: len(run_folders(tmp_path)) >= 2, process)
    process.kill()
    process.communicate()
    process, before = start(*SMALL, *arguments), len(run_folders(tmp_path))
    wait_for(lambda: len(run_folders(tmp_path)) > before, process)
    process.kill()
    process.communicate()
    assert search(data_root, tmp_path, "--n_trials", 5, "--max_epochs", 4) == 0
    assert "5 of 5 slots finished" in capsys.readouterr().out
    assert finished_slots(tmp_path) == list(range(5))


@pytest.mark.slow
def test_a_killed_trial_goes_on_from_its_last_epoch_bit_for_bit(data_root: Path, tmp_path: Path) -> None:
    arguments = ["--data_root", data_root, "--n_trials", 1, "--max_epochs", 12]
    killed = tmp_path / "killed"
    process = start(*SMALL, *arguments, "--results_dir", killed)
    wait_for(lambda: list(killed.glob("*/checkpoints/epoch-00000[4-9].pt")), process)
    process.kill()
    process.communicate()
    epochs = [path.read_text().count("\n") - 1 for path in killed.glob("*/metrics.csv")]
    assert 4 <= epochs[0] < 12
    for results in (killed, tmp_path / "whole"):
        process = start(*SMALL, *arguments, "--results_dir", results)
        err = process.communicate(timeout=60)[1]
        assert process.returncode == 0
        assert ("goes on after epoch" in err) == (results == killed)
    assert errors_by_slot(killed) == errors_by_slot(tmp_path / "whole")
    tables = []
    for results in (killed, tmp_path / "whole"):
        (folder,) = run_folders(results)
        assert not (folder / "checkpoints").exists()
        tables.append([row.split(",")[:5] for row in (folder / "metrics.csv").read_text().splitlines()])
    assert tables[0] == tables[1]
    assert len(tables[0]) == 13


def wait_for(condition: object, process: subprocess.Popen[str], seconds: float = 60) -> None:
    until = time.time() + seconds
    while not condition() and process.poll() is None:
        assert time.time() < until
        time.sleep(0.02)


def test_ctrl_c_stops_at_an_epoch_and_says_how_to_go_on(data_root: Path, tmp_path: Path) -> None:
    arguments = [*SMALL, "--data_root", data_root, "--results_dir", tmp_path, "--n_trials", 2, "--max_epochs", 500]
    process = start(*arguments, "--patience", 500)
    wait_for(lambda: any(len(f.read_text().splitlines()) > 1 for f in tmp_path.glob("*/metrics.csv")), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on where this ended:\n  python hyperparameter_search.py" in out
    assert "Traceback" not in err
    assert [final(folder)["status"] for folder in run_folders(tmp_path)] == ["interrupted"]


def test_grid_trains_different_cells_and_several_objectives_have_a_front(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objectives = "test_rel_error,n_parameters"
    arguments = ["--search_type", "grid", "--max_combinations", 3, "--objectives", objectives]
    assert search(data_root, tmp_path, *arguments) == 0
    text = capsys.readouterr().out
    assert "on the Pareto front of rel_error, n_parameters" in text
    assert "--max_combinations 6" in text
    cells = {
        (folder / "config.json").read_text().split('"hyperparameters"')[1].split("}")[0]
        for folder in run_folders(tmp_path)
    }
    assert len(cells) == 3


def test_confirmation_trains_the_best_again_with_fresh_seeds(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--n_trials", 2, "--confirm_top", 1, "--confirm_seeds", 2, "--max_epochs", 1]
    assert search(data_root, tmp_path, *arguments) == 0
    assert "with 2 fresh seeds: val" in capsys.readouterr().out
    configs = [json.loads((folder / "config.json").read_text()) for folder in run_folders(tmp_path)]
    confirmations = [config for config in configs if config["role"] == "confirmation"]
    assert len(confirmations) == 2
    assert {config["study"] for config in configs} == {"method_of_steps_mackey_random"}
    assert len({config["seed"] for config in configs}) == 4
    origin = next(c for c in configs if c["role"] == "trial" and c["slot"] == confirmations[0]["origin"])
    assert all(config["hyperparameters"] == origin["hyperparameters"] for config in confirmations)
    assert search(data_root, tmp_path, *arguments) == 0
    assert len(run_folders(tmp_path)) == 4


@pytest.mark.slow
def test_confirmations_of_several_slots_share_their_workers(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, start_worker = [], workers._start_worker
    monkeypatch.setattr(workers, "_start_worker", lambda *given: started.append(given) or start_worker(*given))
    arguments = ["--n_trials", 2, "--n_workers", 2, "--confirm_top", 2, "--confirm_seeds", 2, "--max_epochs", 1]
    assert search(data_root, tmp_path, *arguments) == 0
    configs = [json.loads((folder / "config.json").read_text()) for folder in run_folders(tmp_path)]
    seeds = sorted((config["origin"], config["slot"]) for config in configs if config["role"] == "confirmation")
    assert seeds == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len(started) <= 4  # two for the trials, two for all that came after


def test_diverging_trials_are_recorded_and_no_finished_one_means_exit_code_1(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space = SMALL_SPACES["method_of_steps"] | {"learning_rate": [1e30]}
    monkeypatch.setitem(hyperparameter_config.SEARCH_SPACES, "method_of_steps", space)
    assert search(data_root, tmp_path, "--n_trials", 2) == 1
    captured = capsys.readouterr()
    assert "2 failed (diverged" in captured.out
    assert "no trial finished" in captured.err
    assert {final(folder)["status"] for folder in run_folders(tmp_path)} == {"failed"}


def test_a_bug_is_recorded_with_its_traceback_and_stops_the_study(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(model_trainer, "train_epoch", lambda *arguments: 1 / 0)
        assert search(data_root, tmp_path, "--n_trials", 2) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    (folder,) = run_folders(tmp_path)
    assert "ZeroDivisionError" in final(folder)["traceback"]
    assert search(data_root, tmp_path, "--n_trials", 2) == 0  # mended, the same command goes on
    assert len(run_folders(tmp_path)) == 3


def test_dry_run_describes_the_space_and_writes_nothing(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(data_root.rglob("*"))
    assert search(data_root, tmp_path / "results", "--dry-run") == 0
    text = capsys.readouterr().out
    for expected in ("learning_rate", "0.0001 to 0.01 (log)", "fourier_modes_x: a scalar family", "cells", "24 traj"):
        assert expected in text
    assert not (tmp_path / "results").exists()
    assert sorted(data_root.rglob("*")) == before


def test_dry_run_in_the_default_root_makes_no_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--dry_run"]) == 0
    assert capsys.readouterr().out.count("none yet, the search makes it") == 12
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_was_started_differently_is_refused(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(data_root, tmp_path, "--n_trials", 1, "--max_epochs", 1) == 0
    assert search(data_root, tmp_path, "--n_trials", 1, "--max_epochs", 1, "--seed", 5) == 2
    assert "seed was 0, is 5" in capsys.readouterr().err
    assert search(data_root, tmp_path, "--n_trials", 1, "--max_epochs", 1, "--seed", 5, "--study", "new") == 0


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"width": [-32]}, ["SEARCH_SPACES['method_of_steps']['width']", "-32"]),
        ({"learning_rate": (1e-5, 1e-2)}, ["['learning_rate']", "(low, high, scale)"]),
        ({"wdith": [8]}, ["['wdith']", "width"]),
    ],
)
def test_a_bad_search_space_is_one_line(
    space: dict[str, object],
    words: list[str],
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(hyperparameter_config.SEARCH_SPACES, "method_of_steps", space)
    assert_refused(search(data_root, tmp_path / "results"), tmp_path / "results", capsys, words)


def assert_refused(code: int, results: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    message = capsys.readouterr().err
    assert code == 2
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert all(word in message for word in words), message
    assert not results.exists()


def test_bad_families_and_datasets_are_one_line(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert_refused(search(data_root, results, "--family", "lorenz"), results, capsys, ["--family", "mackey", "lorenz"])
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused(search(empty, results), results, capsys, ["mackey/train.h5", "python -m data.generate"])
    damaged = tmp_path / "damaged"
    shutil.copytree(data_root, damaged)
    path = damaged / "mackey" / "val.h5"
    path.write_bytes(path.read_bytes()[:-200])
    assert_refused(search(damaged, results), results, capsys, ["val.h5"])
    shutil.copy(data_root / "mackey" / "test.h5", path)
    assert_refused(search(damaged, results), results, capsys, ["val.h5", "test"])
    assert_refused(search(data_root, results, "--device", "tpu9"), results, capsys, ["--device"])
    assert_refused(search(data_root, results, "--rerun", tmp_path), results, capsys, ["--rerun", "config.json"])
    (tmp_path / "file").touch()
    assert search(data_root, tmp_path / "file") == 2


def test_a_syntax_error_in_the_search_space_is_one_line(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    shutil.copytree(root / "search", tmp_path / "search")
    shutil.copy(root / "hyperparameter_search.py", tmp_path)
    (tmp_path / "hyperparameter_config.py").write_text("SEARCH_SPACES = {\n    'a': (1 2),\n}\n")
    done = subprocess.run(
        [sys.executable, "hyperparameter_search.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "hyperparameter_config.py, line 2" in done.stderr
