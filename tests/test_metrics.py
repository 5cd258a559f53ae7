"""Metrics against values computed by hand, and their independence of padding."""

import math

import numpy as np
import pytest
import torch

from dno import metrics

POINTS = 4


def series(*rows: list[float]) -> torch.Tensor:
    """Trajectories of one channel, (N, T, 1) float64."""
    return torch.tensor(rows, dtype=torch.float64)[..., None]


def everywhere(values: torch.Tensor) -> torch.Tensor:
    return torch.ones(values.shape[:2], dtype=torch.bool)


def test_relative_error_is_the_ratio_of_norms_over_time_and_channels():
    truth = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    prediction = truth + torch.tensor([[[0.0, 1.5], [2.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    errors = metrics.relative_error(prediction, truth, everywhere(truth))
    assert errors.dtype == torch.float64
    assert errors.tolist() == [0.5, 0.5]


def test_centred_error_removes_each_channels_own_mean_over_time():
    angle = torch.arange(8) * math.pi / 4  # a whole period: the mean of a cosine over it is zero
    truth = torch.stack([100 + 2 * angle.cos(), -7 + 2 * angle.sin()], -1)[None]
    prediction = truth + 0.5
    # ‖0.5‖² = 16 · 0.25 = 4 and ‖x - x̄‖² = 2 · 8 · 4/2 = 32
    error = metrics.centred_error(prediction.double(), truth.double(), everywhere(truth))
    assert error.item() == pytest.approx(math.sqrt(4 / 32), rel=1e-5)  # truth was built in float32


def test_interval_errors_are_per_interval_against_the_whole_trajectory():
    truth = series([2.0] * 10, [2.0] * 10)
    prediction = truth + series([1.0] * 4 + [3.0] * 4 + [50.0] * 2, [0.0] * 4 + [1.0, -1.0, 1.0, 50.0] + [0.0] * 2)
    mask = everywhere(truth)
    mask[1, 7:] = False
    errors = metrics.interval_errors(prediction, truth, mask, POINTS)
    assert errors[0].tolist() == [0.5, 1.5]
    assert errors[1, 0].item() == 0.0
    assert errors[1, 1].isnan()  # three of four points


def test_interval_errors_divide_by_the_rms_of_all_channels():
    truth = torch.tensor([3.0, 4.0]).expand(1, 4, 2).double()
    errors = metrics.interval_errors(truth + torch.tensor([1.0, 0.0]), truth, everywhere(truth), POINTS)
    assert errors.item() == pytest.approx(math.sqrt(0.5) / math.sqrt(12.5), rel=1e-14)


def test_valid_times_end_at_the_first_time_beyond_the_threshold():
    truth = series([1.0, -1.0] * 4, [1.0, -1.0] * 4, [1.0, -1.0] * 4, [5.0] * 8)  # deviation 1, the last one 0
    prediction = truth.clone()
    prediction[0, 5:] += 0.41
    prediction[0, 2] += 0.39
    prediction[1, 3] = torch.nan
    mask = everywhere(truth)
    mask[2, 6:] = False
    times, ever_failed = metrics.valid_times(prediction, truth, mask, POINTS)
    assert times[:3].tolist() == [6 / 4, 1.0, 6 / 4]
    assert times[3].isnan()
    assert ever_failed.tolist()[:3] == [True, True, False]


def test_stability_score_is_the_largest_log_ratio_of_medians():
    history = torch.randn(6, POINTS, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = 0.1 * history.flip(0)
    levels = torch.tensor([0.1, 0.1, 0.1, 0.5, 0.5, 0.5])
    gain = torch.tensor([math.e, math.e, 90.0, math.exp(-2), 1e-9, math.exp(-2)], dtype=torch.float64)[:, None, None]
    # The truth doubles its input; the operator answers a disturbance `gain` times as strongly.
    mask = everywhere(history)
    ratios = metrics.sensitivity(2 * history + 2 * gain * noise, 2 * history, 2 * (history + noise), 2 * history, mask)
    assert torch.allclose(ratios, gain[:, 0, 0], rtol=1e-6)
    assert metrics.stability_score(ratios[:3], levels[:3]) == pytest.approx(1.0, abs=1e-12)
    assert metrics.stability_score(ratios, levels) == pytest.approx(2.0, abs=1e-12)
    assert metrics.stability_score(torch.ones(4), torch.ones(4)) == 0.0
    assert metrics.stability_score(torch.zeros(4), torch.ones(4)) == math.inf  # deaf to its history
    assert math.isnan(metrics.stability_score(torch.ones(0), torch.ones(0)))


def test_noise_gain_is_relative_change_out_over_relative_change_in():
    history = series([1.0, 2.0, 2.0], [2.0, 3.0, 6.0])  # norms 3 and 7
    noise = series([0.3, 0.0, 0.0], [0.0, 0.7, 0.0])  # a tenth of them
    undisturbed = series([3.0, 4.0], [6.0, 8.0])  # norms 5 and 10
    disturbed = undisturbed + series([0.5, 0.0], [0.0, 4.0])
    gains = metrics.noise_gain(disturbed, undisturbed, everywhere(undisturbed), history + noise, history)
    assert gains.tolist() == pytest.approx([1.0, 4.0], rel=1e-14)


@pytest.mark.parametrize("garbage", [1e9, torch.nan, torch.inf])
def test_padding_does_not_matter_to_any_metric(garbage):
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    truth, prediction, disturbed, true_disturbed = (draw(3, 12, 2) for _ in range(4))
    history, noisy = draw(3, POINTS + 1, 2), draw(3, POINTS + 1, 2)
    mask = torch.arange(12) < torch.tensor([12, 9, 5])[:, None]

    def all_metrics(*fields: torch.Tensor) -> list[torch.Tensor]:
        prediction, truth, disturbed, true_disturbed = fields
        return [
            metrics.relative_error(prediction, truth, mask),
            metrics.centred_error(prediction, truth, mask),
            metrics.interval_errors(prediction, truth, mask, POINTS),
            *metrics.valid_times(prediction, truth, mask, POINTS),
            metrics.sensitivity(disturbed, prediction, true_disturbed, truth, mask),
            metrics.noise_gain(disturbed, prediction, mask, noisy, history),
        ]

    fields = (prediction, truth, disturbed, true_disturbed)
    filled = [torch.where(mask[..., None], field, garbage) for field in fields]
    zeroed = [torch.where(mask[..., None], field, 0.0) for field in fields]
    for one, other in zip(all_metrics(*filled), all_metrics(*zeroed), strict=True):
        assert torch.equal(one.nan_to_num(-1.0), other.nan_to_num(-1.0))
    longer = [torch.cat([field, torch.full((3, 8, 2), garbage)], 1) for field in fields[:2]]
    long_mask = torch.cat([mask, torch.zeros(3, 8, dtype=torch.bool)], 1)
    assert torch.allclose(metrics.relative_error(*longer, long_mask), all_metrics(*fields)[0], rtol=1e-14)


def test_a_prediction_that_is_not_finite_has_an_infinite_error_and_a_vanishing_truth_none():
    truth = series([1.0, 1.0], [1.0, 1.0], [0.0, 0.0])
    prediction = series([1.0, torch.nan], [torch.inf, 1.0], [1.0, 1.0])
    errors = metrics.relative_error(prediction, truth, everywhere(truth))
    assert errors.tolist()[:2] == [math.inf, math.inf]
    assert errors[2].isnan()
    assert metrics.interval_errors(prediction, truth, everywhere(truth), 1)[0].tolist() == [0.0, math.inf]
    gains = metrics.noise_gain(prediction, prediction, everywhere(truth), 2 * truth + 1, truth + 1)
    assert gains.tolist()[:2] == [math.inf, math.inf]


def test_summary_keeps_the_median_where_one_error_is_infinite():
    errors = torch.tensor([3.0, 1.0, math.inf, 2.0, math.nan, 4.0])
    assert metrics.summary(errors) == {"": math.inf, "_median": 3.0, "_p90": math.inf}
    assert metrics.summary(torch.tensor([math.nan])) == {}
    assert metrics.summary(torch.tensor([1.0, 2.0, 6.0]))[""] == 3.0


@pytest.mark.parametrize("size", [1, 2, 7, 50])
@pytest.mark.parametrize("q", [0.0, 0.5, 0.9, 1.0])
def test_quantile_is_numpys(size, q):
    values = np.random.default_rng(size).normal(size=size)
    assert metrics.quantile(torch.tensor(values), q) == pytest.approx(np.quantile(values, q), rel=1e-13)
