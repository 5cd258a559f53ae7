"""Solves delay differential equations: one problem at any times (`solve`), or many on the stored grid (`solve_batch`).

Method of steps in float64. Time is scaled by the delay, s = t/τ, so that every breaking point is an integer and lies on
the mesh. An interval is held by its values at the Chebyshev nodes of a few elements, and `data.forms` says how each is
solved. Errors are controlled by the tails of Chebyshev coefficients, in batches also by a second resolution.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from data.chebyshev import Mesh
from data.families import FAMILIES, Family
from data.forms import Form, Parameters, general
from data.histories import Together
from data.pieces import Ending, Piece, regrouped
from data.stepping import Interval, Stepper, from_history, largest, refine, tails

# The judge of a resolution: the same trajectories at the one before, and now -> errors, and which are done, each (W,).
Judge = Callable[[Piece | None, Piece], tuple[np.ndarray, np.ndarray]]

logger = logging.getLogger(__name__)

TOLERANCE = 2e-13  # of `solve`, for tails: a few times what rounding leaves there
ROUGHEST = 1e-4  # tolerance for a history beyond which it is refused
SHORTEST = 1e-11  # elements this short, in delays, count as resolved: they hold a kink or a jump
MOST_ELEMENTS = 4096
MOST_HISTORY_ELEMENTS = 256

WIDE, NARROW = 640, 160  # channels times trajectories solved at once, and from the second refinement on, where few get
MOST_AT_ONCE, LEAST_AT_ONCE = 256, 8
TAIL = 1e-6  # largest tail that a batch leaves alone: a bound at the worst place of the worst element, not an L2 error
DIFFERENCE = 1e-4  # largest relative L2 difference from the coarser resolution: beyond, errors need not add up linearly
ERROR, SAFETY = 1e-8, 20  # largest relative L2 error of a batch, and the factor that its estimate is made larger by
UNSOLVED = 1e-2  # an estimate beyond which nothing is known
ITERATING, ROUNDING = 5, 1e-11  # what an iteration leaves, as a multiple of its tolerance, and what arithmetic does
ROUGH_TAIL = 1e-3  # largest tail of a solution that only has to be judged
BATCH_TOLERANCE, ROUGH_TOLERANCE = 1e-9, 1e-4  # of iterations, in batches and in what is only judged
LEAST_COMPARED = 8  # points of a delay at which two resolutions are compared
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
    Digits count from the largest value so far, of any channel; a pole that is stepped over is not noticed.
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
            is_bad = _unresolved(mesh, tails(form, mesh.last_coefficients(interval.values), now)[:, 0], tolerance)
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
        values = x.reshape(len(mesh), mesh.n, 1, -1)
        tail = tails(Form(None, ()), mesh.last_coefficients(values), largest(values))[:, 0]
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
class BatchSolution:
    """N solved trajectories over up to K delays: values at t = jτ/M, j = 1 … KM, (N, KM, C).

    Values are nan beyond the intervals that a trajectory was asked for. `error` (N,) estimates each one's relative L2
    error. It is above ERROR where no resolution was fine enough, and inf where it would exceed UNSOLVED or a solution
    leaves the floating-point range.
    """

    values: np.ndarray
    error: np.ndarray
    n_intervals: np.ndarray
    holders: Sequence[tuple[Piece, int]]  # the piece that a trajectory lies in, and its index there

    @property
    def endings(self) -> list[Ending]:
        """The last interval of every trajectory."""
        return [piece.ending(index, n) for (piece, index), n in zip(self.holders, self.n_intervals, strict=True)]


@dataclass
class Problems:
    """What a batch solves: N histories of scaled time, delays (N,), parameters (N, P), numbers of delays (N,), or one
    for all, on the family's grid or that of M points a delay.
    """

    family: Family
    histories: Sequence[Callable[[np.ndarray], np.ndarray]]
    tau: np.ndarray
    params: np.ndarray
    n_intervals: int | np.ndarray
    points_per_delay: int | None = None

    def __post_init__(self) -> None:
        self.tau, self.params = np.asarray(self.tau, float), np.asarray(self.params, float)
        self.n_intervals = np.broadcast_to(np.asarray(self.n_intervals, int), len(self.histories))
        if self.points_per_delay is None:
            self.points_per_delay = self.family.points_per_delay

    @cached_property
    def together(self) -> Together:
        """The histories, as they are evaluated."""
        return Together(self.histories)

    @property
    def rates(self) -> np.ndarray:
        """How fast each solution may change within a delay, up to a factor, (N,)."""
        if self.family.scaled is None:
            return self.tau
        params = dict(zip(self.family.parameter_names, self.params.T, strict=True))
        return np.abs(self.family.scaled(params, self.tau)).sum(axis=1)

    def solve(
        self, form: Form, mesh: Mesh, rows: np.ndarray, width: int, coarse: Piece | None = None, stride: int = 1
    ) -> Piece:
        """Returns at most `width` trajectories on a mesh.

        `coarse` is the same trajectories on another mesh: what iterations begin with.
        """
        fill, points = np.resize(rows, width), self.points_per_delay // stride
        n_intervals, channels = self.n_intervals[rows].max(), self.family.channels
        params = {name: self.params[fill, i, None] for i, name in enumerate(self.family.parameter_names)}
        stepper = Stepper(form, mesh, self.tau[fill, None], params)
        last = from_history(form, mesh, self.together(mesh.places - 1, fill))
        sampling = mesh.sampling_matrix(np.arange(1, points + 1) / points)
        sampled, intervals = np.empty((n_intervals, points, width * channels)), []
        sizes, coefficients = [largest(last.values)], []
        for k in range(n_intervals):
            last = stepper.advance(last, coarse.guess(mesh, k) if coarse is not None and form.iterates else None)
            sizes.append(largest(last.values))
            coefficients.append(mesh.last_coefficients(last.values))
            intervals.append(last.values.reshape(-1, width, channels))
            np.matmul(sampling, last.values.reshape(sampling.shape[1], -1), out=sampled[k])
        size = np.maximum.accumulate(sizes)[1:]
        tail = tails(form, np.stack(coefficients), size).max(axis=1)  # (K, W)
        tail = np.where(np.arange(n_intervals)[:, None] < self.n_intervals[fill], tail, 0).max(axis=0)
        sampled = form.decode(sampled.reshape(-1, width, channels))
        last_points = points * self.n_intervals[fill]
        shortest = last_points.min()
        sampled[shortest:][np.arange(shortest, len(sampled))[:, None] >= last_points] = 0
        return Piece(form, mesh, rows, intervals, sampled, stride, tail)

    def solve_all(self, form: Form, levels: int, judge: Judge, first_stride: int = 1) -> BatchSolution:
        """Returns all of them, each on the first of the family's meshes where `judge` says that it is done.

        A first mesh that ends none of them is sampled at every `first_stride`-th point alone.
        """
        n_rows, n_points = len(self.histories), self.points_per_delay * self.n_intervals
        values = np.empty((n_rows, n_points.max(initial=0), self.family.channels))
        error, holders = np.full(n_rows, np.inf), [None] * n_rows
        wide, narrow = (min(max(size // self.family.channels, LEAST_AT_ONCE), MOST_AT_ONCE) for size in (WIDE, NARROW))
        # Those of similar length and rates side by side: a piece goes on, and iterates, as long as one of them.
        order = np.lexsort((self.rates, self.n_intervals))
        pending = [(rows, None) for rows in np.split(order, range(wide, n_rows, wide))] if n_points.any() else []
        n, n_elements = form.meshes[1]
        finer = [Mesh.uniform(n, n_elements * 2**level) for level in range(levels)]
        for mesh in [Mesh.uniform(*form.meshes[0]), *finer]:
            width, tried = narrow if mesh in finer[1:] else wide, []
            for rows, coarse in pending:
                piece = self.solve(form, mesh, rows, width, coarse, first_stride if coarse is None else 1)
                error[rows], is_done = (found[: len(rows)] for found in judge(coarse, piece))
                is_done |= mesh is finer[-1]
                done = np.flatnonzero(is_done)
                values[rows[done], : len(piece.sampled)] = piece.sampled[:, done].swapaxes(0, 1)
                for index in done:
                    holders[rows[index]] = piece, index
                tried.append((piece, ~is_done))
            pending = [(piece.rows, piece) for piece in regrouped(tried, narrow if mesh in finer else wide)]
        for length in np.unique(n_points):
            values[n_points == length, length:] = np.nan
        error = np.where(error <= UNSOLVED, error, np.inf)
        return BatchSolution(values, error, self.n_intervals, holders)


def solve_batch(
    family: Family,
    histories: Sequence[Callable[[np.ndarray], np.ndarray]],
    tau: np.ndarray,
    params: np.ndarray,
    n_intervals: int | np.ndarray,
    points_per_delay: int | None = None,
) -> BatchSolution:
    """Returns the solutions of N problems over `n_intervals` delays, one number or one for each, on the family's grid
    or that of M points a delay.

    `histories` take scaled times s in [−1, 0] (H,) to values (H, C); `tau` is (N,), `params` (N, P). All are solved at
    the two resolutions of the family's form. Their difference is the error of the coarser one, which began as its tail
    or as what iteration and rounding leave; that of the finer one begins as its own and grows as much. Those with a
    larger estimate than ERROR are solved again with twice the elements. A feature that falls between the nodes of both
    is not seen. Among histories of one law, a trajectory's bytes depend on nothing but its own problem.
    """
    problems = Problems(family, histories, tau, params, n_intervals, points_per_delay)
    points = problems.points_per_delay
    form = replace(family.special_form or general(family.right_hand_side), tolerance=BATCH_TOLERANCE)
    noise, least = (form.tolerance, ITERATING * form.tolerance) if form.iterates else (ROUNDING, ROUNDING)

    def judge(coarse: Piece | None, fine: Piece) -> tuple[np.ndarray, np.ndarray]:
        if coarse is None:
            return np.full(len(fine.tail), np.inf), np.zeros(len(fine.tail), bool)
        now = fine.sampled[coarse.stride - 1 :: coarse.stride]
        difference = _relative_difference(coarse.sampled[: len(now)], now)
        error = least + difference * np.minimum(1, (SAFETY * fine.tail + noise) / (coarse.tail + noise))
        return error, (error <= ERROR) & (difference <= DIFFERENCE) & (fine.tail <= TAIL)

    stride = max(k for k in range(1, max(points // LEAST_COMPARED, 1) + 1) if points % k == 0)
    with np.errstate(all="ignore"):
        return problems.solve_all(form, LEVELS, judge, stride)


def solve_roughly(
    family: Family,
    histories: Sequence[Callable[[np.ndarray], np.ndarray]],
    tau: np.ndarray,
    params: np.ndarray,
    n_intervals: int | np.ndarray,
) -> BatchSolution:
    """Returns what `solve_batch` does to about three digits, in a third of its time; `error` is the largest tail.

    For judging draws: one resolution, the coarsest, except for those whose tails exceed ROUGH_TAIL there.
    """

    def judge(_: Piece | None, now: Piece) -> tuple[np.ndarray, np.ndarray]:
        return now.tail, now.tail <= ROUGH_TAIL

    problems = Problems(family, histories, tau, params, n_intervals)
    form = replace(family.special_form or general(family.right_hand_side), tolerance=ROUGH_TOLERANCE)
    with np.errstate(all="ignore"):
        return problems.solve_all(form, ROUGH_LEVELS, judge)


def _relative_difference(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns ‖x − reference‖/‖reference‖ of each trajectory, (W,), from (T, W, C); 0 where both vanish, inf where not
    finite. It adds up in an order that neither the width nor zeros at the end change.
    """
    size = np.abs(reference).max(axis=(0, 2), initial=0)[:, None]
    size[size == 0] = 1  # and squares that neither vanish nor overflow
    norm, difference = (np.sqrt(np.square(v / size).sum(axis=0).sum(axis=-1)) for v in (reference, x - reference))
    difference /= np.where(norm > 0, norm, 1)
    return np.where(np.isfinite(difference), difference, np.inf)
