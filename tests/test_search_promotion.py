"""Promotion: trials pause at rungs, and the best third of each goes on, no epoch trained twice."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from small_search import SMALL

import hyperparameter_search
from data.batches import load_family
from search.command_line import parse_arguments
from search.plan import plan_study
from search.promotion import goes_on, promoted, rungs
from search.slots import TrialEnd, finisher, reconcile, record_end, trials_by_slot
from search.storage import open_storage

EPOCHS, RUNG = 9, 3


def trial(errors: dict[int, float], state: TrialState = TrialState.PRUNED) -> optuna.trial.FrozenTrial:
    """A trial of these errors by epoch, as a study holds it."""
    value = min(errors.values()) if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, intermediate_values=errors)


def test_rungs_are_a_ninth_and_a_third_of_all_epochs() -> None:
    assert rungs(200) == (22, 66) and rungs(30) == (3, 10) and rungs(9) == (3,) and rungs(8) == ()


def test_the_best_third_of_a_rung_goes_on_at_once_and_always_the_best() -> None:
    slots = {slot: [trial({RUNG: error})] for slot, error in enumerate([0.5, 0.3, 0.7, 0.6, 0.8])}
    assert goes_on(slots, 1, RUNG) and not goes_on(slots, 0, RUNG)
    assert goes_on(slots | {5: [trial({RUNG: 0.4})]}, 5, RUNG)  # the second of six
    assert not goes_on(slots | {5: [trial({RUNG: 0.55})]}, 5, RUNG)
    assert goes_on({0: [trial({RUNG: 0.2})]}, 0, RUNG)


def test_a_paused_trial_is_promoted_once_it_belongs_to_the_best_third() -> None:
    slots = {0: [trial({RUNG: 0.3}, TrialState.RUNNING)], 1: [trial({RUNG: 0.5})], 2: [trial({RUNG: 0.4})]}
    assert promoted(slots, 9, (RUNG,)) == []
    slots |= {slot: [trial({RUNG: 0.2 * slot})] for slot in (3, 4, 5)}
    assert promoted(slots, 9, (RUNG,)) == [2]  # two may have gone on, slot 0 is one of them
    assert promoted(slots, 2, (RUNG,)) == []


def test_the_error_at_a_rung_is_the_least_until_then() -> None:
    slots = {0: [trial({1: 0.1, RUNG: 0.9})], 1: [trial({RUNG: 0.5})], 2: [trial({RUNG: 0.6, 5: 0.01})]}
    assert promoted(slots, 9, (RUNG,)) == [0]


def test_the_next_best_goes_on_where_the_best_has_failed() -> None:
    failed = create_trial(state=TrialState.FAIL, intermediate_values={RUNG: 0.1}, user_attrs={"end": "failed"})
    killed = create_trial(state=TrialState.FAIL, intermediate_values={RUNG: 0.1}, user_attrs={"end": "killed"})
    slots = {1: [trial({RUNG: 0.3})], 2: [trial({RUNG: 0.2})]}
    assert promoted(slots | {0: [failed]}, 9, (RUNG,)) == [2]
    assert promoted(slots | {0: [killed]}, 9, (RUNG,)) == []


def test_reconcile_reopens_a_promoted_slot_where_it_stopped(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(tmp_path))
    for slot in range(3):
        study.enqueue_trial({"x": 0.1 * slot}, user_attrs={"slot": slot, "attempt": 0})
        one = study.ask()
        one.suggest_float("x", 0, 1)
        for key, value in (("sampled", True), ("run_folder", f"run{slot}")):
            one.set_user_attr(key, value)
        one.report(0.5 - 0.1 * slot, RUNG)
        record_end(study, one.number, TrialEnd("pruned", None, None, {}, {}))
    tally = reconcile(study, 3, lambda _: {}, lambda _: None, promoted=lambda slots: promoted(slots, 3, (RUNG,)))
    assert (tally.finished, tally.waiting) == (2, 1)
    again = trials_by_slot(study)[2][-1]
    assert again.state == TrialState.WAITING
    assert again.system_attrs["fixed_params"] == {"x": 0.2} and again.user_attrs["run_folder"] == "run2"
    assert finisher(trials_by_slot(study)[2]) is None


def test_only_a_study_that_pauses_goes_on_with_pruned_slots(data_root: Path) -> None:
    options = parse_arguments(["--data_root", str(data_root), "--max_epochs", str(EPOCHS)])
    plan = plan_study("memory_kernel", {}, load_family("mackey", data_root, "cpu"), options, is_only=True)
    assert plan.pauses() and not replace(plan, pruner="hyperband").pauses()
    confirmation = replace(plan, origin=0)
    assert not confirmation.pauses() and confirmation.rungs() == (RUNG,)


def test_promote_is_the_default_where_trials_are_compared_by_epochs() -> None:
    assert parse_arguments([]).pruner == "promote"
    assert parse_arguments(["--max_seconds", "5"]).pruner == "hyperband"


@pytest.mark.usefixtures("small_spaces")
@pytest.mark.parametrize("n_workers", [1, 2])
def test_search_that_promotes_trains_no_epoch_twice(
    data_root: Path, tmp_path: Path, n_workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*SMALL, "--data_root", data_root, "--results_dir", tmp_path, "--max_epochs", EPOCHS]
    flags += ["--pruner", "promote", "--n_trials", 6, "--search_type", "bayesian", "--n_workers", n_workers]
    assert hyperparameter_search.main(list(map(str, flags))) == 0
    assert "6 of 6 slots finished" in capsys.readouterr().out
    folders = sorted(path.parent for path in tmp_path.glob("*/final_results.json"))
    assert len(folders) == 6
    at_rung, reached = {}, {}
    for folder in folders:
        rows = list(csv.DictReader((folder / "metrics.csv").open()))
        assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
        status = json.loads((folder / "final_results.json").read_text())["status"]
        assert (status, len(rows)) in (("pruned", RUNG), ("complete", EPOCHS))
        at_rung[folder.name] = min(float(row["val_rel_error"]) for row in rows[:RUNG] if row["val_rel_error"])
        reached[folder.name] = len(rows)
    best = sorted(at_rung, key=at_rung.__getitem__)[:2]
    assert all(reached[name] == EPOCHS for name in best)
    assert 2 <= sum(epochs == EPOCHS for epochs in reached.values()) <= 5  # some were overtaken later
    complete = next(folder for folder in folders if reached[folder.name] == EPOCHS)
    again = [*map(str, ("--rerun", complete, "--data_root", data_root, "--results_dir", tmp_path))]
    assert hyperparameter_search.main([*again, "--wandb_mode", "disabled"]) == 0
    assert "identical, bit for bit" in capsys.readouterr().out  # paused and continued, or in one go


@pytest.mark.usefixtures("small_spaces")
def test_promotion_goes_by_epochs_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        hyperparameter_search.main(["--pruner", "promote", "--max_seconds", "5"])
    assert stop.value.code == 2 and "leave out --max_seconds" in capsys.readouterr().err
