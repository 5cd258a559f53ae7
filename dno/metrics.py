"""Errors of predicted trajectories as pure functions of tensors, in float64.

Norms are root sums over the valid (time, channel) entries of one trajectory; what the mask leaves out never counts.
A trajectory whose prediction is not finite has the error inf; one whose reference vanishes has none: nan, and every
summary leaves it out.
"""

import math

import torch
from torch import Tensor

VALID_TIME_THRESHOLD = 0.4  # of the true trajectory's standard deviation


def relative_error(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """‖x̂ - x‖ / ‖x‖ of every trajectory: (N, T, C), (N, T, C), (N, T) -> (N,)."""
    return _ratio(_norm(_difference(prediction, truth, mask)), norm(truth, mask))


def norm(values: Tensor, mask: Tensor) -> Tensor:
    """‖x‖ of every trajectory: (N, T, C), (N, T) -> (N,)."""
    return _norm(_masked(values, mask))


def centred_error(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """‖x̂ - x‖ / ‖x - x̄‖, x̄ the mean over time per channel: (N, T, C), (N, T, C), (N, T) -> (N,)."""
    return _ratio(_norm(_difference(prediction, truth, mask)), _norm(_centred(truth, mask)))


def interval_errors(prediction: Tensor, truth: Tensor, mask: Tensor, points_per_delay: int) -> Tensor:
    """RMS error in interval n over the RMS of the whole true trajectory, (N, K); nan in an incomplete interval."""
    intervals = truth.shape[1] // points_per_delay
    whole = slice(intervals * points_per_delay)
    error = _difference(prediction, truth, mask)[:, whole].unflatten(1, (intervals, points_per_delay))
    complete = mask[:, whole].unflatten(1, (intervals, points_per_delay)).all(-1)
    entries = mask.sum(1).double() * truth.shape[-1]
    scale = norm(truth, mask) / entries.sqrt()
    ratios = _ratio(error.square().mean((2, 3)).sqrt(), scale[:, None])
    return torch.where(complete, ratios, torch.nan)


def valid_times(prediction: Tensor, truth: Tensor, mask: Tensor, points_per_delay: int) -> tuple[Tensor, Tensor]:
    """Until when each prediction holds, in delays (N,), and whether it ever failed (N,) bool.

    It fails at the first time where the RMS error over channels exceeds VALID_TIME_THRESHOLD times the standard
    deviation (over time and channels, about each channel's mean) of the true trajectory. One that never fails holds
    until its end.
    """
    error = _difference(prediction, truth, mask).square().mean(-1).sqrt()  # (N, T)
    entries = mask.sum(1).double() * truth.shape[-1]
    deviation = _norm(_centred(truth, mask)) / entries.sqrt()
    failed = mask & ~(error <= VALID_TIME_THRESHOLD * deviation[:, None])
    ever = failed.any(1)
    steps = torch.where(ever, failed.int().argmax(1) + 1, mask.sum(1))
    times = steps.double() / points_per_delay
    return torch.where(deviation > 0, times, torch.nan), ever


def sensitivity(disturbed: Tensor, undisturbed: Tensor, true_disturbed: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """‖Ĝ(φ+δ) - Ĝ(φ)‖ / ‖G(φ+δ) - G(φ)‖ of every disturbed trajectory, (N,): 1 is as sensitive as the truth."""
    change = _norm(_difference(disturbed, undisturbed, mask))
    return _ratio(change, _norm(_difference(true_disturbed, truth, mask)))


def stability_score(ratios: Tensor, levels: Tensor) -> float:
    """max over noise levels ε of |log S_ε|, S_ε the median of `sensitivity` at that level: 0 is best."""
    medians = [quantile(ratios[levels == level], 0.5) for level in levels.unique()]
    if any(math.isnan(median) for median in medians):
        return math.nan
    return max((abs(math.log(median)) if 0 < median < math.inf else math.inf for median in medians), default=math.nan)


def noise_gain(disturbed: Tensor, undisturbed: Tensor, mask: Tensor, noisy_history: Tensor, history: Tensor) -> Tensor:
    """(‖Ĝ(φ+δ) - Ĝ(φ)‖ / ‖Ĝ(φ)‖) / (‖δ‖ / ‖φ‖), relative change out over relative change in, (N,)."""
    everywhere = torch.ones_like(history[..., 0], dtype=torch.bool)
    change_in = relative_error(noisy_history, history, everywhere)
    return _ratio(relative_error(disturbed, undisturbed, mask), change_in)


def summary(errors: Tensor) -> dict[str, float]:
    """Mean, median and 90 % quantile over trajectories, keyed by the suffixes "", "_median", "_p90"; {} for none."""
    errors = errors[~errors.isnan()].double()
    if not len(errors):
        return {}
    return {"": float(errors.mean()), "_median": quantile(errors, 0.5), "_p90": quantile(errors, 0.9)}


def quantile(values: Tensor, q: float) -> float:
    """The q-quantile of a vector, linear between order statistics; inf is a value, nan is left out, nan for none."""
    ordered = values[~values.isnan()].double().sort().values.tolist()
    if not ordered:
        return math.nan
    place = q * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low if low == high else low + (place - math.floor(place)) * (high - low)


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[..., None], values.double(), 0.0)


def _difference(left: Tensor, right: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[..., None], left.double() - right.double(), 0.0)


def _centred(truth: Tensor, mask: Tensor) -> Tensor:
    mean = _masked(truth, mask).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    return torch.where(mask[..., None], truth.double() - mean, 0.0)


def _norm(values: Tensor) -> Tensor:
    return values.square().sum((1, 2)).sqrt()


def _ratio(error: Tensor, reference: Tensor) -> Tensor:
    """error / reference; inf where the error is not finite, nan where the reference is zero."""
    ratio = torch.where(error.isfinite(), error / reference, torch.inf)
    return torch.where(reference == 0, torch.nan, ratio)
