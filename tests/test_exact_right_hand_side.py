"""With the true right-hand side in place of the network, the operators' integrators give the solver's solution."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import data
from data import FAMILIES
from dno.operator import OperatorSpec
from dno.picard import PicardWindows
from dno.quadrature import differentiation_matrix
from dno.registry import default_hyperparameters

HISTORIES = {
    "mackey": lambda t: 0.9 + 0.2 * np.sin(0.26 * t + 0.3),
    "delayed_logistic": lambda t: 0.8 + 0.2 * np.sin(2 * t + 0.2),
    "neutral": lambda t: 0.8 + 0.4 * np.sin(3 * t + 1.0),
    "reaction_diffusion": lambda t: (
        0.8
        + 0.2 * np.sin(2 * t + 0.3)[:, None] * np.cos(2 * np.pi * np.arange(20) / 20 + 0.4)
        + 0.1 * np.cos(t)[:, None] * np.sin(4 * np.pi * np.arange(20) / 20)
    ),
}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_picard_map_with_the_exact_rate_reproduces_the_solver_at_the_largest_delay(name):
    family = FAMILIES[name]
    tau, points, intervals = family.tau[1], family.points_per_delay, 10
    params = {p.name: p.high for p in family.parameters}
    # At the corner of the ranges itself neutral grows without bound, and ringing in space blows up.
    params |= {"neutral": {"a": 0.1, "b": -0.75, "c": 0.55}, "reaction_diffusion": {"r": 1.35}}.get(name, {})
    spec = OperatorSpec(family.channels, points, family.parameter_names, family.traits)
    defaults = default_hyperparameters("method_of_steps", spec)
    picard = PicardWindows(points + 1, defaults["sub_windows"], defaults["sweeps"]).double()
    slope = torch.tensor(differentiation_matrix(points + 1, 1 / points, np.arange(points + 1)))
    logarithmic = defaults["log_state"]
    values = {key: np.float64(value) for key, value in params.items()}

    history = HISTORIES[name](np.linspace(-tau, 0, points + 1)).reshape(points + 1, -1)
    row = torch.tensor(history)[:, None, None, :]  # (S, X, B, C)
    rows = []
    for _ in range(intervals):
        delayed, state = row.numpy(), row.log() if logarithmic else row
        delayed_slope = torch.tensordot(slope, row, 1).numpy() / tau
        jump = values["c"] * row if name == "neutral" else None

        def rates(window: slice, among: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
            def rate(y: torch.Tensor) -> torch.Tensor:
                x = (y.exp() if logarithmic else y).numpy()
                change = family.right_hand_side(x, delayed[window], 0 * delayed_slope[window], values)  # noqa: B023
                return torch.tensor(tau * (change / x if logarithmic else change))

            return rate

        following = picard(state[-1], rates, jump)
        row = following.exp() if logarithmic else following
        rows.append(row[1:, 0, 0])
    predicted = torch.cat(rows).numpy()
    times = np.arange(1, intervals * points + 1) * tau / points
    truth = data.solve(name, HISTORIES[name], tau, params, times)
    error = np.linalg.norm(predicted - truth) / np.linalg.norm(truth)
    assert error < 1e-5


@pytest.mark.parametrize("jump", [None, 0.3])
def test_trajectories_that_have_settled_leave_the_sweeps_and_keep_their_values(jump):
    picard = PicardWindows(33, 4, 30).double()
    decay = torch.tensor([0.0, -0.2, 5.0, 0.0, -9.0, 0.1], dtype=torch.float64)[:, None]  # y' = decay · y
    swept = []

    def rates(points: slice, among: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
        of = decay if among is None else decay[among]
        return lambda y: swept.append(y.shape[2]) or of * y

    start = torch.linspace(1, 2, 6, dtype=torch.float64)[None, :, None]
    time = torch.linspace(0, 1, 33, dtype=torch.float64)[:, None, None, None]
    slope = 0.0 if jump is None else jump  # y = start · exp(decay t) + ∫ slope · exp(decay (t - s)) ds
    forced = torch.where(decay == 0, time, (decay * time).expm1() / torch.where(decay == 0, 1.0, decay))
    found = picard(start, rates, None if jump is None else (jump * time).expand(33, 1, 6, 1))
    exact = start * (decay * time).exp() + slope * forced
    assert (found - exact).abs().max() < 1e-7 * exact.abs().max()  # quadrature
    assert set(swept) >= {6, 1} and len(swept) < 4 * 30
