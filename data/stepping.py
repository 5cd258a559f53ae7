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


def advance(
    form: Form,
    mesh: Mesh,
    last: Interval,
    tau: np.ndarray,
    params: Parameters,
    guess: np.ndarray | None = None,
) -> Interval:
    """Returns the interval after `last`; nan from the first element on that the mesh cannot hold."""
    values, slopes, start = [], [], last.values[-1, -1]
    for index, element in enumerate(mesh):
        known = (array if array is None else array[index] for array in (last.values, last.slopes, guess))
        value, slope = form.advance(element, start, Given(*known, form.tolerance), tau, params)
        values.append(value)
        slopes.append(slope)
        start = value[-1]
    return Interval(np.stack(values), np.stack(slopes) if form.keeps_slopes else None)


def tails(form: Form, mesh: Mesh, interval: Interval, size: np.ndarray) -> np.ndarray:
    """Returns what each element leaves out, (E, B): its last Chebyshev coefficients relative to the solution's size.

    `size` (B,) is the largest value so far. An error of log x is a relative error of x: there the size is at least 1.
    """
    size = np.maximum(size, 1.0 if form.is_logarithmic else np.finfo(float).tiny)
    return np.stack([part.tail(value) for part, value in zip(mesh, interval.values, strict=True)]) / size


def largest(interval: Interval) -> np.ndarray:
    """Returns the largest absolute value of each trajectory, (B,)."""
    return np.abs(interval.values).max(axis=(0, 1, 3))


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
