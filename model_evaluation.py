"""What a trained operator is worth: every metric of a split, and the trajectories that the report draws."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.batches import FamilyData, Split, delay_rows
from dno import Operator, metrics

logger = logging.getLogger(__name__)

VALUES_AT_ONCE = 1024  # trajectories × channels of one forward pass: bounds the memory of an evaluation
SHIFTED = ("test_tau", "test_history", "val_horizon", "test_horizon", "val_noise", "test_noise")
STEERING_TRAJECTORIES = 64  # of the validation split, for early stopping and pruning

Metric = float | int | list[float]


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a complete trial, and the arrays of its predictions.npz."""

    metrics: dict[str, Metric]
    predictions: dict[str, np.ndarray]


@torch.inference_mode()
def rollout(operator: Operator, *splits: Split) -> list[Tensor]:
    """The operator's trajectories from the histories of each split, (N, T, C); past their ends they mean nothing.

    All go together, long ones first: what a batch costs beside its trajectories is paid once, and one that is over
    costs nothing more. On mackey, 700 at a time, method of steps, stacked history and memory kernel take .70, .66 and
    .51 of the time of split after split.
    """
    operator.eval()
    history, tau, params, lengths = (
        torch.cat([getattr(split, name) for split in splits]) for name in ("history", "tau", "params", "lengths")
    )
    predicted = history.new_zeros(len(tau), max(split.solution.shape[1] for split in splits), history.shape[2])
    for part in lengths.argsort(descending=True, stable=True).split(max(1, VALUES_AT_ONCE // history.shape[2])):
        steps = int(lengths[part].amax()) if len(part) else 0
        if steps:
            predicted[part, :steps] = operator(history[part], tau[part], params[part], steps, lengths[part])
    sizes = [len(split) for split in splits]
    return [values[:, : split.solution.shape[1]] for values, split in zip(predicted.split(sizes), splits, strict=True)]


def one_step_rollout(operator: Operator, split: Split) -> tuple[Tensor, Tensor]:
    """Every complete interval predicted from the true one before it: (N, K·M, C), and its mask (N, K·M)."""
    rows, intervals = delay_rows(split)
    count, points, channels = rows.shape[1] - 1, split.points_per_delay, rows.shape[3]
    complete = torch.arange(count, device=rows.device) < intervals[:, None]  # (N, K)
    trajectory, interval = complete.nonzero().unbind(1)
    windows = Split(
        name=split.name,
        history=rows[trajectory, interval],
        tau=split.tau[trajectory],
        params=split.params[trajectory],
        solution=rows[trajectory, interval + 1, 1:],
        mask=torch.ones(len(trajectory), points, dtype=torch.bool, device=rows.device),
        lengths=torch.full_like(trajectory, points),
    )
    predicted = rows.new_zeros(len(split), count, points, channels)
    (predicted[trajectory, interval],) = rollout(operator, windows)
    return predicted.flatten(1, 2), complete.repeat_interleave(points, 1)


def steering_split(validation: Split) -> Split:
    """At most STEERING_TRAJECTORIES trajectories, evenly spaced through the validation split."""
    size = len(validation)
    index = torch.arange(min(size, STEERING_TRAJECTORIES)) * size // min(size, STEERING_TRAJECTORIES)
    return validation.take(index.to(validation.tau.device))


def rollout_error(operator: Operator, split: Split) -> float:
    """Mean relative error of the full rollout; nan where one trajectory is not finite."""
    (predicted,) = rollout(operator, split)
    mean = metrics.summary(_errors(predicted, split)).get("", math.nan)
    return mean if math.isfinite(mean) else math.nan


def evaluate(operator: Operator, data: FamilyData, clock: Callable[[], float] = time.perf_counter) -> Evaluation:
    """All metrics on validation and test, and on every shifted split that is there."""
    device = data.splits["train"].tau.device
    _synchronise(device)
    start = clock()
    predicted, steps = rollouts(operator, data)
    _synchronise(device)
    milliseconds = 1e3 * (clock() - start) / steps * data.splits["test"].solution.shape[1]
    found: dict[str, Metric] = {"inference_ms": milliseconds}
    for base in ("val", "test"):
        found |= base_metrics(operator, data, base, predicted)
    for split, name in (("test_tau", "tau_rel_error"), ("test_history", "history_rel_error")):
        if split in predicted:
            errors = _errors(predicted[split], data.splits[split])
            found |= _named(name, metrics.summary(errors))
    found |= outside_metrics(predicted, data)
    for alias in ("rollout_error", "stability_score"):
        if f"test_{alias}" in found:
            found[alias] = found[f"test_{alias}"]
    return Evaluation(only_finite(found), example_arrays(predicted, data))


def rollouts(operator: Operator, data: FamilyData) -> tuple[dict[str, Tensor], int]:
    """Predictions of val, test and every shifted split that is there, and the steps that were wanted.

    A generated horizon split has the problems of its base split: its prediction begins with that of the base.
    """
    begins: dict[str, str] = {}  # base split -> the longer one that it is read from
    for name in ("val", "test"):
        longer = data.splits.get(f"{name}_horizon")
        if longer is not None and _begins(data.splits[name], longer):
            begins[name] = longer.name
    splits = {
        name: data.splits[name] for name in (*SHIFTED, "val", "test") if name in data.splits and name not in begins
    }
    predicted = dict(zip(splits, rollout(operator, *splits.values()), strict=True))
    for name, longer in begins.items():
        predicted[name] = predicted[longer][:, : data.splits[name].solution.shape[1]]
    return predicted, sum(int(split.lengths.sum()) for split in splits.values())


def _begins(split: Split, longer: Split) -> bool:
    pairs = ((split.history, longer.history), (split.tau, longer.tau), (split.params, longer.params))
    is_same = len(split) == len(longer) and all(torch.equal(left, right) for left, right in pairs)
    return is_same and bool((longer.lengths >= split.lengths).all())


def base_metrics(operator: Operator, data: FamilyData, base: str, predicted: dict[str, Tensor]) -> dict[str, Metric]:
    """The metrics of `base`, val or test, with it as prefix."""
    split, prediction = data.splits[base], predicted[base]
    of_split = (prediction, split.solution, split.mask)
    points = data.points_per_delay
    found: dict[str, Metric] = _named("rel_error", metrics.summary(metrics.relative_error(*of_split)))
    found |= _named("centred_error", metrics.summary(metrics.centred_error(*of_split)))
    one_step, complete = one_step_rollout(operator, split)
    truth = split.solution[:, : one_step.shape[1]]
    found |= _named("one_step_error", metrics.summary(metrics.relative_error(one_step, truth, complete)), ("",))
    found["by_interval"] = interval_quantiles(metrics.interval_errors(*of_split, points), 0.5)
    times, ever_failed = metrics.valid_times(*of_split, points)
    found["valid_time"] = metrics.quantile(times, 0.5)
    found["valid_time_never_reached"] = 1.0 - float(ever_failed.double().mean())
    if f"{base}_horizon" in predicted:
        found |= _named(
            "rollout_error", metrics.summary(_errors(predicted[f"{base}_horizon"], data.splits[f"{base}_horizon"]))
        )
    if f"{base}_noise" in predicted:
        found |= noise_metrics(predicted[f"{base}_noise"], data.splits[f"{base}_noise"], prediction, split)
    return {f"{base}_{name}": value for name, value in found.items()}


def noise_metrics(disturbed: Tensor, noise: Split, undisturbed: Tensor, base: Split) -> dict[str, Metric]:
    """How the operator answers noise in the history, against how the truth does."""
    steps = min(disturbed.shape[1], undisturbed.shape[1])
    origin = noise.source
    mask = noise.mask[:, :steps] & base.mask[origin, :steps]
    ours = disturbed[:, :steps], undisturbed[origin, :steps]
    ratios = metrics.sensitivity(*ours, noise.solution[:, :steps], base.solution[origin, :steps], mask)
    gains = metrics.noise_gain(*ours, mask, noise.history, base.history[origin])
    return {
        "stability_score": metrics.stability_score(ratios, noise.level),
        "noise_gain": metrics.quantile(gains, 0.5),
    }


def outside_metrics(predicted: dict[str, Tensor], data: FamilyData) -> dict[str, Metric]:
    """Errors on the part of test_tau whose scaled numbers lie outside what training saw, and how many these are."""
    split, train = data.splits.get("test_tau"), data.splits["train"]
    if split is None or split.scaled is None or train.scaled is None:
        return {}
    outside = ((split.scaled < train.scaled.amin(0)) | (split.scaled > train.scaled.amax(0))).any(1)
    errors = _errors(predicted["test_tau"], split)[outside]
    found: dict[str, Metric] = _named("tau_outside_rel_error", metrics.summary(errors))
    return found | {"tau_outside_rel_error_count": int(outside.sum())}


def example_arrays(predicted: dict[str, Tensor], data: FamilyData) -> dict[str, np.ndarray]:
    """The best, median and worst trajectory of test, and the error by interval of test, test_tau and test_horizon."""
    split = data.splits["test"]
    errors = _errors(predicted["test"], split)
    known = (~errors.isnan()).nonzero().flatten()
    order = known[errors[known].argsort(stable=True)].tolist()
    arrays: dict[str, np.ndarray] = {}
    places = {"best": 0, "median": (len(order) - 1) // 2, "worst": len(order) - 1} if order else {}
    for case, place in places.items():
        index = order[place]
        steps = int(split.lengths[index])
        arrays[f"{case}_time"] = np.arange(1, steps + 1) / data.points_per_delay
        arrays[f"{case}_truth"] = split.solution[index, :steps].cpu().numpy()
        arrays[f"{case}_prediction"] = predicted["test"][index, :steps].cpu().numpy()
        arrays[f"{case}_history"] = split.history[index].cpu().numpy()
        arrays[f"{case}_tau"] = split.tau[index].double().cpu().numpy()
        arrays[f"{case}_error"] = errors[index].cpu().numpy()
    for name in ("test", "test_tau", "test_horizon"):
        if name in predicted:
            of_split = (predicted[name], data.splits[name].solution, data.splits[name].mask)
            by_interval = metrics.interval_errors(*of_split, data.points_per_delay)
            for label, q in (("median", 0.5), ("p90", 0.9)):
                arrays[f"{name}_interval_{label}"] = np.array(interval_quantiles(by_interval, q))
    return arrays


def interval_quantiles(errors: Tensor, q: float) -> list[float]:
    """The q-quantile over trajectories of the error in each interval: (N, K) -> K numbers."""
    return [metrics.quantile(column, q) for column in errors.unbind(1)]


def only_finite(found: dict[str, Metric]) -> dict[str, Metric]:
    """Without the metrics that are not finite: a diverged rollout has no mean error. One logged line names them."""
    dropped = [name for name, value in found.items() if not np.all(np.isfinite(value))]
    if dropped:
        logger.warning("not finite, left out: %s", ", ".join(dropped))
    return {name: value for name, value in found.items() if name not in dropped}


def _errors(prediction: Tensor, split: Split) -> Tensor:
    return metrics.relative_error(prediction, split.solution, split.mask)


def _named(
    name: str, values: dict[str, float], suffixes: tuple[str, ...] = ("", "_median", "_p90")
) -> dict[str, Metric]:
    return {f"{name}{suffix}": values[suffix] for suffix in suffixes if suffix in values}


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
