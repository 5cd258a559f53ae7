"""Every metric and array of a trained operator, for the closed form times a factor: its errors are known by hand."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import model_evaluation
from data.batches import FamilyData
from tests.cosine_family import LEVELS, POINTS, ScaledSolution, make_family


@pytest.fixture(scope="module")
def family() -> FamilyData:
    return make_family()


def test_metrics_of_a_solution_that_is_ten_per_cent_too_large(family):
    found = model_evaluation.evaluate(ScaledSolution(1.1), family).metrics
    float32 = 2e-6  # the stored trajectories are rounded to 6e-8, and 0.1 is a difference
    for base in ("val", "test"):
        for name in ("rel_error", "rel_error_median", "rel_error_p90", "one_step_error", "rollout_error"):
            assert found[f"{base}_{name}"] == pytest.approx(0.1, rel=float32 * 10)
        assert found[f"{base}_stability_score"] == pytest.approx(math.log(1.1), rel=1e-3)  # 1 % of disturbance
        assert found[f"{base}_valid_time_never_reached"] == 1.0
        assert found[f"{base}_centred_error"] > found[f"{base}_rel_error"]
        interval = found[f"{base}_by_interval"]
        assert len(interval) == family.splits[base].solution.shape[1] // POINTS
        assert all(0.05 < error < 0.15 for error in interval)  # RMS of cosines over one quarter of a period
    for name in ("tau_rel_error", "tau_outside_rel_error", "history_rel_error"):
        assert found[name] == pytest.approx(0.1, rel=float32 * 10)
    outside = family.splits["test_tau"].scaled[:, 0] > family.splits["train"].scaled.max()
    assert 0 < found["tau_outside_rel_error_count"] == int(outside.sum()) < len(outside)
    assert found["inference_ms"] > 0


def test_the_exact_solution_answers_noise_as_the_truth_does(family):
    split = family.splits["val"]
    found = model_evaluation.evaluate(ScaledSolution(1.0), family).metrics
    assert found["val_stability_score"] < 1e-3
    noise = family.splits["val_noise"]
    gains = []
    for i, source in enumerate(noise.source.tolist()):
        n = int(noise.lengths[i])
        out = (noise.solution[i, :n] - split.solution[source, :n]).norm() / split.solution[source, :n].norm()
        gains.append(float(out / ((noise.history[i] - split.history[source]).norm() / split.history[source].norm())))
    assert found["val_noise_gain"] == pytest.approx(float(np.median(gains)), rel=1e-3)
    assert noise.level.unique().tolist() == pytest.approx(list(LEVELS))


def test_examples_are_the_best_the_median_and_the_worst_of_test(family):
    found = model_evaluation.evaluate(ScaledSolution(1.0, offset=0.1), family)
    arrays, split = found.predictions, family.splits["test"]
    errors = {}
    for case in ("best", "median", "worst"):
        truth, prediction = arrays[f"{case}_truth"], arrays[f"{case}_prediction"]
        steps = len(truth)
        assert arrays[f"{case}_time"].tolist() == [j / POINTS for j in range(1, steps + 1)]
        history = torch.from_numpy(arrays[f"{case}_history"])
        index = next(i for i in range(len(split)) if torch.equal(split.history[i], history))
        assert (steps, float(arrays[f"{case}_tau"])) == (int(split.lengths[index]), float(split.tau[index]))
        assert np.array_equal(truth, split.solution[index, :steps].numpy())
        errors[case] = np.linalg.norm(prediction.astype(float) - truth) / np.linalg.norm(truth.astype(float))
        assert arrays[f"{case}_error"] == pytest.approx(errors[case], rel=1e-12)
    assert errors["median"] == pytest.approx(found.metrics["test_rel_error_median"], rel=1e-12)  # of nine
    assert errors["best"] < errors["median"] < errors["worst"]
    for name in ("test", "test_tau", "test_horizon"):
        median, p90 = (arrays[f"{name}_interval_{q}"] for q in ("median", "p90"))
        assert len(median) == len(p90) == family.splits[name].solution.shape[1] // POINTS
        assert (median <= p90).all()


def test_a_rollout_that_is_not_finite_leaves_medians_and_no_mean(family, caplog):
    split = family.splits["test"]
    history = split.history.clone()
    history[3] = 1e38
    data = replace(family, splits=family.splits | {"test": replace(split, history=history)})
    with caplog.at_level(logging.WARNING):
        found = model_evaluation.evaluate(ScaledSolution(1e20), data)
    assert "test_rel_error" not in found.metrics and "val_rel_error" in found.metrics
    assert math.isfinite(found.metrics["test_rel_error_median"])
    assert len(caplog.records) == 1 and "test_rel_error" in caplog.text
    assert found.predictions["worst_error"] == math.inf


def test_evaluation_does_not_depend_on_how_many_trajectories_go_together(family, monkeypatch):
    operator = ScaledSolution(1.1)
    (together,) = model_evaluation.rollout(operator, family.splits["test"])
    monkeypatch.setattr(model_evaluation, "VALUES_AT_ONCE", 2)
    split = family.splits["test"]
    (alone,) = model_evaluation.rollout(operator, split)
    assert torch.equal(together[split.mask], alone[split.mask])


def test_the_steering_part_is_spread_evenly_and_bounded(family, monkeypatch):
    split = family.splits["val"]
    assert torch.equal(model_evaluation.steering_split(split).tau, split.tau)
    monkeypatch.setattr(model_evaluation, "STEERING_TRAJECTORIES", 4)
    assert torch.equal(model_evaluation.steering_split(split).tau, split.tau[[0, 3, 6, 9]])


def test_a_base_split_is_read_from_its_horizon_split_only_where_the_problems_are_the_same(family, monkeypatch):
    seen = []
    rollout = model_evaluation.rollout
    monkeypatch.setattr(
        model_evaluation, "rollout", lambda *given: seen.extend(split.name for split in given[1:]) or rollout(*given)
    )
    operator = ScaledSolution(1.1)
    whole, _ = model_evaluation.rollouts(operator, family)
    assert "test_horizon" in seen and "test" not in seen and "val" not in seen
    backwards = torch.arange(len(family.splits["test"]) - 1, -1, -1)
    other = family.splits | {"test_horizon": family.splits["test_horizon"].take(backwards)}
    own, _ = model_evaluation.rollouts(operator, replace(family, splits=other))
    assert seen.count("test") == 1
    longer = family.splits["test_horizon"]
    shorter = replace(longer, lengths=longer.lengths.minimum(family.splits["test"].lengths - 1))
    model_evaluation.rollouts(operator, replace(family, splits=family.splits | {"test_horizon": shorter}))
    assert seen.count("test") == 2
    mask = family.splits["test"].mask
    assert torch.equal(whole["test"][mask], own["test"][mask])


def test_no_trajectories_make_an_empty_rollout(family):
    none = family.splits["test"].take(torch.arange(0))
    (predicted,) = model_evaluation.rollout(ScaledSolution(1.1), none)
    assert predicted.shape == none.solution.shape
