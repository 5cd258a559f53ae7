"""The ceiling of identification: least squares on the very terms of an equation, and the exact solver with the result.

Not an operator: it is told the right-hand side and finds its coefficients alone, which is what no reported operator
may do. How far an operator stays above it says what learning costs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data import forms
from data.batches import FamilyData, delay_rows
from data.families import FAMILIES
from data.trajectories import Draw, draw_split, solve_draws
from dno.quadrature import integration_matrix

Terms = Callable[[np.ndarray, np.ndarray, dict[str, np.ndarray]], list[np.ndarray]]
ROWS = 4000  # delay intervals that coefficients are fitted to

# Right-hand sides as sums of terms with coefficient 1, apart from the jump c x_d of neutral equations, which is not
# under the integral; and what fitted coefficients make of the parameters.
TERMS: dict[str, Terms] = {
    "mackey": lambda x, xd, p: [p["beta"] * xd / (1 + xd ** p["n"]), -p["gamma"] * x],
    "delayed_logistic": lambda x, xd, p: [p["r"] * x, -p["r"] / p["K"] * x * xd],
    "neutral": lambda x, xd, p: [p["a"] * x, p["b"] * xd],
    "reaction_diffusion": lambda x, xd, p: [p["r"] * x, -p["r"] * x * xd, p["D"] * forms.second_derivative(x)],
}


def fit(data: FamilyData) -> np.ndarray:
    """The coefficient of every term, by least squares on the increments of the training trajectories."""
    split = data.splits["train"]
    rows, intervals = delay_rows(split)
    which = [(i, n) for i in range(len(split)) for n in range(1, int(intervals[i]))]
    trajectory, interval = np.array(which)[np.linspace(0, len(which) - 1, min(ROWS, len(which))).astype(int)].T
    rows = rows.double().cpu().numpy()
    xd, x = rows[trajectory, interval], rows[trajectory, interval + 1]  # (R, M+1, C)
    params = split.params.double().cpu().numpy()[trajectory]
    named = {name: params[:, i, None, None] for i, name in enumerate(data.parameter_names)}
    tau = split.tau.double().cpu().numpy()[trajectory, None, None]
    cells = np.diff(integration_matrix(data.points_per_delay + 1, 1 / data.points_per_delay), axis=0)
    columns = [tau * np.einsum("jm,rmc->rjc", cells, term) for term in TERMS[data.family](x, xd, named)]
    if "neutral" in data.traits:
        columns.append(named["c"] * np.diff(xd, axis=1))
    target = np.diff(x, axis=1)
    # Every row counts alike: relative errors are what is measured.
    weight = 1 / np.sqrt(np.mean(np.square(target), axis=(1, 2), keepdims=True)).clip(1e-12)
    matrix = np.stack([(weight * column).ravel() for column in columns], axis=1)
    return np.linalg.lstsq(matrix, (weight * target).ravel(), rcond=None)[0]


def changed(family: str, draw: Draw, found: np.ndarray) -> tuple[dict[str, float], float]:
    """The parameters that the exact solver needs to follow the fitted equation, and the factor of its state."""
    p = dict(draw.params)
    if family == "mackey":
        return p | {"beta": p["beta"] * found[0], "gamma": p["gamma"] * found[1]}, 1.0
    if family == "delayed_logistic":
        return {"r": p["r"] * found[0], "K": p["K"] * found[0] / found[1]}, 1.0
    if family == "neutral":
        return {"a": p["a"] * found[0], "b": p["b"] * found[1], "c": p["c"] * found[2]}, 1.0
    return {"r": p["r"] * found[0], "D": p["D"] * found[2]}, found[1] / found[0]  # of v = factor · u


def errors(data: FamilyData, split: str, count: int, seed: int, found: np.ndarray) -> np.ndarray:
    """Relative L2 error of the fitted equation on every trajectory of a split made by `data.generate`, (N,)."""
    family, truth = FAMILIES[data.family], data.splits[split]
    draws = draw_split(family, split, count, seed)
    solved = []
    for draw in draws:
        params, factor = changed(data.family, draw, found)
        history = draw.history if factor == 1.0 else _scaled(draw.history, factor)
        solved.append((Draw(history, draw.tau, params), factor))
    intervals = -(-truth.solution.shape[1] // data.points_per_delay)
    values = solve_draws(family, [draw for draw, _ in solved], intervals).values
    mask, reference = truth.mask.cpu().numpy()[..., None], truth.solution.double().cpu().numpy()
    values = values[:, : mask.shape[1]] / np.array([factor for _, factor in solved])[:, None, None]
    return np.sqrt(np.sum(np.where(mask, values - reference, 0) ** 2, (1, 2)) / np.sum(np.square(reference), (1, 2)))


def _scaled(history: Callable[[np.ndarray], np.ndarray], factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda s: factor * history(s)
