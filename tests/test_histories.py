"""Random histories: exact derivatives, the laws they are drawn from, and noise of the stated size."""

import numpy as np
import pytest

from data import FAMILIES
from data.histories import History
from data.randomness import generator

FAMILY_NAMES = tuple(FAMILIES)
S = np.linspace(-1, 0, 201)


def draw(name: str, index: int, *, is_rough: bool = False) -> History:
    return FAMILIES[name].history.draw(generator(0, "histories", index), is_rough=is_rough)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("is_rough", [False, True])
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_derivative_is_exact(name: str, is_rough: bool, level: float) -> None:
    history = draw(name, 0, is_rough=is_rough)
    if level:
        history = FAMILIES[name].history.disturb(history, level, generator(0, "noise", 0))
    step = 1e-5
    difference = (history(S + step) - history(S - step)) / (2 * step)
    assert history(S).shape == history.derivative(S).shape == (len(S), FAMILIES[name].channels)
    # The error of the central difference: step²/6 times the third derivative, and rounding over the step.
    assert np.abs(history.derivative(S) - difference).max() <= 1e-6 * np.abs(difference).max()


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_positive_families_have_positive_histories(name: str) -> None:
    least = min(draw(name, index, is_rough=bool(index % 2))(S).min() for index in range(100))
    assert (least > 0) == ("positive" in FAMILIES[name].traits)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_rough_histories_are_rougher(name: str) -> None:
    def roughness(is_rough: bool) -> float:
        histories = [draw(name, index, is_rough=is_rough) for index in range(60)]
        return float(np.median([rms(h.derivative(S)) / rms(h(S)) for h in histories]))

    assert roughness(True) > 1.2 * roughness(False)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("level", [0.01, 0.05, 0.1])
def test_noise_has_the_stated_size(name: str, level: float) -> None:
    for index in range(20):
        history = draw(name, index)
        disturbed = FAMILIES[name].history.disturb(history, level, generator(0, "noise", index))
        change = rms(disturbed(S) - history(S)) / rms(history(S))
        assert change == pytest.approx(level, rel=0.15)  # e^x − 1 against x, at noise of three times the RMS
        assert history.noise is None and (disturbed(S).min() > 0 or not history.is_positive)


def test_series_follow_their_law() -> None:
    """c₀ · exp(Σ A_k sin(πks + p_k)), A_k ~ .35 N(0, 1)/k: log φ has the variance .35²/2 Σ 1/k² beyond that of c₀."""
    histories = [draw("mackey", index) for index in range(2000)]
    offsets = np.array([history.offset for history in histories])
    assert offsets.min() >= 0.5 and offsets.max() <= 1.3 and offsets.mean() == pytest.approx(0.9, abs=0.02)
    logs = np.array([np.log(history(np.array([-0.3]))[0, 0] / history.offset) for history in histories])
    assert logs.var() == pytest.approx(0.35**2 / 2 * (1 + 1 / 4 + 1 / 9), rel=0.15)


def test_spatial_series_are_periodic_waves_of_few_numbers() -> None:
    law = FAMILIES["reaction_diffusion"].history
    logs = np.array([np.log(draw("reaction_diffusion", index)(np.array([-0.6]))[0]) for index in range(800)])
    logs -= logs.mean(axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(logs, axis=1))
    assert spectrum[:, law.wave_numbers + 1 :].max() < 1e-12 < spectrum[:, 1].min()
    values = [draw("reaction_diffusion", index) for index in range(800)]
    fields = np.array([np.log(history(np.array([-0.6]))[0, 4] / history.offset) for history in values])
    assert fields.std() == pytest.approx(law.amplitude, rel=0.15)
