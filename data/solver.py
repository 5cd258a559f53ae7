"""Solves delay differential equations: one problem at any times (`solve`), or many on the stored grid (`solve_batch`).

Method of steps in float64. Time is scaled by the delay, s = t/τ, so that every breaking point is an integer and lies on
the mesh. An interval is held by its values at the Chebyshev nodes of a few elements, and `data.forms` says how each is
solved. Errors are controlled by the tails of Chebyshev coefficients, in batches also by a second resolution.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.chebyshev import Mesh
from data.families import FAMILIES, Family
from data.forms import Form, Parameters, general
from data.stepping import Interval, advance, from_history, largest, refine, tails

logger = logging.getLogger(__name__)

TOLERANCE = 2e-13  # of `solve`, for tails: a few times what rounding leaves there
ROUGHEST = 1e-4  # tolerance for a history beyond which it is refused
SHORTEST = 1e-11  # elements this short, in delays, count as resolved: they hold a kink or a jump
MOST_ELEMENTS = 4096
MOST_HISTORY_ELEMENTS = 256

BLOCK = 32  # trajectories solved at once: always as many, so that the arithmetic of one never depends on the others
TAIL = 1e-6  # largest tail that a batch leaves alone: a bound at the worst place of the worst element, not an L2 error
DIFFERENCE = 2e-8  # largest relative L2 difference from the coarser resolution
ROUGH_TAIL = 1e-3  # largest tail of a solution that only has to be judged
ROUGH_TOLERANCE = 1e-5  # of its iterations
LEVELS = 5  # resolutions that a batch tries after the coarsest, each with twice the elements of the one before


def solve(
    family: str | Family,
    history: Callable[[np.ndarray], np.ndarray],
    tau: float,
    params: Mapping[str, float],
    times: np.ndarray,
) -> np.ndarray:
    """Returns the solution at any `times` ≥ 0 as (len(times), C), to about twelve digits where the problem allows.

    `history(t)` takes times in [−τ, 0] (H,) to values (H,) or (H, C); where it has kinks, elements shrink around them.
    Ranges of parameters and rejections belong to generation: here any τ > 0 and finite parameters will do. Raises
    ValueError for wrong arguments and for solutions that leave the floating-point range.
    """
    family, tau, params, times = _checked(family, tau, params, times)
    intervals = np.maximum(np.ceil(times / tau).astype(int), 1) - 1
    result = np.empty((len(times), family.channels))
    n_intervals = int(intervals.max(initial=-1)) + 1
    with np.errstate(all="ignore"):
        for k, (form, mesh, interval) in enumerate(_march(family, history, tau, params, n_intervals)):
            mine = intervals == k
            matrix = mesh.sampling_matrix(np.clip(times[mine] / tau - k, 0, 1))
            result[mine] = form.decode(matrix @ interval.values.reshape(-1, family.channels))
    return result


def _checked(
    family: str | Family, tau: float, params: Mapping[str, float], times: np.ndarray
) -> tuple[Family, float, dict[str, np.ndarray], np.ndarray]:
    """Returns the arguments of `solve` as it uses them; raises ValueError where one is wrong."""
    if not isinstance(family, Family):
        if family not in FAMILIES:
            raise ValueError(f"family: expected a Family or one of {', '.join(FAMILIES)}, got {family!r}")
        family = FAMILIES[family]
    if not (np.isfinite(tau) and tau > 0):
        raise ValueError(f"tau: expected a finite positive delay, got {tau!r}")
    if set(params) != set(family.parameter_names):
        raise ValueError(
            f"params: {family.name} takes {', '.join(family.parameter_names)}, got {', '.join(params) or 'none'}"
        )
    for name, value in params.items():
        if not np.isfinite(value):
            raise ValueError(f"params: expected a finite {name}, got {value!r}")
    times = np.atleast_1d(np.asarray(times, dtype=float))
    if times.ndim != 1 or not (np.isfinite(times).all() and (times >= 0).all()):
        raise ValueError("times: expected finite times t >= 0, of shape (T,); the history covers what is before 0")
    values = {name: np.full((1, 1), float(params[name])) for name in family.parameter_names}
    return family, float(tau), values, times


def _march(
    family: Family, history: Callable[[np.ndarray], np.ndarray], tau: float, params: Parameters, n_intervals: int
) -> Iterator[tuple[Form, Mesh, Interval]]:
    """Yields one delay interval after the other, on a mesh that grows finer where the solution asks for it."""
    form = family.special_form or general(family.right_hand_side)
    mesh, x, tolerance = _resolved_history(family, form, history, tau)
    if form.is_logarithmic and (x <= 0).any():
        form = general(family.right_hand_side)
    last = from_history(form, mesh, x)
    size, delay = largest(last), np.full((1, 1), tau)
    for k in range(n_intervals):
        while True:
            interval = advance(form, mesh, last, delay, params)
            is_bad = _unresolved(mesh, tails(form, mesh, interval, np.fmax(size, largest(interval)))[:, 0], tolerance)
            if not is_bad.any():
                break
            mesh, last = refine(mesh, last, is_bad)
            if len(mesh) > MOST_ELEMENTS:
                raise ValueError(
                    f"{family.name}: the solution cannot be resolved on [{k * tau:.6g}, {(k + 1) * tau:.6g}]: "
                    "it leaves the floating-point range, or changes too fast"
                )
        size = np.maximum(size, largest(interval))
        yield form, mesh, interval
        last = interval


def _unresolved(mesh: Mesh, tail: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns which elements to halve, (E,): a tail counts with the root of the element's length, as in an L2 norm."""
    lengths = mesh.lengths
    if np.isfinite(tail).all():
        return (tail * np.sqrt(lengths) > tolerance) & (lengths > SHORTEST)
    first = np.argmin(np.isfinite(tail))  # nothing is known of what follows: halve what is not shorter
    return ~np.isfinite(tail) & (lengths >= lengths[first])


def _resolved_history(
    family: Family, form: Form, history: Callable[[np.ndarray], np.ndarray], tau: float
) -> tuple[Mesh, np.ndarray, float]:
    """Returns a mesh that holds the history, its values at the nodes (E · n, 1, C), and the tolerance that it meets."""
    tolerance = TOLERANCE
    mesh = Mesh.uniform(form.meshes[1][0], 1)
    while tolerance < ROUGHEST:
        x = _evaluate(family, history, tau * (mesh.places - 1))
        values = Interval(x.reshape(len(mesh), mesh.n, 1, -1))
        tail = tails(Form(None, ()), mesh, values, largest(values))[:, 0]
        is_bad = _unresolved(mesh, tail, tolerance)
        if not is_bad.any():
            return mesh, x, tolerance
        mesh = mesh.split(is_bad)
        if len(mesh) > MOST_HISTORY_ELEMENTS:
            mesh, tolerance = Mesh.uniform(form.meshes[1][0], 1), 10 * tolerance
            logger.warning("the history is not smooth: solving with the tolerance %.0e", tolerance)
    raise ValueError("history: cannot be resolved by piecewise polynomials; smooth or interpolate it before solving")


def _evaluate(family: Family, history: Callable[[np.ndarray], np.ndarray], times: np.ndarray) -> np.ndarray:
    """Returns the history's values at times (H,), as (H, 1, C); raises ValueError for wrong shapes and values."""
    values = np.asarray(history(times), dtype=float)
    shapes = [(len(times), family.channels)] + [(len(times),)] * (family.channels == 1)
    if values.shape not in shapes:
        expected = " or ".join("(H,)" if len(shape) == 1 else f"(H, {family.channels})" for shape in shapes)
        raise ValueError(f"history: expected values {expected} at H = {len(times)} times, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"history: expected finite values, got {values[~np.isfinite(values)][0]}")
    return values.reshape(len(times), 1, family.channels)


@dataclass(frozen=True)
class Piece:
    """Solved trajectories that share a mesh: which they are, and their intervals (K, E · n, rows, C)."""

    form: Form
    mesh: Mesh
    rows: np.ndarray
    values: np.ndarray

    def at(self, places: np.ndarray) -> np.ndarray:
        """Returns the solved variable at places in [0, 1] of every interval, (K, len(places), rows, C)."""
        matrix, (n_intervals, n_nodes, n_rows, channels) = self.mesh.sampling_matrix(places), self.values.shape
        result = np.empty((n_intervals, len(places), n_rows, channels))
        for first in range(0, n_rows, BLOCK):
            block = self.values[:, :, first : first + BLOCK]
            padded = np.resize(np.arange(block.shape[2]), BLOCK)
            values = matrix @ block[:, :, padded].reshape(n_intervals, n_nodes, -1)
            values = values.reshape(n_intervals, len(places), BLOCK, channels)
            result[:, :, first : first + BLOCK] = values[:, :, : block.shape[2]]
        return result

    def sample(self, points_per_delay: int) -> np.ndarray:
        """Returns the values on the stored grid, (rows, KM, C)."""
        values = self.at(np.arange(1, points_per_delay + 1) / points_per_delay)
        n_intervals, _, n_rows, channels = values.shape
        values = values.reshape(n_intervals * points_per_delay, n_rows, channels).swapaxes(0, 1)
        return self.form.decode(np.ascontiguousarray(values))

    def only(self, is_kept: np.ndarray) -> "Piece":
        """Returns the trajectories where `is_kept` (rows,)."""
        return Piece(self.form, self.mesh, self.rows[is_kept], self.values[:, :, is_kept])


@dataclass(frozen=True)
class BatchSolution:
    """N solved trajectories over K delays.

    `error` (N,) is each one's relative L2 difference from the next coarser resolution, hence an upper estimate. It is
    inf where a solution leaves the floating-point range or no resolution was fine enough to hold it.
    """

    pieces: Sequence[Piece]
    error: np.ndarray

    def sample(self, points_per_delay: int) -> np.ndarray:
        """Returns the values at t = jτ/M, j = 1 … KM, as (N, KM, C)."""
        n_intervals, _, _, channels = self.pieces[0].values.shape
        grid = np.empty((len(self.error), n_intervals * points_per_delay, channels))
        for piece in self.pieces:
            grid[piece.rows] = piece.sample(points_per_delay)
        return grid


@dataclass(frozen=True)
class Problems:
    """What a batch solves: N histories of scaled time, delays (N,), parameters (N, P), over K delays."""

    family: Family
    histories: Sequence[Callable[[np.ndarray], np.ndarray]]
    tau: np.ndarray
    params: np.ndarray
    n_intervals: int

    def solve_block(
        self, form: Form, mesh: Mesh, rows: np.ndarray, guess: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the intervals of some trajectories, (K, E · n, rows, C), and their largest relative tails (rows,)."""
        fill = np.resize(np.arange(len(rows)), BLOCK)
        padded = rows[fill]
        delay = self.tau[padded, None]
        params = {name: self.params[padded, i, None] for i, name in enumerate(self.family.parameter_names)}
        history = np.stack([self.histories[row](mesh.places - 1) for row in rows], axis=1)
        last = from_history(form, mesh, history[:, fill])
        size, tail, intervals = largest(last), np.zeros(BLOCK), []
        for k in range(self.n_intervals):
            begin = None if guess is None else guess[k][:, fill].reshape(last.values.shape)
            last = advance(form, mesh, last, delay, params, begin)
            size = np.maximum(size, largest(last))
            tail = np.maximum(tail, tails(form, mesh, last, size).max(axis=0))
            intervals.append(last.values.reshape(-1, *last.values.shape[2:])[:, : len(rows)])
        return np.stack(intervals), tail[: len(rows)]

    def solve(self, form: Form, mesh: Mesh, rows: np.ndarray, coarse: Piece | None = None) -> tuple[Piece, np.ndarray]:
        """Returns some trajectories on a mesh, and their largest relative tails; `coarse` is what they begin with."""
        guess = None if coarse is None else coarse.at(mesh.places)
        blocks = []
        for first in range(0, len(rows), BLOCK):
            mine = slice(first, first + BLOCK)
            blocks.append(self.solve_block(form, mesh, rows[mine], None if guess is None else guess[:, :, mine]))
        values, tail = zip(*blocks, strict=True)
        return Piece(form, mesh, rows, np.concatenate(values, axis=2)), np.concatenate(tail)


def _resolutions(family: Family) -> tuple[Form, list[Mesh]]:
    """Returns the form that solves a family and its meshes, from the coarsest to LEVELS finer ones."""
    form = family.special_form or general(family.right_hand_side)
    n, n_elements = form.meshes[1]
    return form, [Mesh.uniform(*form.meshes[0]), *(Mesh.uniform(n, n_elements * 2**level) for level in range(LEVELS))]


def solve_batch(
    family: Family,
    histories: Sequence[Callable[[np.ndarray], np.ndarray]],
    tau: np.ndarray,
    params: np.ndarray,
    n_intervals: int,
) -> BatchSolution:
    """Returns the solutions of N problems over `n_intervals` delays.

    `histories` take scaled times s in [−1, 0] (H,) to values (H, C); `tau` is (N,), `params` (N, P). All are solved at
    the two resolutions of the family's form; those that differ, or whose tails have not decayed, are solved again with
    twice the elements until they agree. A trajectory's bytes depend on nothing but its own problem.
    """
    problems = Problems(family, histories, np.asarray(tau, float), np.asarray(params, float), n_intervals)
    form, (coarsest, *meshes) = _resolutions(family)
    pieces, error = [], np.full(len(histories), np.inf)
    with np.errstate(all="ignore"):
        coarse, _ = problems.solve(form, coarsest, np.arange(len(histories)))
        for mesh in meshes:
            fine, tail = problems.solve(form, mesh, coarse.rows, coarse)
            difference = _relative_difference(*(piece.sample(family.points_per_delay) for piece in (coarse, fine)))
            error[fine.rows] = difference
            is_done = (difference <= DIFFERENCE) & (tail <= TAIL) | (mesh is meshes[-1])
            pieces.append(fine.only(is_done))
            coarse = fine.only(~is_done)
            if is_done.all():
                break
    return BatchSolution(pieces, error)


def solve_roughly(
    family: Family,
    histories: Sequence[Callable[[np.ndarray], np.ndarray]],
    tau: np.ndarray,
    params: np.ndarray,
    n_intervals: int,
) -> BatchSolution:
    """Returns what `solve_batch` does to about three digits, in a third of its time; `error` is the largest tail.

    For judging draws: one resolution, the coarsest, except for those whose tails exceed ROUGH_TAIL there.
    """
    problems = Problems(family, histories, np.asarray(tau, float), np.asarray(params, float), n_intervals)
    form, meshes = _resolutions(family)
    form = replace(form, tolerance=ROUGH_TOLERANCE)
    pieces, error, coarse = [], np.full(len(histories), np.inf), None
    rows = np.arange(len(histories))
    with np.errstate(all="ignore"):
        for mesh in meshes:
            piece, error[rows] = problems.solve(form, mesh, rows, coarse)
            is_done = (error[rows] <= ROUGH_TAIL) | (mesh is meshes[-1])
            pieces.append(piece.only(is_done))
            coarse, rows = piece.only(~is_done), rows[~is_done]
            if is_done.all():
                break
    return BatchSolution(pieces, np.where(np.isfinite(error), error, np.inf))


def _relative_difference(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns ‖x − reference‖/‖reference‖ of each trajectory, (N,); 0 where both vanish, inf where not finite."""
    x, reference = (values.reshape(len(values), np.prod(values.shape[1:])) for values in (x, reference))
    norm = np.linalg.norm(reference, axis=1)
    difference = np.linalg.norm(x - reference, axis=1) / np.where(norm > 0, norm, 1)
    return np.where(np.isfinite(difference), difference, np.inf)
