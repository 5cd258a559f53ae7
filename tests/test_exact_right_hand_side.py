"""With the true right-hand side in place of the network, the operators' integrators give the solver's solution."""

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
    row = torch.tensor(history)[:, None, :]  # (S, B, C)
    rows = []
    for _ in range(intervals):
        delayed, state = row.numpy(), row.log() if logarithmic else row
        delayed_slope = torch.tensordot(slope, row, 1).numpy() / tau
        jump = values["c"] * row if name == "neutral" else None

        def rate(y: torch.Tensor, window: slice) -> torch.Tensor:
            x = (y.exp() if logarithmic else y).numpy()
            change = family.right_hand_side(x, delayed[window], 0 * delayed_slope[window], values)  # noqa: B023
            return torch.tensor(tau * (change / x if logarithmic else change))

        following = picard(state[-1], rate, jump)
        row = following.exp() if logarithmic else following
        rows.append(row[1:, 0])
    predicted = torch.cat(rows).numpy()
    times = np.arange(1, intervals * points + 1) * tau / points
    truth = data.solve(name, HISTORIES[name], tau, params, times)
    error = np.linalg.norm(predicted - truth) / np.linalg.norm(truth)
    assert error < 1e-5
