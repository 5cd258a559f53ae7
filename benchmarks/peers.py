"""The peers that `benchmarks/speed.py` compares with, set up to do the same work. None of them is required."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from data.families import Family
    from data.trajectories import Draw


def has(library: str) -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec(library) is not None


def neural_operator(shape: tuple[int, ...], kind: str) -> nn.Module:
    """neuraloperator's FNO: out of the box ("default"), or as our layers are ("same"): no channel MLP, thin ends.

    It keeps n_modes // 2 + 1 frequencies of the last axis, and n_modes of the others.
    """
    from neuralop.models import FNO

    _, space, modes_t, modes_x, _, width, n_layers = shape
    n_modes = (2 * modes_t, 2 * (modes_x - 1)) if space > 1 else (2 * (modes_t - 1),)
    options = {"in_channels": 1, "out_channels": 1, "hidden_channels": width, "n_layers": n_layers}
    if kind == "default":
        return FNO(n_modes=n_modes, **options)
    return FNO(
        n_modes=n_modes,
        use_channel_mlp=False,
        lifting_channel_ratio=1,
        projection_channel_ratio=1,
        positional_embedding=None,
        **options,
    )


def jitcdde_seconds(family: Family, draws: Sequence[Draw]) -> tuple[float, float]:
    """Medians over draws of what jitcdde's compiled integrator needs at rtol 1e-8: CPU seconds, and its error.

    Compiling is not counted; reading the history into its spline and stepping through the first breaking points are.
    """
    import symengine
    from chspy import CubicHermiteSpline
    from jitcdde import jitcdde, t, y

    from data.forms import second_derivative
    from data.solver import solve

    channels, times, errors = family.channels, [], []
    laplace = second_derivative(np.eye(channels)) if "spatial" in family.traits else None
    for draw in draws:
        now = np.array([y(i) for i in range(channels)], dtype=object)
        p = draw.params
        past = np.array([y(i, t - draw.tau) for i in range(channels)], dtype=object)
        if laplace is not None:
            rates = [
                p["D"] * sum(laplace[j, i] * now[j] for j in range(channels)) + p["r"] * now[i] * (1 - past[i])
                for i in range(channels)
            ]
        else:
            rates = list(family.right_hand_side(now, past, None, p))
        solver = jitcdde([symengine.sympify(rate) for rate in rates], n=channels, verbose=False, max_delay=draw.tau)
        solver.compile_C(chunk_size=100)
        start = time.process_time()
        spline = CubicHermiteSpline(n=channels)
        history = lambda time_, d=draw: d.history(np.array([time_ / d.tau]))[0]  # noqa: E731
        spline.from_function(history, times_of_interest=(-draw.tau, 0), max_anchors=100, tol=5)
        solver.add_past_points(spline)
        solver.set_integration_parameters(rtol=1e-8, atol=1e-10)
        solver.adjust_diff()
        horizon = family.horizon * (draw.tau if family.horizon_unit == "delays" else 1)
        targets = np.linspace(solver.t, horizon, 11)[1:]
        found = np.array([solver.integrate(target) for target in targets])
        times.append(time.process_time() - start)
        exact = solve(family, lambda s, d=draw: d.history(s / d.tau), draw.tau, p, targets)
        errors.append(float(np.linalg.norm(found - exact) / np.linalg.norm(exact)))
    return statistics.median(times), statistics.median(errors)


def ddeint_seconds(family: Family, draw: Draw, points_per_delay: int = 1024) -> tuple[float, float]:
    """What ddeint needs for one scalar draw: CPU seconds and its error, its best: it has no tolerance to set."""
    from ddeint import ddeint

    from data.solver import solve

    def rate(y: Callable[[float], float], t: float) -> float:
        return float(family.right_hand_side(y(t), y(t - draw.tau), None, draw.params))

    times = np.arange(0, family.horizon, draw.tau / points_per_delay)
    start = time.process_time()
    found = ddeint(rate, lambda t: float(draw.history(np.array([t / draw.tau]))[0, 0]), times)[1:]
    seconds = time.process_time() - start
    exact = solve(family, lambda s: draw.history(s / draw.tau), draw.tau, draw.params, times[1:])
    return seconds, float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
