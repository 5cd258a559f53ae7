"""Solved trajectories that share a mesh: what one resolution leaves to the next, and to the caller."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.chebyshev import Mesh
from data.forms import Form


@dataclass(frozen=True)
class Piece:
    """Solved trajectories that share a mesh: rows (R,), the values of each of their intervals (E · n, W ≥ R, C), the
    solution at every `stride`-th of the times t = jτ/M, (KM/stride, W, C), zero beyond what is asked for, and the
    largest relative tail of each (W,).

    Beyond R they repeat: the width W is fixed, so that the arithmetic of one never depends on the others.
    """

    form: Form
    mesh: Mesh
    rows: np.ndarray
    intervals: Sequence[np.ndarray]
    sampled: np.ndarray
    stride: int
    tail: np.ndarray

    def guess(self, mesh: Mesh, k: int) -> np.ndarray:
        """Returns interval k at the nodes of another mesh, (E, n, W, C)."""
        shape = self.intervals[k].shape[1:]
        values = self.mesh.sampling_matrix(mesh.places) @ self.intervals[k].reshape(-1, np.prod(shape))
        return values.reshape(len(mesh), mesh.n, *shape)

    def ending(self, index: int, n_intervals: int) -> "Ending":
        """Returns the last of the `n_intervals` of the trajectory rows[index]."""
        return Ending(self.form, self.mesh, self.intervals[n_intervals - 1][:, index].copy())


@dataclass(frozen=True)
class Ending:
    """The last interval of a solution, values (E · n, C), as the history of what follows."""

    form: Form
    mesh: Mesh
    values: np.ndarray

    def __call__(self, s: np.ndarray) -> np.ndarray:
        """Returns the solution at scaled times s in [−1, 0] (H,), as (H, C)."""
        return self.form.decode(self.mesh.sampling_matrix(s + 1) @ self.values)


def regrouped(tried: Sequence[tuple[Piece, np.ndarray]], width: int) -> list[Piece]:
    """Returns the trajectories where `is_left` (R,) of all pieces, in pieces of one width."""
    if all(is_left.all() and piece.sampled.shape[1] == width for piece, is_left in tried):
        return [piece for piece, _ in tried]
    left = [(piece, np.flatnonzero(is_left)) for piece, is_left in tried if is_left.any()]
    if not left:
        return []
    form, mesh, stride = (getattr(left[0][0], name) for name in ("form", "mesh", "stride"))
    rows = np.concatenate([piece.rows[mine] for piece, mine in left])
    sampled = _joined([piece.sampled[:, mine] for piece, mine in left], 0, axis=1)
    tail = np.concatenate([piece.tail[mine] for piece, mine in left])
    intervals = [np.stack(piece.intervals)[:, :, mine] for piece, mine in left] if form.iterates else []
    values = _joined(intervals, np.nan, axis=2) if form.iterates else None  # only an iteration begins with them
    found = []
    for group in np.split(np.arange(len(rows)), range(width, len(rows), width)):
        fill = np.resize(group, width)
        guess = () if values is None else values[:, :, fill]
        found.append(Piece(form, mesh, rows[group], guess, sampled[:, fill], stride, tail[fill]))
    return found


def _joined(arrays: Sequence[np.ndarray], beyond: float, axis: int) -> np.ndarray:
    """Returns arrays side by side, those that are shorter along their first axis continued by the value `beyond`."""
    longest = max(len(array) for array in arrays)
    missing = [np.full((longest - len(array), *array.shape[1:]), beyond) for array in arrays]
    return np.concatenate([np.concatenate(pair) for pair in zip(arrays, missing, strict=True)], axis=axis)
