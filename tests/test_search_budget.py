"""Searches that end before their last trial, begin with what is known, and keep their winner."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from runs import finished_run
from small_search import SMALL

import dno
from experiment_tracker import read_runs
from hyperparameter_config import Choice, Range, parse_space
from hyperparameter_search import main
from search.budget import enough
from search.command_line import parse_arguments
from search.leaderboard import Repetition, leaderboard_rows, with_flags
from search.plan import with_workers, workers_per_gpu
from search.slots import TrialEnd, claim, host_identity, owner_identity, reconcile, record_end
from search.storage import open_storage
from search.study import announce, spent
from search.warm_start import warm_starts

pytestmark = pytest.mark.usefixtures("small_spaces")


def search(data_root: Path, results: Path, *arguments: object) -> int:
    return main([*SMALL, "--data_root", str(data_root), "--results_dir", str(results), *map(str, arguments)])


def study_of(values: list[float | None]) -> optuna.Study:
    study = optuna.create_study()
    reconcile(study, len(values), lambda slot: {}, lambda trial: None)
    for value in values:
        end = TrialEnd("pruned", None, None, {}, {}) if value is None else TrialEnd("complete", None, (value,), {}, {})
        record_end(study, claim(study, "a:1:0.00").number, end)
    return study


@pytest.mark.parametrize(
    ("arguments", "values", "words"),
    [
        (["--target_error", "0.1"], [0.3, 0.2], None),
        (["--target_error", "0.1"], [0.3, 0.1], "0.1 reaches --target_error 0.1"),
        (["--stop_when_flat", "3"], [0.2, 0.3, 0.3, 0.15], None),
        (["--stop_when_flat", "3"], [0.2, 0.3, None, 0.1999], "the last 3 trials gained less than 1%"),
        (["--stop_when_flat", "3"], [0.2, 0.3, None], None),
        (["--stop_when_flat", "1"], [None, None], None),
        ([], [0.1, 0.1], None),
    ],
)
def test_enough_says_why(arguments: list[str], values: list[float | None], words: str | None) -> None:
    reason = enough(study_of(values), parse_arguments(arguments))
    assert reason is None if words is None else words in reason


def test_a_search_ends_at_its_target_and_keeps_its_winner(
    data_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("INFO"):
        assert search(data_root, tmp_path, "--n_trials", 9, "--target_error", 1e6) == 0
    board = capsys.readouterr().out
    assert "1 of 9 slots finished" in board
    command = board.split("go on all the same:\n")[1].split("\n")[0]
    assert "--n_trials 9" in command and "--target_error" not in command
    assert "reaches --target_error" in caplog.text
    place = tmp_path / "best" / "method_of_steps_mackey_random"
    runs, problems = read_runs(tmp_path)
    assert problems == []
    assert (place / "best_model.pt").read_bytes() == (runs[0].path / "artifacts" / "best_model.pt").read_bytes()
    card = (place / "MODEL_CARD.md").read_text()
    for words in (
        "method_of_steps on mackey",
        f"| test | {runs[0].results.metrics['test_rel_error']:.4g} |",
        "torch 2",
    ):
        assert words in card
    assert dno.load(place / "best_model.pt").spec.parameter_names == ("beta", "gamma", "n")


def test_the_timeout_stops_a_trial_at_an_epoch_and_the_same_command_goes_on(
    data_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--n_trials", 1, "--max_epochs", 4, "--patience", 50]
    with caplog.at_level("INFO"):
        assert search(data_root, tmp_path, *arguments, "--timeout", 1e-4) == 1  # nothing is complete yet
    assert "--timeout are over" in caplog.text
    assert search(data_root, tmp_path, *arguments) == 0
    statuses = [json.loads(p.read_text())["status"] for p in tmp_path.glob("*/final_results.json")]
    assert statuses == ["complete"]


def test_a_warm_start_takes_the_best_of_each_family_into_the_space(tmp_path: Path) -> None:
    for family, error in (("neutral", 0.3), ("neutral", 0.1), ("mackey", 0.2)):
        path = finished_run(tmp_path)
        config = json.loads((path / "config.json").read_text())
        config |= {"family": family, "hyperparameters": {"learning_rate": error / 100, "width": 999}}
        (path / "config.json").write_text(json.dumps(config))
        results = json.loads((path / "final_results.json").read_text())
        results["metrics"]["val_rel_error"] = error
        (path / "final_results.json").write_text(json.dumps(results))
    found = warm_starts(tmp_path, "new", "memory_kernel", parse_space("memory_kernel"))
    assert sorted(parameters["learning_rate"] for parameters in found) == [0.001, 0.002]
    assert all(parameters["width"] == 8 for parameters in found)
    with pytest.raises(ValueError, match="holds no complete trial of stacked_history"):
        warm_starts(tmp_path, "new", "stacked_history", parse_space("stacked_history"))
    with pytest.raises(ValueError, match="in another study"):
        warm_starts(tmp_path, json.loads((path / "config.json").read_text())["study"], "memory_kernel", {})


def test_workers_follow_the_cores_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(3)))
    memory = SimpleNamespace(available=7 * 2**30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    asked = ["--device", "cpu", "--n_workers", "auto", "--family"]
    assert with_workers(parse_arguments([*asked, "mackey"])).n_workers == 3
    assert with_workers(parse_arguments([*asked, "reaction_diffusion"])).n_workers == 2
    memory.available = 2**29
    assert with_workers(parse_arguments([*asked, "mackey"])).n_workers == 1
    assert with_workers(parse_arguments(["--n_workers", "7"])).n_workers == 7


def test_trainings_share_a_gpu_where_they_run_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert [workers_per_gpu(None, cores) for cores in (1, 16)] == [1, 1]
    assert workers_per_gpu(3, 16) == 3 and "nvidia-cuda-mps-control -d" in caplog.text
    caplog.clear()
    (tmp_path / "control").touch()
    assert [workers_per_gpu(None, cores) for cores in (0, 4, 64)] == [1, 4, 16]
    assert workers_per_gpu(3, 16) == 3 and not caplog.text


def test_confirmed_trials_are_ranked_by_their_repetitions(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert search(data_root, tmp_path, "--n_trials", 3, "--confirm_top", 2, "--confirm_seeds", 2) == 0
    told = [line for line in caplog.messages if re.match(r"confirmation of slot \d, seed \d: complete", line)]
    assert len(set(told)) == 4
    told_again = [line for line in capsys.readouterr().out.splitlines() if "with 2 fresh seeds" in line]
    again = [float(line.split("val ")[1].split()[0]) for line in told_again]
    assert len(again) == 2 and again == sorted(again)
    best = tmp_path / "best" / "method_of_steps_mackey_random"
    assert (
        "2 fresh seeds" in (best / "MODEL_CARD.md").read_text()
        and "predict_with_error" in (best / "MODEL_CARD.md").read_text()
    )
    ensemble = dno.load(best / "ensemble.pt")
    assert len(ensemble.members) == 2 and ensemble.error_factor > 0
    written, card = (best / "ensemble.pt").stat().st_mtime_ns, (best / "MODEL_CARD.md").read_text()
    for top in (2, 1, 0):  # what earlier commands confirmed stays known
        assert search(data_root, tmp_path, "--n_trials", 3, "--confirm_top", top, "--confirm_seeds", 2) == 0
        assert [line for line in capsys.readouterr().out.splitlines() if "with 2 fresh seeds" in line] == told_again
    assert (best / "ensemble.pt").stat().st_mtime_ns == written  # what is known is not made again
    assert (best / "MODEL_CARD.md").read_text() == card


def test_fewer_trials_and_other_studies_leave_the_winner_where_it_is(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(data_root, tmp_path, "--n_trials", 3) == 0
    best = tmp_path / "best" / "method_of_steps_mackey_random" / "best_model.pt"
    model, board = best.read_bytes(), capsys.readouterr().out.split("time: ")[0]
    assert f"dno.load({str(best)!r})" not in board and "3 of 3 slots finished: 3 complete" in board
    for more in (["--n_trials", 1], ["--n_trials", 1, "--study", "tiny", "--max_epochs", 1]):
        assert search(data_root, tmp_path, *more) == 0
        assert best.read_bytes() == model
    fewer, tiny = capsys.readouterr().out.split("tiny: ")
    assert fewer.startswith(board) and "1 of 1 slots finished" in tiny
    assert f"dno.load({str(tmp_path / 'best' / 'tiny' / 'best_model.pt')!r})" in tiny


def test_a_space_with_fewer_configurations_than_trials_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    space = {"width": Choice((8, 16)), "n_layers": Range(1, 2, "int")}
    named = {"model": "memory_kernel", "family": "mackey", "space": space, "dropped": (), "changes": ()}
    plan = SimpleNamespace(**named, n_slots=5, max_epochs=1, max_seconds=None)
    options = with_workers(parse_arguments(["--n_workers", "1", "--max_epochs", "1"]))
    with caplog.at_level("INFO"):
        announce([plan], options)
    assert "1 study, 5 trials of at most 1 epoch; roughly 1 min with 1 worker, less" in caplog.text
    assert "memory_kernel on mackey: the space holds 4 configurations; later trials repeat one" in caplog.text


def test_seconds_of_other_machines_and_of_earlier_commands_are_not_counted() -> None:
    study = optuna.create_study()
    reconcile(study, 4, lambda slot: {}, lambda trial: None)
    before = f"{host_identity()}:1:1.00"
    for owner in (owner_identity(), "elsewhere:1:9e9", before, owner_identity()):
        end = TrialEnd("complete", None, (0.1,), {}, {"training": 2.0, "evaluation": 1.0})
        record_end(study, claim(study, owner).number, end)
    times = spent(SimpleNamespace(study=study, options=SimpleNamespace(n_workers=1)), [], 0.0, 0.0)
    assert (times.training, times.evaluation) == (4.0, 2.0)


def test_confirmations_rank_by_the_first_of_several_objectives_whichever_way_it_goes() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    reconcile(study, 3, lambda slot: {}, lambda trial: None)
    for values in ((0.9, 1.0), (0.8, 0.5), (0.1, 9.0)):
        record_end(study, claim(study, "a:1:0.00").number, TrialEnd("complete", None, values, {}, {}))
    plan = SimpleNamespace(space={}, objectives=("valid_time", "n_parameters"))
    assert [row.slot for row in leaderboard_rows(study, plan)] == [0, 1, 2]
    confirmed = {0: [Repetition(0.2, 0.1, 0.1)], 1: [Repetition(0.5, 0.3, 0.3), Repetition(0.7, 0.3, 0.3)]}
    assert [row.slot for row in leaderboard_rows(study, plan, confirmed)] == [1, 0, 2]


def test_values_that_read_like_flags_stay_in_the_next_command() -> None:
    given = ["--study", "target_error", "--target-error", "0.1", "--n_trials=4", "--stop_when_flat=3"]
    command = with_flags(given, target_error=None, stop_when_flat=None, n_trials=8)
    assert command == "python hyperparameter_search.py --study target_error --n_trials 8"


def test_a_study_of_another_program_is_refused_in_one_line(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = optuna.create_study(study_name="method_of_steps_mackey_random", storage=open_storage(tmp_path))
    study.add_trial(optuna.trial.create_trial(value=1.0))
    assert search(data_root, tmp_path, "--n_trials", 1) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "was made by another program" in err and "--study NEW" in err
