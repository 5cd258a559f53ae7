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
from data.histories import evaluate
from data.stepping import Interval, Stepper, from_history, largest, refine, tails

# The judge of one resolution: values on the grid before and now, tails -> errors, and which are done, each (R,).
Judge = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

logger = logging.getLogger(__name__)

TOLERANCE = 2e-13  # of `solve`, for tails: a few times what rounding leaves there
ROUGHEST = 1e-4  # tolerance for a history beyond which it is refused
SHORTEST = 1e-11  # elements this short, in delays, count as resolved: they hold a kink or a jump
MOST_ELEMENTS = 4096
MOST_HISTORY_ELEMENTS = 256

WIDE, NARROW = 640, 160  # channels times trajectories solved at once, and from the second refinement on, where few get
MOST_AT_ONCE, LEAST_AT_ONCE = 128, 8
TAIL = 1e-6  # largest tail that a batch leaves alone: a bound at the worst place of the worst element, not an L2 error
DIFFERENCE = 2e-8  # largest relative L2 difference from the coarser resolution
ROUGH_TAIL = 1e-3  # largest tail of a solution that only has to be judged
BATCH_TOLERANCE, ROUGH_TOLERANCE = 1e-10, 1e-4  # of iterations, in batches and in what is only judged
LEVELS = 5  # resolutions that a batch tries after the coarsest, each with twice the elements of the one before
ROUGH_LEVELS = 2


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
    size, delay = largest(last.values), np.full((1, 1), tau)
    stepper = Stepper(form, mesh, delay, params)
    for k in range(n_intervals):
        while True:
            interval = stepper.advance(last)
            now = np.fmax(size, largest(interval.values))
            is_bad = _unresolved(mesh, tails(form, mesh, interval.values, now)[:, 0], tolerance)
            if not is_bad.any():
                break
            mesh, last = refine(mesh, last, is_bad)
            stepper = Stepper(form, mesh, delay, params)
            if len(mesh) > MOST_ELEMENTS:
                raise ValueError(
                    f"{family.name}: the solution cannot be resolved on [{k * tau:.6g}, {(k + 1) * tau:.6g}]: "
                    "it leaves the floating-point range, or changes too fast"
                )
        size = np.maximum(size, largest(interval.values))
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
        tail = tails(Form(None, ()), mesh, values.values, largest(values.values))[:, 0]
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
    """Solved trajectories that share a mesh: which they are (R,), and their intervals (K, E · n, W ≥ R, C).

    Beyond R they repeat: the width W is fixed, so that the arithmetic of one never depends on the others.
    """

    form: Form
    mesh: Mesh
    rows: np.ndarray
    values: np.ndarray

    def at(self, places: np.ndarray) -> np.ndarray:
        """Returns the solved variable at places in [0, 1] of every interval, (K, len(places), W, C)."""
        n_intervals, n_nodes, *shape = self.values.shape
        values = self.mesh.sampling_matrix(places) @ self.values.reshape(n_intervals, n_nodes, -1)
        return values.reshape(n_intervals, len(places), *shape)

    def sample(self, points_per_delay: int) -> np.ndarray:
        """Returns the solution at t = jτ/M, j = 1 … KM, as (R, KM, C)."""
        values = self.form.decode(self.at(np.arange(1, points_per_delay + 1) / points_per_delay))
        return values.reshape(-1, *values.shape[2:]).swapaxes(0, 1)[: len(self.rows)]

    def ending(self, index: int) -> "Ending":
        """Returns the last interval of the trajectory rows[index]."""
        return Ending(self.form, self.mesh, self.values[-1, :, index].copy())


@dataclass(frozen=True)
class Ending:
    """The last interval of a solution, values (E · n, C), as the history of what follows."""

    form: Form
    mesh: Mesh
    values: np.ndarray

    def __call__(self, s: np.ndarray) -> np.ndarray:
        """Returns the solution at scaled times s in [−1, 0] (H,), as (H, C)."""
        return self.form.decode(self.mesh.sampling_matrix(s + 1) @ self.values)


def _regroup(pieces: Sequence[tuple[Piece, np.ndarray]], width: int) -> list[Piece]:
    """Returns the trajectories where `is_kept` (R,) of all pieces, in pieces of one width."""
    if all(is_kept.all() and piece.values.shape[2] == width for piece, is_kept in pieces):
        return [piece for piece, _ in pieces]
    form, mesh = pieces[0][0].form, pieces[0][0].mesh
    rows = np.concatenate([piece.rows[is_kept] for piece, is_kept in pieces])
    values = np.concatenate([piece.values[:, :, np.flatnonzero(is_kept)] for piece, is_kept in pieces], axis=2)
    groups = np.split(np.arange(len(rows)), range(width, len(rows), width)) if len(rows) else []
    return [Piece(form, mesh, rows[mine], values[:, :, np.resize(mine, width)]) for mine in groups]


@dataclass(frozen=True)
class BatchSolution:
    """N solved trajectories over K delays: values at t = jτ/M, j = 1 … KM, (N, KM, C), and their last intervals.

    `error` (N,) is each one's relative L2 difference from the next coarser resolution, hence an upper estimate. It is
    inf where a solution leaves the floating-point range or no resolution was fine enough to hold it.
    """

    values: np.ndarray
    error: np.ndarray
    endings: Sequence[Ending]


@dataclass(frozen=True)
class Problems:
    """What a batch solves: N histories of scaled time, delays (N,), parameters (N, P), over K delays."""

    family: Family
    histories: Sequence[Callable[[np.ndarray], np.ndarray]]
    tau: np.ndarray
    params: np.ndarray
    n_intervals: int

    def solve(
        self, form: Form, mesh: Mesh, rows: np.ndarray, width: int, coarse: Piece | None = None
    ) -> tuple[Piece, np.ndarray]:
        """Returns at most `width` trajectories on a mesh, and their largest relative tails (R,).

        `coarse` is the same trajectories on another mesh: what iterations begin with.
        """
        guess = coarse.at(mesh.places) if coarse is not None and form.iterates else None
        fill = np.resize(np.arange(len(rows)), width)
        delay = self.tau[rows[fill], None]
        params = {name: self.params[rows[fill], i, None] for i, name in enumerate(self.family.parameter_names)}
        history = evaluate([self.histories[row] for row in rows], mesh.places - 1)
        last, stepper = from_history(form, mesh, history[:, fill]), Stepper(form, mesh, delay, params)
        values = np.empty((self.n_intervals + 1, *last.values.shape))
        values[0] = last.values
        for k in range(self.n_intervals):
            last = stepper.advance(last, None if guess is None else guess[k].reshape(last.values.shape))
            values[k + 1] = last.values
        size = np.maximum.accumulate(largest(values))
        tail = tails(form, mesh, values[1:], size[1:]).max(axis=(0, 1))
        flat = values[1:].reshape(self.n_intervals, -1, *values.shape[-2:])
        return Piece(form, mesh, rows, flat), tail[: len(rows)]

    def solve_all(self, form: Form, levels: int, points_per_delay: int, judge: Judge) -> BatchSolution:
        """Returns all of them, each on the first of the family's meshes where `judge` says that it is done."""
        n_rows = len(self.histories)
        values = np.full((n_rows, self.n_intervals * points_per_delay, self.family.channels), np.nan)
        error, endings = np.full(n_rows, np.inf), [None] * n_rows
        wide, narrow = (min(max(size // self.family.channels, LEAST_AT_ONCE), MOST_AT_ONCE) for size in (WIDE, NARROW))
        pending = [(rows, None) for rows in np.split(np.arange(n_rows), range(wide, n_rows, wide))]
        n, n_elements = form.meshes[1]
        finer = [Mesh.uniform(n, n_elements * 2**level) for level in range(levels)]
        for mesh in [Mesh.uniform(*form.meshes[0]), *finer]:
            width, left = narrow if mesh in finer[1:] else wide, []
            for rows, coarse in pending:
                piece, tail = self.solve(form, mesh, rows, width, coarse)
                sampled = piece.sample(points_per_delay)
                error[rows], is_done = judge(values[rows], sampled, tail)
                values[rows] = sampled
                is_done |= mesh is finer[-1]
                for index in np.flatnonzero(is_done):
                    endings[rows[index]] = piece.ending(index)
                left.append((piece, ~is_done))
            pending = [(piece.rows, piece) for piece in _regroup(left, narrow if mesh in finer else wide)]
        return BatchSolution(values, np.where(np.isfinite(error), error, np.inf), endings)


def solve_batch(
    family: Family,
    histories: Sequence[Callable[[np.ndarray], np.ndarray]],
    tau: np.ndarray,
    params: np.ndarray,
    n_intervals: int,
    points_per_delay: int | None = None,
) -> BatchSolution:
    """Returns the solutions of N problems over `n_intervals` delays, on the family's grid or that of M points a delay.

    `histories` take scaled times s in [−1, 0] (H,) to values (H, C); `tau` is (N,), `params` (N, P). All are solved at
    the two resolutions of the family's form; those that differ, or whose tails have not decayed, are solved again with
    twice the elements until they agree. A trajectory's bytes depend on nothing but its own problem.
    """

    def judge(coarse: np.ndarray, fine: np.ndarray, tail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        difference = _relative_difference(coarse, fine)
        return difference, (difference <= DIFFERENCE) & (tail <= TAIL)

    problems = Problems(family, histories, np.asarray(tau, float), np.asarray(params, float), n_intervals)
    form = replace(family.special_form or general(family.right_hand_side), tolerance=BATCH_TOLERANCE)
    with np.errstate(all="ignore"):
        return problems.solve_all(form, LEVELS, points_per_delay or family.points_per_delay, judge)


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

    def judge(_: np.ndarray, __: np.ndarray, tail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tail, tail <= ROUGH_TAIL

    problems = Problems(family, histories, np.asarray(tau, float), np.asarray(params, float), n_intervals)
    form = replace(family.special_form or general(family.right_hand_side), tolerance=ROUGH_TOLERANCE)
    with np.errstate(all="ignore"):
        return problems.solve_all(form, ROUGH_LEVELS, family.points_per_delay, judge)


def _relative_difference(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns ‖x − reference‖/‖reference‖ of each trajectory, (N,); 0 where both vanish, inf where not finite."""
    x, reference = (values.reshape(len(values), np.prod(values.shape[1:])) for values in (x, reference))
    norm = np.linalg.norm(reference, axis=1)
    difference = np.linalg.norm(x - reference, axis=1) / np.where(norm > 0, norm, 1)
    return np.where(np.isfinite(difference), difference, np.inf)
