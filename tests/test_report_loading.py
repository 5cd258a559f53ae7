"""The tables that the report starts from, read from real run folders."""

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from report import ReportError, page, tables
from report.analysis import Analysis
from report.loading import load, metric_columns, parameter_columns, predictions
from report.metrics import resolve_metric
from tests.run_folders import hyperparameters, make_results, make_run, run_config


@pytest.fixture(scope="module")
def results_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loading") / "results"
    make_results(folder, models=["method_of_steps", "memory_kernel"], families=["mackey"], trials=6)
    return folder


def test_load_gives_a_row_per_run_with_its_metrics_and_hyperparameters(results_dir):
    results = load(results_dir)
    assert len(results.runs) == 2 * (6 + 2)
    assert results.problems == ()
    run = results.runs.iloc[0]
    stored = json.loads((results_dir / run["run"] / "final_results.json").read_text())["metrics"]
    config = json.loads((results_dir / run["run"] / "config.json").read_text())
    assert run["test_rel_error"] == stored["test_rel_error"]
    for name, value in config["hyperparameters"].items():
        assert run[f"param_{name}"] == value
    assert "test_by_interval" not in results.runs


def test_load_keeps_metrics_and_hyperparameters_apart(results_dir):
    runs = load(results_dir).runs
    metrics, parameters = set(metric_columns(runs)), set(parameter_columns(runs))
    assert not metrics & parameters
    assert {"val_rel_error", "test_rel_error", "rollout_error", "stability_score", "train_seconds"} <= metrics
    assert "seed" not in metrics | parameters


def test_epochs_hold_every_row_of_metrics_csv(results_dir):
    results = load(results_dir)
    written = sum(len(path.read_text().splitlines()) - 1 for path in results_dir.glob("*/metrics.csv"))
    assert len(results.epochs) == written
    assert set(results.epochs["run"]) == set(results.runs["run"])


def test_confirmations_share_the_configuration_of_their_trial(results_dir):
    runs = load(results_dir, models=["memory_kernel"]).runs
    confirmations = runs[runs["role"] == "confirmation"]
    assert list(confirmations["configuration"]) == ["slot 0", "slot 0"]


def test_load_restricts_to_what_is_named(results_dir):
    assert set(load(results_dir, models=["memory_kernel"]).runs["model"]) == {"memory_kernel"}
    since = load(results_dir, since=datetime(2026, 1, 2, 3, 4, tzinfo=UTC)).runs
    assert set(since["slot"]) == {4, 5, 6, 7}


@pytest.mark.parametrize(
    "wanted", [{"models": ["nobody"]}, {"families": ["nowhere"]}, {"since": datetime(2099, 1, 1, tzinfo=UTC)}]
)
def test_load_says_what_there_is_when_nothing_is_left(results_dir, wanted):
    with pytest.raises(ReportError, match=r"16 runs.*method_of_steps on mackey") as error:
        load(results_dir, **wanted)
    assert "\n" not in str(error.value)


def test_load_refuses_missing_and_empty_folders_in_one_line(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(ReportError, match="--results_dir") as error:
            load(folder)
        assert "\n" not in str(error.value)


def test_load_tells_searches_of_one_study_name_apart(tmp_path):
    generator = np.random.default_rng(0)
    for model in ("method_of_steps", "memory_kernel"):
        values = hyperparameters(generator, spatial=False)
        make_run(tmp_path, run_config(model, "mackey", 0, values, study="mine"), "complete", generator)
    assert set(load(tmp_path).runs["study"]) == {"mine_method_of_steps_mackey", "mine_memory_kernel_mackey"}


def test_load_survives_damaged_and_foreign_folders_with_a_line_each(results_dir, tmp_path):
    generator = np.random.default_rng(1)
    values = hyperparameters(generator, spatial=False)
    paths = [
        make_run(tmp_path, run_config("memory_kernel", "mackey", n, values), "complete", generator) for n in range(4)
    ]
    (paths[0] / "config.json").write_text("{")
    text = (paths[1] / "final_results.json").read_text()
    (paths[1] / "final_results.json").write_text(text[: len(text) // 2])
    with open(paths[2] / "metrics.csv", "a") as handle:
        handle.write("not,a,row")
    (tmp_path / "holiday").mkdir()
    results = load(tmp_path)
    assert paths[3].name in set(results.runs["run"]) and paths[0].name not in set(results.runs["run"])
    for path in paths[:3]:
        assert sum(path.name in problem for problem in results.problems) == 1
    assert all("\n" not in problem for problem in results.problems)


def test_predictions_of_a_damaged_file_are_a_line(tmp_path):
    generator = np.random.default_rng(2)
    values = hyperparameters(generator, spatial=False)
    path = make_run(tmp_path, run_config("memory_kernel", "mackey", 0, values), "complete", generator)
    arrays, problem = predictions(path)
    assert problem is None and arrays["best_truth"].shape == (320, 1)
    (path / "artifacts" / "predictions.npz").write_bytes(b"PK")
    arrays, problem = predictions(path)
    assert arrays == {} and path.name in problem and "\n" not in problem


def test_metric_is_shown_on_test_and_chosen_on_validation():
    columns = ["val_rel_error", "test_rel_error", "rollout_error", "val_rollout_error", "tau_rel_error", "n_parameters"]
    shown = {name: resolve_metric(name, columns) for name in ("rel_error", "test_rel_error", *columns[2:])}
    assert (shown["rel_error"].column, shown["rel_error"].ranking) == ("test_rel_error", "val_rel_error")
    assert shown["test_rel_error"] == shown["rel_error"]
    assert shown["rollout_error"].ranking == "val_rollout_error"
    assert shown["tau_rel_error"].ranking == "val_rel_error"
    assert shown["n_parameters"].ranking == "n_parameters"
    with pytest.raises(ReportError, match=r"--metric nonsense: expected one of .*tau_rel_error"):
        resolve_metric("nonsense", columns)


@pytest.mark.parametrize(("rungs", "ending"), [([4, 10], "paused"), ([4, 13], "pruned"), ([], "pruned")])
def test_pruned_run_that_ends_at_a_rung_is_counted_as_paused(tmp_path, rungs, ending):
    generator = np.random.default_rng(0)
    config = run_config("memory_kernel", "mackey", 0, hyperparameters(generator, spatial=False), rungs=rungs)
    make_run(tmp_path, config, "pruned", generator)  # after ten epochs
    runs = load(tmp_path).runs
    assert runs["status"].tolist() == ["pruned"]
    assert tables.counts(runs).iloc[0][["paused", "pruned"]].sum() == tables.counts(runs).iloc[0][ending] == 1
    analysis = Analysis(runs, pd.DataFrame(), resolve_metric("rel_error", runs.columns))
    assert f": 1 {ending}." in page._runs_sentence(analysis, "here")
