"""Figures for the dataset card: does the delay matter on a family, and how far does no model at all get?"""

from dataclasses import dataclass

import numpy as np

from data.families import Family
from data.randomness import generator
from data.solver import solve_batch

STRETCH = 1.2


@dataclass(frozen=True)
class DelayEffect:
    """Relative L2 figures of n random trajectories, each an array (n,) over the draws."""

    change: np.ndarray  # of the solution when the delay grows to 1.2 τ, under the same history in scaled time
    best_constant: np.ndarray  # error of each trajectory's own mean over time, per channel

    @property
    def line(self) -> str:
        """The figures in words."""
        low, median = np.quantile(self.change, [0.1, 0.5])
        return f"delay effect {low:.2f} / {median:.2f} (10 % quantile / median), best constant {self._constant:.2f}"

    @property
    def _constant(self) -> float:
        return float(np.median(self.best_constant))


def delay_effect(family: Family, n: int, seed: int) -> DelayEffect:
    """Returns the figures of n draws over the whole range of the family; both solutions are compared at equal times."""
    streams = [generator(seed, f"{family.name}/delay effect", index) for index in range(n)]
    histories = [family.history.draw(stream) for stream in streams]
    params = np.array([[parameter.draw(stream) for parameter in family.parameters] for stream in streams])
    low, high = family.tau
    tau = np.array([stream.uniform(low, high) for stream in streams])
    delays = family.horizon / tau if family.horizon_unit == "time" else np.full(n, family.horizon)
    # Twelve points a delay of 1.2 τ and ten of τ lie at the same times.
    steps = np.floor(10 * delays + 1e-9).astype(int)
    short = solve_batch(family, histories, tau, params, int(np.ceil(steps.max() / 10)), 10).values
    long = solve_batch(family, histories, STRETCH * tau, params, int(np.ceil(steps.max() / 12)), 12).values
    change, constant = np.empty(n), np.empty(n)
    for index, (x, y, count) in enumerate(zip(short, long, steps, strict=True)):
        x, y = x[:count], y[:count]
        change[index] = np.linalg.norm(y - x) / np.linalg.norm(x)
        constant[index] = np.linalg.norm(x - x.mean(axis=0)) / np.linalg.norm(x)
    return DelayEffect(change, constant)
