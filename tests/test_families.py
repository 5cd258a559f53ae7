"""The four families as data: ranges in which the delay matters, rejections, and what scaling by the delay leaves."""

from dataclasses import replace

import numpy as np
import pytest

from data import FAMILIES, solve
from data.card import delay_effect
from data.families import Parameter
from data.histories import RandomHistory
from data.randomness import generator
from data.solver import solve_batch
from tests.problems import IKEDA, relative_error

FAMILY_NAMES = tuple(FAMILIES)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_delay_matters(name: str) -> None:
    effect = delay_effect(FAMILIES[name], 60, 0)
    assert np.quantile(effect.change, 0.1) >= 0.05 and np.median(effect.change) >= 0.3
    assert np.median(effect.best_constant) >= 0.1
    assert effect.line.startswith("delay effect 0.")


def test_delay_effect_is_nothing_where_nothing_is_delayed() -> None:
    """x′ = −x with a constant history: the delay does not enter, and x̄ of e^{−t} is known."""
    decay = replace(
        IKEDA,
        right_hand_side=lambda x, xd, _, p: -x,
        parameters=(),
        history=RandomHistory(is_positive=True, offset=(1, 2), amplitude=0.0),
        horizon=5,
        horizon_unit="time",
    )
    effect = delay_effect(decay, 4, 0)
    assert effect.change.max() < 1e-9
    mean, square = (1 - np.exp(-5)) / 5, (1 - np.exp(-10)) / 10
    assert effect.best_constant == pytest.approx(np.sqrt(1 - mean**2 / square), rel=0.1)  # sums for integrals


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_solutions_depend_on_the_scaled_numbers_alone(name: str) -> None:
    family, stream = FAMILIES[name], generator(0, "scaled", 0)
    history = family.history.draw(stream)
    params = {parameter.name: parameter.draw(stream) for parameter in family.parameters}
    rates = {"beta", "gamma", "r", "a", "b", "D"}  # per time; the others have no unit of time
    slower = {key: value / 2 if key in rates else value for key, value in params.items()}
    tau, s = 1.3, np.linspace(0.1, 4, 20)
    x = solve(family, lambda t: history(t / tau), tau, params, tau * s)
    y = solve(family, lambda t: history(t / (2 * tau)), 2 * tau, slower, 2 * tau * s)
    assert relative_error(y, x) < 1e-10
    scaled = [
        family.scaled({k: np.array([v]) for k, v in p.items()}, np.array([d]))
        for p, d in ((params, tau), (slower, 2 * tau))
    ]
    np.testing.assert_allclose(*scaled, rtol=1e-14)


def test_accept_rejects_neutral_solutions_that_outgrow_their_history() -> None:
    family = FAMILIES["neutral"]
    streams = [generator(1, "accept", index) for index in range(400)]
    histories = [family.history.draw(stream) for stream in streams]
    params = np.array([[parameter.draw(stream) for parameter in family.parameters] for stream in streams])
    tau = np.array([stream.uniform(*family.tau) for stream in streams])
    grid = solve_batch(family, histories, tau, params, 20).values
    past = np.stack([history(np.linspace(-1, 0, family.points_per_delay + 1)) for history in histories])
    is_accepted = family.accept(past, grid)
    growth = np.abs(grid).max(axis=(1, 2)) / np.abs(past).max(axis=(1, 2))
    assert np.array_equal(is_accepted, growth <= 10)
    assert 0.01 < 1 - is_accepted.mean() < 0.07  # 3 % of the draws


def test_accept_rejects_negative_populations() -> None:
    accept = FAMILIES["reaction_diffusion"].accept
    solution = np.full((2, 5, 20), 0.1)
    solution[1, 2, 3] = -0.06
    assert accept(np.ones((2, 51, 20)), solution).tolist() == [True, False]


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_parameters_are_drawn_from_their_ranges(name: str) -> None:
    for parameter in FAMILIES[name].parameters:
        values = [parameter.draw(generator(0, "parameters", index)) for index in range(200)]
        assert parameter.low <= min(values) and max(values) <= parameter.high * (1 + 1e-12)


def test_logarithmic_parameters_spread_over_decades() -> None:
    values = [Parameter("D", 1e-4, 1e-2, "log").draw(generator(0, "log", index)) for index in range(1000)]
    assert np.median(values) == pytest.approx(1e-3, rel=0.25)
