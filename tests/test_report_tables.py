"""The pure tables behind the figures."""

import json
import math

import numpy as np
import optuna
import pandas as pd
import pytest

from report import comparison, convergence, figures, heatmaps, interactive, style, tables, trajectories, writing
from report.analysis import Analysis
from report.answer import caution, contradiction
from report.importance import importance
from report.loading import load
from report.metrics import Metric, resolve_metric
from report.studies import distribution, rebuild
from report.style import number
from tests.run_folders import make_results, predictions

ROLES = ("trial", "rerun")
WHOLE = {"x": optuna.distributions.IntDistribution(0, 9)}
METRIC = Metric("test_rel_error", "val_rel_error")


def run_rows(*rows: dict) -> pd.DataFrame:
    """Runs with the columns that tables of configurations need."""
    common = {"study": "s", "family": "f", "model": "m", "status": "complete", "role": "trial", "run": "r", "path": "p"}
    return pd.DataFrame([common | row for row in rows])


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables") / "results"
    make_results(folder, models=["method_of_steps"], families=["mackey"], trials=40, confirmations=0, seed=3)
    results = load(folder)
    return Analysis(results.runs, results.epochs, resolve_metric("rel_error", results.runs.columns))


def test_best_is_chosen_by_validation_not_by_test():
    runs = run_rows(
        {"configuration": "a", "run": "a", "val_rel_error": 0.1, "test_rel_error": 0.5},
        {"configuration": "b", "run": "b", "val_rel_error": 0.2, "test_rel_error": 0.1},
    )
    assert tables.best_by_family(tables.configurations(runs, METRIC), METRIC)["run"].tolist() == ["a"]


def test_confirmed_configuration_goes_before_a_lucky_trial():
    runs = run_rows(
        {"configuration": "lucky", "val_rel_error": 0.01, "test_rel_error": 0.01},
        {"configuration": "sound", "val_rel_error": 0.02, "test_rel_error": 0.02},
        {"configuration": "sound", "val_rel_error": 0.03, "test_rel_error": 0.04, "role": "confirmation"},
        {"configuration": "sound", "val_rel_error": 0.05, "test_rel_error": 0.06, "role": "confirmation"},
    )
    best = tables.best_by_operator(tables.configurations(runs, METRIC)).iloc[0]
    assert best["configuration"] == "sound" and best["confirmed"] and best["n_runs"] == 2
    assert best["value"] == pytest.approx(0.05)
    assert best["spread"] == pytest.approx(math.sqrt(2) * 0.01)


def test_confirmed_configuration_bears_the_name_of_its_trial_where_that_is_there():
    again = {"configuration": "slot 0", "val_rel_error": 0.1, "test_rel_error": 0.1, "role": "confirmation"}
    trial = again | {"role": "trial", "val_rel_error": 0.9, "tau_rel_error": 0.9, "run": "own", "path": "runs/own"}
    runs = run_rows(again | {"path": "runs/again"}, trial)
    row = tables.configurations(runs, METRIC).iloc[0]
    assert row["run"] == "own" and row["path"] == "runs/own" and row["ranking"] == 0.1 and row["confirmed"]
    assert math.isnan(row["tau_rel_error"]), "no confirmation has it"
    assert tables.configurations(runs.head(1), METRIC).iloc[0]["path"] == "runs/again"


def test_rerun_of_a_trial_is_no_second_training():
    rows = [{"configuration": "a", "role": role, "val_rel_error": 0.1, "test_rel_error": 0.2} for role in ROLES]
    row = tables.configurations(run_rows(*rows), METRIC).iloc[0]
    assert row["n_runs"] == 1 and math.isnan(row["spread"]) and not row["confirmed"]
    alone = tables.configurations(run_rows(rows[1]), METRIC).iloc[0]
    assert alone["n_runs"] == 1 and alone["value"] == 0.2


def test_configurations_of_a_metric_where_higher_is_better_are_turned_around():
    metric = Metric("test_valid_time", "val_valid_time", higher_is_better=True)
    runs = run_rows(
        {"configuration": "a", "val_valid_time": 3.0, "test_valid_time": 3.0},
        {"configuration": "b", "val_valid_time": 7.0, "test_valid_time": 6.0},
        {"configuration": "c", "val_valid_time": math.nan, "test_valid_time": math.nan},
    )
    assert tables.configurations(runs, metric)["configuration"].tolist() == ["b", "a", "c"]


def test_configurations_without_a_complete_run_are_empty():
    runs = run_rows({"configuration": "a", "status": "failed"})
    table = tables.configurations(runs, METRIC)
    assert table.empty and tables.best_by_family(table, METRIC).empty


def test_slugs_stay_inside_the_folder_and_apart():
    names = ["../../etc/passwd", "<script>", "a/b", "a\\b", "", "..", "A-B", "x" * 300]
    slugs = tables.slugs(names)
    assert len({slug.lower() for slug in slugs.values()}) == len(names)
    for slug in slugs.values():
        assert slug and len(slug) <= 84 and not set(slug) & set("/\\.<> ")


def test_comparison_table_holds_finite_values_of_complete_trials():
    runs = run_rows(
        {"configuration": "a", "test_rel_error": 0.1, "train_seconds": 3.0},
        {"configuration": "b", "test_rel_error": math.nan, "train_seconds": 4.0},
        {"configuration": "c", "status": "pruned", "test_rel_error": 0.2},
        {"configuration": "a", "role": "confirmation", "test_rel_error": 0.3},
    )
    table = comparison.comparison_table(runs, METRIC)
    assert sorted(zip(table["measure"], table["value"], strict=True)) == [
        ("test_rel_error", 0.1),
        ("train_seconds", 3.0),
        ("train_seconds", 4.0),
    ]


def test_pareto_front_holds_what_no_other_point_beats():
    cost, value = pd.Series([1, 2, 3, 4, 2]), pd.Series([5.0, 3.0, 4.0, 1.0, 3.0])
    assert sorted(comparison.pareto(cost, value)) in ([0, 1, 3], [0, 3, 4])
    assert list(comparison.pareto(cost, value, higher_is_better=True)) == [0]


def test_band_holds_each_curve_at_its_last_value():
    lines = [np.array([[1.0, 4.0], [2.0, 2.0]]), np.array([[1.0, 8.0], [3.0, 6.0]]), np.array([[1.0, 5.0], [3.0, 1.0]])]
    table = convergence.band(lines)
    assert (table["x"].iloc[0], table["x"].iloc[-1]) == (1.0, 3.0)
    assert table.iloc[0][["low", "median", "high"]].tolist() == [4.5, 5.0, 6.5]
    assert table.iloc[-1][["low", "median", "high"]].tolist() == [1.5, 2.0, 4.0]


def test_curves_keep_the_best_error_so_far_and_skip_epochs_without_one():
    epochs = pd.DataFrame({"run": "r", "epoch": [1, 2, 3, 4], "val_rel_error": [0.5, math.nan, 0.7, 0.2]})
    assert convergence.curves(epochs, "epoch", "val_rel_error")["r"].tolist() == [[1, 0.5], [3, 0.5], [4, 0.2]]


def test_heatmap_cells_are_medians_with_counts_and_nan_where_empty():
    runs = run_rows(
        {"param_w": 32, "param_s": "one", "val_rel_error": 1.0},
        {"param_w": 32, "param_s": "one", "val_rel_error": 3.0},
        {"param_w": 64, "param_s": "two", "val_rel_error": 5.0},
        {"param_w": 64, "param_s": "two", "val_rel_error": 9.0, "status": "failed"},
    )
    medians, numbers = heatmaps.heatmap_table(runs, METRIC, "param_w", "param_s")
    assert (list(medians.columns), list(medians.index)) == (["32", "64"], ["one", "two"])
    np.testing.assert_array_equal(medians.to_numpy(), [[2.0, math.nan], [math.nan, 5.0]])
    np.testing.assert_array_equal(numbers.to_numpy(), [[2, 0], [0, 1]])


def test_studies_count_trials_by_status_and_confirmations_apart():
    roles = [
        ("trial", "complete"),
        ("trial", "pruned"),
        ("confirmation", "unfinished"),
        *2 * [("confirmation", "complete")],
    ]
    common = {"study": "s", "model": "m", "family": "f", "reason": ""}
    runs = pd.DataFrame([common | {"role": r, "status": t} for r, t in roles])
    only = runs[runs["role"] == "confirmation"]
    assert tables.counts(runs).iloc[0].tolist() == ["s", "m", "f", 1, 0, 1, 0, 0, 1, 2]
    assert tables.counts(only).iloc[0].tolist() == ["s", "m", "f", 0, 0, 0, 0, 0, 1, 2]


def test_bins_that_differ_late_have_short_labels_all_the_same():
    values = pd.Series([1.506e-5, 1.51e-5, 1.506e-5, 1.51e-5])
    assert heatmaps.bins(values)[1] == ["1.506e-5", "1.51e-5"]


def test_bins_of_a_wide_range_are_even_in_the_logarithm():
    values = pd.Series(np.logspace(-5, 0, 11))
    index, labels = heatmaps.bins(values)
    assert labels == ["3.2e-5", "3.2e-4", "3.2e-3", "0.032", "0.32"]
    assert index.value_counts().sort_index().tolist() == [2, 2, 2, 2, 3]


@pytest.mark.parametrize(
    ("values", "labels"),
    [([32, 64, 256], ["32", "64", "256"]), ([0.1, 0.1, 0.3, 0.3], ["0.1", "0.3"]), ([True, False], ["False", "True"])],
)
def test_few_different_values_are_bins_of_their_own(values, labels):
    assert heatmaps.bins(pd.Series(values, dtype=object))[1] == labels


def test_rebuilt_study_holds_every_trial_in_its_state(analysis):
    study = analysis.studies["method_of_steps_mackey_bayesian"]
    states = pd.Series([trial.state.name for trial in study.trials]).value_counts().to_dict()
    assert states == {"COMPLETE": 28, "PRUNED": 8, "FAIL": 4}
    runs = analysis.runs.set_index("run")
    for trial in study.trials:
        run = runs.loc[trial.user_attrs["run"]]
        assert trial.params["learning_rate"] == run["param_learning_rate"]
        assert "gradient_clip" not in trial.params  # never varied
        assert trial.value == (run["val_rel_error"] if run["status"] == "complete" else None)
    assert study.best_value == runs.loc[runs["status"] == "complete", "val_rel_error"].min()


def test_importance_names_the_parameter_that_was_made_to_matter(analysis):
    table = analysis.importances["method_of_steps_mackey_bayesian"].set_index("parameter")
    assert table["mdi"].idxmax() == table["fanova"].idxmax() == table.index[0] == "learning_rate"
    assert table["spearman"].drop("schedule").between(-1, 1).all() and math.isnan(table.loc["schedule", "spearman"])
    assert table.loc["learning_rate", "spearman"] < -0.4
    assert table["mdi"].sum() == pytest.approx(1) and 0.5 < table["fanova"].sum() <= 1
    assert set(table["n"]) == {28}


def test_importance_never_ranks_a_metric_or_a_fixed_parameter(analysis):
    names = set(analysis.importances["method_of_steps_mackey_bayesian"]["parameter"])
    searched = {"learning_rate", "batch_size", "fourier_modes_t", "width", "n_layers", "dropout", "weight_decay"}
    assert names == searched | {"schedule"}


def test_importance_of_fewer_than_five_trials_is_empty(analysis):
    runs = analysis.runs[analysis.runs["status"] == "complete"].head(4)
    study = rebuild(runs, analysis.epochs, analysis.metric, "method_of_steps_mackey_bayesian")
    assert importance(runs, study, analysis.metric).empty


def test_importance_of_equal_errors_is_empty(analysis):
    runs = analysis.runs.assign(val_rel_error=0.5)
    study = rebuild(runs, analysis.epochs, analysis.metric, "method_of_steps_mackey_bayesian")
    assert importance(runs, study, analysis.metric).empty


def test_costs_can_be_compared_like_errors(analysis):
    cost = Analysis(analysis.runs, analysis.epochs, resolve_metric("n_parameters", analysis.runs.columns))
    figure = figures.model_comparison(cost)
    assert figure.axes[0].get_ylabel() == "parameters"


def test_spearman_agrees_with_scipy(analysis):
    from scipy.stats import spearmanr

    complete = analysis.runs[analysis.runs["status"] == "complete"]
    expected = spearmanr(complete["param_width"], complete["val_rel_error"]).statistic
    table = analysis.importances["method_of_steps_mackey_bayesian"].set_index("parameter")
    assert table.loc["width", "spearman"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1e-5, 1e-2], optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True)),
        ([0.0, 0.25], optuna.distributions.FloatDistribution(0.0, 0.25)),
        ([2, 6], optuna.distributions.IntDistribution(2, 6)),
        (["b", "a", "b"], optuna.distributions.CategoricalDistribution(["a", "b"])),
        ([True, False], optuna.distributions.CategoricalDistribution([False, True])),
    ],
)
def test_distribution_holds_the_values_on_their_scale(values, expected):
    assert distribution(pd.Series(values, dtype=object)) == expected


def test_trajectory_table_leaves_out_what_does_not_fit():
    arrays = predictions(1e-2, 1, np.random.default_rng(0))
    whole = trajectories.trajectory_table("f", "m", "r", arrays)
    assert list(whole.cases) == ["best", "median", "worst"] and list(whole.by_interval) == list(trajectories.SPLITS)
    arrays["worst_prediction"] = arrays["worst_prediction"][:-1]
    del arrays["test_tau_interval_p90"]
    partial = trajectories.trajectory_table("f", "m", "r", arrays)
    assert list(partial.cases) == ["best", "median"] and list(partial.by_interval) == ["test", "test_horizon"]
    assert not trajectories.trajectory_table("f", "m", "r", {}).cases


def test_deviation_is_relative_to_the_rms_of_the_truth():
    truth = np.full((4, 1), 2.0)
    case = trajectories.Case(np.arange(4.0), truth, truth + 0.5, truth, 1.0, 0.25)
    np.testing.assert_allclose(case.deviation, 0.25)


@pytest.mark.parametrize(
    ("value", "spread", "doubt"), [(0.5, 0.0, None), (0.25, 0.01, "within the spread"), (0.1, 0.01, "m is ahead")]
)
def test_answer_is_doubted_where_a_rival_is_near_or_ahead(value, spread, doubt):
    winner = {"model": "w", "value": 0.2, "spread": 0.05, "confirmed": True, "n_runs": 3}
    said = caution(winner, [{"model": "m", "value": value, "spread": spread}])
    assert said is None if doubt is None else doubt in said


def test_one_fresh_seed_confirms_and_leaves_the_spread_unknown():
    winner = {"model": "w", "value": 0.2, "spread": math.nan, "confirmed": True, "n_runs": 1}
    said = caution(winner, [])
    assert "Confirmed by one fresh seed" in said and "--confirm_seeds 3" in said and "One training only" not in said
    assert "One training only: --confirm_top 3" in caution(winner | {"confirmed": False}, [])


def test_costs_are_not_confirmed_and_missing_rankings_win_nothing():
    rows = [{"configuration": f"slot {n}", "n_parameters": n, "val_rel_error": math.nan} for n in (1, 2)]
    again = rows[1] | {"role": "confirmation"}
    runs = run_rows(*(row | {"role": "trial"} for row in rows), again)
    cost = Metric("n_parameters", "n_parameters")
    assert tables.best_by_family(tables.configurations(runs, cost), cost)["n_parameters"].tolist() == [1]
    assert tables.best_by_family(tables.configurations(runs, METRIC), METRIC).empty


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.164, "0.16"), (1.6e-4, "1.6e-4"), (256, "256"), (2e-5, "2e-5"), (1.5e6, "1.5e6")]
)
def test_number_is_short(value, text):
    assert number(value) == text


def test_every_number_of_a_confirmed_configuration_is_a_mean_over_its_confirmations():
    common = {"configuration": "slot 0", "val_rel_error": 0.1, "test_rel_error": 0.1}
    again = [common | {"role": "confirmation", "tau_rel_error": tau, "train_seconds": 10 * tau} for tau in (0.2, 0.4)]
    runs = run_rows(common | {"role": "trial", "tau_rel_error": 9.0, "train_seconds": 9.0}, *again)
    row = tables.configurations(runs, METRIC).iloc[0]
    assert row["tau_rel_error"] == pytest.approx(0.3) and row["train_seconds"] == pytest.approx(3.0)


def test_confirmed_configurations_stand_before_better_single_trainings():
    single = {"configuration": "slot 1", "val_rel_error": 0.01, "test_rel_error": 0.01}
    again = {"configuration": "slot 0", "val_rel_error": 0.1, "test_rel_error": 0.1, "role": "confirmation"}
    assert tables.configurations(run_rows(single, again), METRIC)["confirmed"].tolist() == [True, False]


def test_answer_warns_where_test_contradicts_validation():
    winner = {"model": "w", "value": 1.74, "ranking": 0.041, "test_rel_error_median": 0.026, "confirmed": False}
    said = contradiction(winner, METRIC)
    assert "Validation promised 0.0410" in said and "the median is 0.0260" in said
    assert "m is ahead" in caution(winner | {"spread": math.nan}, [{"model": "m", "value": 1.04, "spread": math.nan}])
    assert contradiction(winner | {"value": 0.05}, METRIC) is None


def test_names_that_no_run_has_are_told(tmp_path):
    make_results(tmp_path, models=["method_of_steps"], families=["mackey"], trials=2, confirmations=0, seed=3)
    problems = load(tmp_path, families=["mackey", "nope"]).problems
    assert problems == ("--families nope: no run has it, only mackey",)


def test_figures_of_an_earlier_report_do_not_stay_beside_a_new_one(tmp_path):
    listed = {"figures": ["heatmap_old.png", "kept.png", "../outside.png"]}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "visualization_report.json").write_text(json.dumps(listed))
    files = [tmp_path / "out" / name for name in ("heatmap_old.png", "kept.png", "mine.png")] + [
        tmp_path / "outside.png"
    ]
    for file in files:
        file.touch()
    writing._remove_older(tmp_path / "out", ["kept.png"])
    assert [file.exists() for file in files] == [False, True, True, True]


def test_distribution_of_errors_is_counted_evenly_in_the_logarithm():
    study = optuna.create_study()
    for place, value in enumerate((0.01, 0.1, 1.0, 1e8)):
        study.add_trial(optuna.create_trial(value=value, params={"x": place}, distributions=WHOLE))
    (trace,) = interactive._edf(study, "error").data
    at = dict(zip(np.round(trace.x, 12), trace.y, strict=True))
    assert min(at) == pytest.approx(0.01) and max(at) == pytest.approx(1e8)
    assert max(y for x, y in at.items() if x < 100) == 0.75 and max(y for x, y in at.items() if x < 0.5) == 0.5


def test_front_is_told_from_the_other_trials_at_a_glance():
    runs = run_rows(
        *(
            {
                "configuration": f"slot {n}",
                "role": "trial",
                "run": f"r{n}",
                "val_rel_error": error,
                "n_parameters": size,
            }
            for n, (error, size) in enumerate([(0.1, 10), (0.2, 20), (0.05, 40)])
        )
    ).assign(objective="rel_error", study="s")
    study = optuna.create_study(study_name="s")
    for run, error in zip(runs["run"], runs["val_rel_error"], strict=True):
        attributes = {"run": run, "command": "c"}
        study.add_trial(optuna.create_trial(value=error, params={}, distributions={}, user_attrs=attributes))
    values = interactive._objectives(study, runs, METRIC)
    looks = {trace.marker.color: len(trace.x) for trace in interactive._front(study, values).data}
    assert looks == {style.GREY: 1, style.FRAME: 2}
