"""The method of steps: from one delay interval to the next, for B trajectories on a common mesh."""

from dataclasses import dataclass

import numpy as np

from data.chebyshev import Mesh, interpolation_matrix, nodes
from data.forms import Form, Given, Parameters


@dataclass(frozen=True)
class Interval:
    """One delay interval of B trajectories: values, and slopes where the form keeps them, (E, n, B, C)."""

    values: np.ndarray
    slopes: np.ndarray | None = None


def from_history(form: Form, mesh: Mesh, x: np.ndarray) -> Interval:
    """Returns the history as an interval, from its values at all nodes, (E · n, B, C)."""
    values = form.encode(x.reshape(len(mesh), mesh.n, *x.shape[1:]))
    if not form.keeps_slopes:
        return Interval(values)
    return Interval(values, np.stack([part.differentiate(v) for part, v in zip(mesh, values, strict=True)]))


class Stepper:
    """Takes B trajectories on a mesh from one interval to the next; what all intervals share is prepared once."""

    def __init__(self, form: Form, mesh: Mesh, tau: np.ndarray, params: Parameters) -> None:
        self.form = form
        self._solvers = [form.solver(element, tau, params) for element in mesh]

    def advance(self, last: Interval, guess: np.ndarray | None = None) -> Interval:
        """Returns the interval after `last`; nan from the first element on that the mesh cannot hold."""
        values, slopes, start = [], [], last.values[-1, -1]
        for index, solver in enumerate(self._solvers):
            known = (array if array is None else array[index] for array in (last.values, last.slopes, guess))
            value, slope = solver(start, Given(*known, self.form.tolerance))
            values.append(value)
            slopes.append(slope)
            start = value[-1]
        stacked = values[0][None] if len(values) == 1 else np.stack(values)
        return Interval(stacked, np.stack(slopes) if self.form.keeps_slopes else None)


def tails(form: Form, last: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Returns what each element leaves out, (…, E, B): its last Chebyshev coefficients relative to the solution's size.

    `last` are those coefficients (…, E, TAIL_LENGTH, B, C), `size` (…, B) is the largest value so far. An error of
    log x is a relative error of x: there the size is at least 1. inf where not finite.
    """
    size = np.maximum(size, 1.0 if form.is_logarithmic else np.finfo(float).tiny)
    most = np.abs(last).max(axis=(-3, -1))
    return np.where(np.isfinite(most), most, np.inf) / size[..., None, :]


def largest(values: np.ndarray) -> np.ndarray:
    """Returns the largest absolute value of each trajectory, (…, B), from values (…, E, n, B, C)."""
    return np.abs(values).max(axis=(-4, -3)).max(axis=-1)


def refine(mesh: Mesh, interval: Interval, is_cut: np.ndarray) -> tuple[Mesh, Interval]:
    """Returns the mesh with the elements where `is_cut` (E,) halved, and the same polynomials on it."""
    halves = [interpolation_matrix(mesh.n, 0.5 * (nodes(mesh.n) + side)) for side in (0, 1)]

    def cut(values: np.ndarray) -> np.ndarray:
        parts = []
        for value, is_halved in zip(values, is_cut, strict=True):
            parts += [np.tensordot(half, value, 1) for half in halves] if is_halved else [value]
        return np.stack(parts)

    slopes = None if interval.slopes is None else cut(interval.slopes)
    return mesh.split(is_cut), Interval(cut(interval.values), slopes)
