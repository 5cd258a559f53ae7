"""The ensemble: mean of its members, an error estimate whose coverage is measured, one file."""

from pathlib import Path

import numpy as np
import pytest
import torch

import dno
from dno.metrics import relative_error
from tests.cosine_family import ScaledSolution, make_family

FACTORS = (0.97, 1.0, 1.06)
TIMES = np.linspace(0, 5, 11)


@pytest.fixture
def ensemble() -> dno.Ensemble:
    return dno.Ensemble([ScaledSolution(factor) for factor in FACTORS])


def calibrated(ensemble: dno.Ensemble) -> float:
    split = make_family().splits["val"]
    return ensemble.calibrate(split.history, split.tau, split.params, split.solution, split.mask)


def history(t: np.ndarray) -> np.ndarray:
    return np.cos(t)


def test_predicts_the_mean_of_its_members(ensemble):
    single = [member.predict(history, 1.2, {"w": 1.3}, TIMES) for member in ensemble.members]
    assert np.allclose(ensemble.predict(history, 1.2, {"w": 1.3}, TIMES), np.mean(single, 0), atol=1e-6)


def test_error_estimate_is_the_spread_times_the_factor_that_covers_nine_of_ten(ensemble):
    with pytest.raises(ValueError, match="not calibrated"):
        ensemble.predict_with_error(history, 1.2, {"w": 1.3}, TIMES)
    factor = calibrated(ensemble)
    # All members are multiples of the truth: error .01 of it, spread the deviation of the factors, in every trajectory.
    assert factor == pytest.approx((np.mean(FACTORS) - 1) / np.std(FACTORS, ddof=1), rel=1e-3)
    values, error = ensemble.predict_with_error(history, 1.2, {"w": 1.3}, TIMES)
    truth = values / np.mean(FACTORS)
    # At time 0 the history itself is returned; from the second interval on values are off by a hundredth, as estimated.
    later = TIMES > 1.2
    assert error[0] == 0 and np.allclose(error[later], np.abs(values - truth)[later], rtol=1e-3, atol=1e-5)


def test_calibration_covers_and_ignores_padding(ensemble):
    split = make_family().splits["val"]
    torch.manual_seed(0)
    noise = 1 + 0.1 * torch.rand(len(split), 1, 1)  # errors of different size
    factor = ensemble.calibrate(split.history, split.tau, split.params, split.solution * noise, split.mask)
    padded = torch.where(split.mask[..., None], split.solution * noise, 1e9)
    assert ensemble.calibrate(split.history, split.tau, split.params, padded, split.mask) == factor
    mean, spread = ensemble.spread(split.history, split.tau, split.params, split.solution.shape[1])
    truth = split.solution * noise
    covered = relative_error(mean, truth, split.mask) <= factor * relative_error(truth + spread, truth, split.mask)
    assert 0.9 <= covered.double().mean() < 1.0 + 1e-9


def test_members_that_agree_everywhere_cannot_be_calibrated():
    with pytest.raises(ValueError, match="cannot be calibrated"):
        calibrated(dno.Ensemble([ScaledSolution(1.1), ScaledSolution(1.1)]))


def test_refuses_members_that_do_not_go_together():
    spec = dno.OperatorSpec(1, 8, ("a",))
    small, large = (dno.build_operator("method_of_steps", {"width": width}, spec) for width in (4, 8))
    for members in ([small], [small, large], [small, ScaledSolution(1.0)]):
        with pytest.raises(ValueError, match="at least two operators of one configuration"):
            dno.Ensemble(members)


def test_one_file_keeps_members_and_calibration(tmp_path: Path):
    spec = dno.OperatorSpec(1, 8, ("w",))
    torch.manual_seed(0)
    built = dno.Ensemble([dno.build_operator("method_of_steps", {"width": 4}, spec) for _ in range(3)])
    train = make_family().splits["train"]
    for member in built.members:
        member.fit_normalisation(train.history, train.solution, train.mask, train.tau, train.params)
    calibrated(built)
    dno.save(built, tmp_path / "ensemble.pt", {"study": "s"})
    loaded = dno.load(tmp_path / "ensemble.pt")
    assert isinstance(loaded, dno.Ensemble) and len(loaded.members) == 3 and loaded.typical() == built.typical()
    for before, after in zip(
        built.predict_with_error(history, 1.0, {"w": 1.5}, TIMES),
        loaded.predict_with_error(history, 1.0, {"w": 1.5}, TIMES),
        strict=True,
    ):
        assert np.array_equal(before, after)
