"""Training and evaluation on a family with a closed form, with a linear operator that can hold it exactly."""

import itertools
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import dno
import model_trainer
from data.batches import FamilyData
from experiment_tracker import EpochRecord
from model_optimizer import MUON_RATE, make_optimizer
from model_trainer import Best, Limits, Pace, Stopwatch, TrainingResult, TrainingSettings, train
from tests.cosine_family import POINTS, LinearHyperparameters, LinearWindows, make_family

SUFFIXES = ("", "_median", "_p90")
BASE_METRICS = {
    *(
        f"{name}{suffix}"
        for name in ("rel_error", "centred_error", "rollout_error")
        for suffix in ("", "_median", "_p90")
    ),
    *("one_step_error", "stability_score", "noise_gain", "valid_time", "valid_time_never_reached", "by_interval"),
}
SHIFT_METRICS = {
    *(f"{name}{suffix}" for name in ("tau_rel_error", "history_rel_error") for suffix in SUFFIXES),
    *(f"tau_outside_rel_error{suffix}" for suffix in (*SUFFIXES, "_count")),
}
COSTS = {"epochs", "train_seconds", "seconds_to_best", "n_parameters", "inference_ms", "best_epoch"}


@pytest.fixture(autouse=True)
def _linear(linear_operator: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_trainer, "WINDOWS_PER_EPOCH", 512)


@pytest.fixture(scope="module")
def family() -> FamilyData:
    return make_family()


def run(
    data: FamilyData,
    limits: Limits,
    *,
    stop: dict[int, str] | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    model: str = "linear",
    **given: object,
) -> tuple[TrainingResult, list[EpochRecord]]:
    """Trains and keeps the records; `stop` says at which epoch to stop and why."""
    records: list[EpochRecord] = []

    def on_epoch(record: EpochRecord) -> str | None:
        records.append(record)
        return (stop or {}).get(record.epoch)

    return train(model, given, data, limits=limits, seed=seed, on_epoch=on_epoch, clock=clock), records


def evaluated(records: list[EpochRecord]) -> list[EpochRecord]:
    return [record for record in records if not math.isnan(record.val_rel_error)]


def test_defaults_and_names_join_operator_and_training(family):
    spec = model_trainer.operator_spec(family)
    assert spec == dno.OperatorSpec(1, POINTS, ("w",), frozenset())
    for model in dno.MODELS:
        defaults = model_trainer.default_hyperparameters(model, spec)
        assert set(model_trainer.hyperparameter_names(model)) == set(defaults)
        assert {"width", "n_layers", "dropout", "learning_rate", "batch_size", "weight_decay"} <= set(defaults)


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ({"widht": 3}, r"no hyperparameter 'widht'; it takes .*learning_rate.*width"),
        ({"learning_rate": 0.0}, r"learning_rate: expected a number above 0, got 0\.0"),
        ({"learning_rate": math.nan}, r"learning_rate: .* got nan"),
        ({"weight_decay": -1e-5}, "weight_decay: expected a number of at least 0"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"batch_size": 32.0}, r"batch_size: .* got 32\.0"),
        ({"batch_size": True}, "batch_size"),
        ({"schedule": "cosine"}, "schedule: expected one of one_cycle, plateau, got 'cosine'"),
        ({"gradient_clip": "1"}, "gradient_clip: expected a number above 0, got '1'"),
        ({"first_interval_share": 1.5}, r"first_interval_share: expected a number in \[0, 1\], got 1\.5"),
        ({"width": -4}, "width must be a positive integer, got -4"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
    ],
)
def test_a_wrong_hyperparameter_is_refused_in_one_line(family, given, pattern):
    with pytest.raises(ValueError, match=pattern) as caught:
        run(family, Limits(1), model="method_of_steps", **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"max_epochs": 0}, {"patience": 0}, {"max_seconds": 0.0}, {"max_epochs": 2.5}])
def test_wrong_limits_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        Limits(**wrong)


def test_a_complete_training_reaches_the_exact_solution_and_reports_everything(family):
    result, records = run(family, Limits(20), learning_rate=0.03)
    assert (result.status, result.reason) == ("complete", None)
    names = {f"{base}_{name}" for base in ("val", "test") for name in BASE_METRICS}
    assert set(result.metrics) == names | SHIFT_METRICS | COSTS | {"rollout_error", "stability_score"}
    for name in ("val_rel_error", "test_rel_error", "tau_rel_error", "history_rel_error", "test_one_step_error"):
        assert result.metrics[name] < 5e-3  # 1 would be the zero prediction; the map is exactly linear
    assert result.metrics["rollout_error"] == result.metrics["test_rollout_error"]
    assert result.metrics["stability_score"] == result.metrics["test_stability_score"]
    assert [record.epoch for record in records] == list(range(1, 21))
    assert result.metrics["epochs"] == 20
    assert result.metrics["n_parameters"] == POINTS * (POINTS + 2)
    assert not result.operator.training
    assert records[-1].train_loss < 1e-3 * records[0].train_loss
    assert all(math.isfinite(value) for value in (records[-1].gradient_norm, records[-1].learning_rate))


def test_absent_splits_leave_their_metrics_absent():
    result, _ = run(make_family(optional=False), Limits(3))
    assert result.status == "complete"
    wanted = BASE_METRICS - {
        "rollout_error",
        "rollout_error_median",
        "rollout_error_p90",
        "stability_score",
        "noise_gain",
    }
    assert set(result.metrics) == {f"{base}_{name}" for base in ("val", "test") for name in wanted} | COSTS
    assert {name for name in result.predictions if "interval" in name} == {"test_interval_median", "test_interval_p90"}


@pytest.mark.parametrize("model", dno.MODELS)
def test_every_operator_learns_the_family(family, model):
    small = {"width": 16, "n_layers": 2, "fourier_modes_t": 4, "learning_rate": 1e-2}
    result, records = run(family, Limits(3), model=model, **small)
    assert result.status == "complete"
    assert records[-1].train_loss < 0.1 * records[0].train_loss
    assert result.metrics["test_rel_error"] < 0.5


@pytest.mark.parametrize("model", ["linear", "stacked_history"])
def test_same_seed_gives_the_same_bits_whatever_the_callers_randomness(family, model):
    given = (
        {}
        if model == "linear"
        else {"width": 8, "n_layers": 1, "fourier_modes_t": 4, "dropout": 0.2, "batch_size": 128}
    )
    torch.manual_seed(1)
    once, first_records = run(family, Limits(2), model=model, seed=5, **given)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, second_records = run(family, Limits(2), model=model, seed=5, **given)
    assert torch.equal(torch.get_rng_state(), state)
    other, _ = run(family, Limits(2), model=model, seed=6, **given)
    weights = [list(result.operator.state_dict().values()) for result in (once, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))
    measured = COSTS - {"epochs", "n_parameters", "best_epoch"}
    assert {k: v for k, v in once.metrics.items() if k not in measured} == {
        k: v for k, v in again.metrics.items() if k not in measured
    }
    assert [r.train_loss for r in first_records] == [r.train_loss for r in second_records]
    assert all(np.array_equal(once.predictions[name], again.predictions[name]) for name in once.predictions)


def test_test_splits_influence_nothing_but_their_own_metrics(family):
    changed = {
        name: replace(split, solution=split.solution * 3, history=split.history - 1)
        if name.startswith("test")
        else split
        for name, split in family.splits.items()
    }
    one, records = run(family, Limits(4))
    other, other_records = run(replace(family, splits=changed), Limits(4))
    assert all(map(torch.equal, one.operator.state_dict().values(), other.operator.state_dict().values()))
    assert [r.val_rel_error for r in records] == [r.val_rel_error for r in other_records]
    val = [name for name in one.metrics if name.startswith("val_")]
    assert [one.metrics[name] for name in val] == [other.metrics[name] for name in val]
    assert one.metrics["test_rel_error"] != other.metrics["test_rel_error"]


def test_the_best_weights_are_a_copy_that_later_steps_do_not_change(family):
    result, records = run(family, Limits(10, patience=100), trouble="ascent", from_progress=0.6, learning_rate=0.03)
    best = min(records, key=lambda record: record.val_rel_error)
    assert best.epoch == result.metrics["best_epoch"] <= 7
    assert records[-1].val_rel_error > 2 * best.val_rel_error
    # 12 trajectories: all of them steer. The horizon split, of which val is the beginning, lies elsewhere in memory,
    # and BLAS rounds by alignment.
    assert result.metrics["val_rel_error"] == pytest.approx(best.val_rel_error, rel=1e-6)


def test_early_stopping_counts_epochs_without_a_better_rollout(family):
    limits = Limits(100, patience=50)
    result, records = run(family, limits, trouble="ascent", from_progress=0.3, learning_rate=0.01)
    assert result.status == "complete"
    best_epoch = result.metrics["best_epoch"]
    assert best_epoch in (25, 30, 35)
    assert len(records) == best_epoch + 50


def test_patience_of_one_cycle_begins_at_its_peak_and_that_of_plateau_at_once(family):
    result, records = run(family, Limits(50, patience=1), trouble="ascent", learning_rate=1e-4)
    assert len(records) == 9 + 3 * model_trainer.MIN_STALE_EVALUATIONS  # evaluated every third epoch, 10 is the peak
    assert result.metrics["best_epoch"] == 3
    _, records = run(family, Limits(50, patience=1), trouble="ascent", learning_rate=1e-4, schedule="plateau")
    assert len(records) == 3 + 3 * model_trainer.MIN_STALE_EVALUATIONS


@pytest.mark.parametrize("max_epochs", [1, 7, 41, 100])
def test_evaluations_follow_a_fixed_schedule_that_ends_with_the_last_epoch(family, max_epochs, monkeypatch):
    monkeypatch.setattr(model_trainer, "WINDOWS_PER_EPOCH", 32)
    _, records = run(family, Limits(max_epochs, patience=1000))
    every = math.ceil(max_epochs / 20)
    expected = sorted({*range(every, max_epochs + 1, every), max_epochs})
    assert [record.epoch for record in evaluated(records)] == expected


@pytest.mark.parametrize("status", ["pruned", "interrupted"])
def test_a_stopped_training_has_costs_and_the_steering_error_only(family, status):
    result, records = run(family, Limits(20), stop={3: status})
    assert result.status == status
    assert len(records) == 3
    assert set(result.metrics) == (COSTS | {"val_rel_error"}) - {"inference_ms"}
    assert result.metrics["val_rel_error"] == min(record.val_rel_error for record in records)
    assert result.predictions == {}
    assert isinstance(result.operator, LinearWindows)


@pytest.mark.parametrize(
    ("trouble", "pattern"),
    [
        ("not a number", r"diverged: the loss or its gradient was not finite in epoch 6$"),
        ("infinite gradient", r"diverged: the loss or its gradient was not finite in epoch 6$"),
        ("memory", r"out of memory: .*you tried to allocate \d+ bytes"),
    ],
)
def test_divergence_and_lack_of_memory_fail_the_trial_with_the_reason(family, trouble, pattern):
    result, records = run(family, Limits(10), trouble=trouble, from_progress=0.55)
    assert result.status == "failed"
    assert result.predictions == {} and result.operator is None
    assert re.match(pattern, result.reason)
    assert "\n" not in result.reason
    assert len(records) == result.metrics["epochs"]
    assert all(math.isfinite(value) for value in result.metrics.values())


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_an_epoch_that_diverges_is_trained_again_from_the_best_weights_at_half_the_rate(family, optimizer, caplog):
    given = {"learning_rate": 0.03, "optimizer": optimizer}
    calm, expected = run(family, Limits(20), **given)
    result, records = run(family, Limits(20), trouble="one spike", from_progress=0.52, **given)
    assert result.status == "complete"
    assert [record.epoch for record in records] == list(range(1, 21)) and calm.metrics["epochs"] == 20
    assert [record.train_loss for record in records[:10]] == [record.train_loss for record in expected[:10]]
    halved = [record.learning_rate / other.learning_rate for record, other in zip(records, expected, strict=True)]
    assert halved == pytest.approx(10 * [1.0] + 10 * [0.5])
    assert result.metrics["test_rel_error"] < 5e-3
    best = calm.metrics["best_epoch"] if calm.metrics["best_epoch"] <= 10 else 10
    assert f"not finite in epoch 11: trained again from the weights of epoch {best}, at half the rate" in caplog.text


def test_a_real_divergence_is_a_failed_trial(family):
    given = {"width": 8, "n_layers": 1, "fourier_modes_t": 4, "learning_rate": 1e30}
    result, _ = run(family, Limits(3), model="memory_kernel", **given)
    assert result.status == "failed"
    assert result.reason.startswith("diverged: ")


def test_any_other_error_is_not_swallowed(family):
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(family, Limits(3), trouble="bug")


def test_a_training_whose_rollouts_are_never_finite_fails(family):
    result, records = run(family, Limits(3), trouble="infinite rollout")
    assert (result.status, result.reason) == ("failed", "diverged: no rollout of the validation split was finite")
    assert len(records) == 3 and evaluated(records) == []
    assert result.operator is None
    assert "val_rel_error" not in result.metrics


def ticking(step: float) -> Callable[[], float]:
    """A clock that advances by `step` with every look at it."""
    ticks = itertools.count()
    return lambda: next(ticks) * step


def test_a_limit_in_seconds_completes_the_cycle_and_is_kept(family, monkeypatch):
    monkeypatch.setattr(model_trainer, "WINDOWS_PER_EPOCH", 160)
    limits = Limits(max_epochs=10**6, patience=10**6, max_seconds=10.0)
    result, records = run(family, limits, clock=ticking(0.01))
    assert result.status == "complete"
    assert 10.0 <= records[-1].elapsed_seconds < 10.2
    peak = max(record.learning_rate for record in records)
    assert peak == pytest.approx(TrainingSettings().learning_rate, rel=0.01)
    assert records[-1].learning_rate < 0.01 * peak
    assert 18 <= len(evaluated(records)) <= 21
    assert not math.isnan(records[-1].val_rel_error)


def test_limited_seconds_are_spent_on_dear_evaluations_only_to_their_share():
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    pace = Pace(Limits(max_epochs=10**6, patience=10**6, max_seconds=1000.0), TrainingSettings(), 1, watch)
    looks = 0
    while pace.progress() < 1.0:
        now[0] += 10.0
        if pace.is_evaluation_due():
            with watch.measure("evaluation"):
                now[0] += 30.0
            looks += 1
    assert looks == 5  # at 50 s, then whenever a tenth allows, and at the end


def test_a_limit_in_seconds_ends_inside_an_epoch(family):
    result, records = run(family, Limits(max_epochs=5, max_seconds=1.0), clock=ticking(0.1))
    assert result.status == "complete"
    assert len(records) == 1


def test_seconds_say_where_the_time_went(family):
    result, records = run(family, Limits(2), clock=ticking(1.0))
    seconds = result.seconds
    assert set(seconds) == {"training", "evaluation", "total"}
    assert seconds["training"] > 0 and seconds["evaluation"] > 0
    assert seconds["training"] + seconds["evaluation"] <= seconds["total"]
    assert result.metrics["train_seconds"] == seconds["training"]
    assert 0 < result.metrics["seconds_to_best"] <= records[-1].elapsed_seconds
    assert records[0].epoch_seconds <= records[0].elapsed_seconds < records[1].elapsed_seconds


def pace(**given) -> Pace:
    return Pace(Limits(100), TrainingSettings(**given), 1, Stopwatch(lambda: 0.0))


def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing():
    rate = pace(learning_rate=0.5).learning_rate
    assert rate(0.0) == pytest.approx(0.5 * model_trainer.START_RATE)
    assert rate(model_trainer.PEAK) == pytest.approx(0.5)
    assert rate(1.0) == pytest.approx(0.5 * model_trainer.END_RATE)
    rates = [rate(i / 100) for i in range(101)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


def test_plateau_halves_the_rate_when_an_evaluation_brings_nothing():
    slowing = pace(schedule="plateau", learning_rate=0.5)
    assert slowing.learning_rate(0.0) == slowing.learning_rate(0.9) == 0.5
    slowing.is_stale(improved=True)
    assert slowing.learning_rate(0.9) == 0.5
    slowing.is_stale(improved=False)
    assert slowing.learning_rate(0.9) == 0.25


def test_an_epoch_is_the_same_number_of_target_rows_for_every_operator():
    for batch_size, target_rows in ((32, 1), (32, 4), (2, 4), (128, 4)):
        counted = Pace(Limits(1), TrainingSettings(batch_size=batch_size), target_rows, Stopwatch(lambda: 0.0))
        assert counted.crops * target_rows == max(batch_size, target_rows)
        assert counted.steps_per_epoch * counted.crops * target_rows == model_trainer.WINDOWS_PER_EPOCH


@pytest.mark.parametrize(("kind", "left"), [("adamw", 0.95), ("muon", 1 - MUON_RATE * 0.05)])
def test_weight_decay_spares_biases_and_buffers(family, kind, left):
    operator = LinearWindows(model_trainer.operator_spec(family), LinearHyperparameters())
    optimizer = make_optimizer(operator, kind, weight_decay=0.5)
    optimizer.set_rate(0.1)
    before = {name: value.clone() for name, value in operator.state_dict().items()}
    for parameter in operator.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = operator.state_dict()
    assert torch.allclose(after["step.weight"], left * before["step.weight"])
    assert all(torch.equal(after[name], before[name]) for name in before if name != "step.weight")


def test_an_error_that_is_not_finite_is_never_the_best():
    best = Best()
    operator = nn.Linear(1, 1)
    assert [best.improve(error, operator, 1, 0.0) for error in (math.inf, math.nan, 2.0, math.nan, 2.0, 1.0)] == [
        *(False, False, True, False, False, True)
    ]
