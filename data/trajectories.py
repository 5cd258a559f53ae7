"""The trajectories of a split: draws them, rejects, solves, disturbs, and lays them on the stored grid. No files.

Draw i of a split comes from its own random substream (seed, purpose, i, attempt): neither rejections nor the number of
draws shift another one. The horizon and the noise splits reuse the draws of val and test.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from data.families import Family
from data.histories import History, Together
from data.randomness import generator
from data.schema import NOISE_SPLITS, Dataset, step_counts
from data.solver import BatchSolution, solve_batch, solve_roughly

NOISE_LEVELS = (0.01, 0.05, 0.1)
TRAINED_SHARE = 0.8  # of the range of the delay; test_tau has the rest
MAX_ATTEMPTS = 100
CHUNK = (
    2560  # draws times channels solved at once: with 20 channels, 1000 draws at once took half their time for memory
)
GENERATOR_VERSION = 3  # raised when equal settings give other numbers


@dataclass(frozen=True)
class Draw:
    """One problem: a history in scaled time, a delay, parameters by name; and how many draws were rejected before."""

    history: History
    tau: float
    params: dict[str, float]
    rejections: int = 0


@dataclass(frozen=True)
class MadeSplit:
    """The trajectories of a split, and what making them told."""

    dataset: Dataset
    rejections: int
    solver: dict[str, Any]  # "method", "largest_error", "median_error": relative, over the trajectories


def generator_config(family: Family, split: str, count: int, seed: int) -> dict[str, Any]:
    """Returns everything that the numbers of a split follow from, as JSON types."""
    config = {
        "generator_version": GENERATOR_VERSION,
        "split": split,
        "count": count,
        "seed": seed,
        "equation": family.equation,
        "parameters": [[p.name, p.low, p.high, p.scale] for p in family.parameters],
        "tau": [*map(float, family.tau)],
        "horizon": family.horizon,
        "horizon_unit": family.horizon_unit,
        "points_per_delay": family.points_per_delay,
        "channels": family.channels,
        "traits": sorted(family.traits),
        "history": asdict(family.history),
    }
    return json.loads(json.dumps(config))  # tuples become lists, as they come back from a file


def base_split(split: str) -> str:
    """Returns the split whose draws a split uses: val for val_horizon and val_noise, itself otherwise."""
    return split.removesuffix("_horizon").removesuffix("_noise")


def draw_split(family: Family, split: str, count: int, seed: int) -> list[Draw]:
    """Returns the accepted draws of a split; raises ValueError when a family rejects nearly everything."""
    return _solved_draws(family, split, count, seed)[0]


def _solved_draws(family: Family, split: str, count: int, seed: int) -> tuple[list[Draw], np.ndarray, np.ndarray]:
    """Returns the accepted draws of a base split, their values over one horizon (N, KM, C), their errors (N,)."""
    draws = [_draw(family, split, seed, index, 0) for index in range(count)]
    values, error, is_accepted = _solve(family, draws, 1.0, is_judged=True)
    pending = np.flatnonzero(~is_accepted)
    while len(pending):
        for index in pending:
            attempt = draws[index].rejections + 1
            if attempt == MAX_ATTEMPTS:
                raise ValueError(f"family {family.name}: rejects {MAX_ATTEMPTS} draws in a row; widen its `accept`")
            draws[index] = _draw(family, split, seed, index, attempt)
        again = [draws[index] for index in pending]
        values[pending], error[pending], is_accepted = _solve(family, again, 1.0, is_judged=True)
        pending = pending[~is_accepted]
    return draws, values, error


def _solve(
    family: Family, draws: Sequence[Draw], factor: float, *, is_judged: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns values (N, KM, C) float32 over `factor` horizons, errors (N,), and which draws are accepted (N,).

    Values beyond the interval that a trajectory's horizon lies in are nan.

    A chunk at a time: float64 values of all would be the memory, and half the time, of what is made here.
    """
    # A law that judges wants all over the same time; others need not go beyond their own horizon.
    tau = np.array([family.tau[0] if family.accept else draw.tau for draw in draws])
    n_intervals, size = _intervals(family, factor, tau), max(1, CHUNK // family.channels)
    values = np.empty((len(draws), n_intervals.max(initial=0) * family.points_per_delay, family.channels), np.float32)
    error, is_accepted = np.empty(len(draws)), np.ones(len(draws), bool)
    for first in range(0, len(draws), size):
        mine = slice(first, first + size)
        solution = solve_draws(family, draws[mine], n_intervals[mine])
        values[mine, : solution.values.shape[1]], error[mine] = solution.values, solution.error
        values[mine, solution.values.shape[1] :] = np.nan
        if is_judged:
            is_accepted[mine] = _accept(family, draws[mine], solution)
    return values, error, is_accepted


def _accept(family: Family, draws: Sequence[Draw], solution: BatchSolution) -> np.ndarray:
    """Returns which draws a family accepts, (N,), given their solution over one horizon.

    It judges twice the horizon for every split, so that a horizon split continues exactly its base split. Three digits
    are enough to judge the second half by; where the first could not be solved, it is nan.
    """
    if family.accept is None:
        return np.ones(len(draws), bool)
    points, is_solved = family.points_per_delay, np.isfinite(solution.error)
    n_more = int(_intervals(family, 2.0, family.tau[0]) - _intervals(family, 1.0, family.tau[0]))
    beyond = np.full((len(draws), n_more * points, family.channels), np.nan)
    continued = [replace(draws[index], history=solution.endings[index]) for index in np.flatnonzero(is_solved)]
    if continued:
        beyond[is_solved] = solve_draws(family, continued, n_more, method=solve_roughly).values
    histories = _on_grid(family, draws)
    return np.asarray(family.accept(histories, np.concatenate([solution.values, beyond], axis=1)), bool)


def make_split(family: Family, split: str, count: int, seed: int) -> MadeSplit:
    """Returns the solved trajectories of a split made of `count` draws."""
    draws, values, error = _solved_draws(family, base_split(split), count, seed)
    rejections, factor, source, level = sum(draw.rejections for draw in draws), 1.0, None, None
    if split != base_split(split):
        rejections, factor = 0, 2.0 if split.endswith("_horizon") else 1.0
        if split in NOISE_SPLITS:
            source = np.repeat(np.arange(count), len(NOISE_LEVELS))
            level = np.tile(NOISE_LEVELS, count)
            draws = [_disturb(family, split, seed, draws[i], i, size) for i, size in zip(source, level, strict=True)]
        values, error, _ = _solve(family, draws, factor)
    if not np.isfinite(error).all():
        lost = int(np.flatnonzero(~np.isfinite(error))[0])
        raise ValueError(
            f"family {family.name}: trajectory {lost} of {split} cannot be solved "
            f"(tau {draws[lost].tau:g}, {draws[lost].params}); narrow the ranges or reject such draws with `accept`"
        )
    solver = {
        "method": "method of steps, float64",
        "largest_error": float(error.max()),
        "median_error": float(np.median(error)),
    }
    return MadeSplit(_lay_out(family, split, draws, values, factor, source, level), rejections, solver)


def _on_grid(family: Family, draws: Sequence[Draw]) -> np.ndarray:
    """Returns the histories on the stored grid, (N, M+1, C)."""
    grid = np.linspace(-1, 0, family.points_per_delay + 1)
    return Together([draw.history for draw in draws])(grid).swapaxes(0, 1)


def _lay_out(
    family: Family,
    split: str,
    draws: Sequence[Draw],
    values: np.ndarray,
    factor: float,
    source: np.ndarray | None,
    level: np.ndarray | None,
) -> Dataset:
    """Returns the values (N, KM, C) of the draws, cut to `factor` horizons, and what belongs to them."""
    points, horizon = family.points_per_delay, factor * family.horizon
    tau = np.array([draw.tau for draw in draws])
    steps = step_counts(tau, points, horizon, family.horizon_unit)
    params = {p.name: np.array([draw.params[p.name] for draw in draws]) for p in family.parameters}
    is_kept = np.arange(values.shape[1]) < steps[:, None]
    return Dataset(
        family=family.name,
        split=split,
        points_per_delay=points,
        horizon=horizon,
        horizon_unit=family.horizon_unit,
        traits=family.traits,
        parameter_names=tuple(params),
        history=_on_grid(family, draws).astype(np.float32),
        tau=tau,
        params=np.stack([*params.values()], axis=1) if params else np.zeros((len(draws), 0)),
        offsets=np.concatenate([[0], np.cumsum(steps)]),
        solution=values.reshape(-1, family.channels) if is_kept.all() else values[is_kept],
        source=source,
        level=level,
        scaled=family.scaled(params, tau) if family.scaled is not None else None,
    )


def _draw(family: Family, purpose: str, seed: int, index: int, attempt: int) -> Draw:
    stream = generator(seed, f"{family.name}/{purpose}", index, attempt)
    low, high = family.tau
    border = low + TRAINED_SHARE * (high - low)
    tau = stream.uniform(border, high) if purpose == "test_tau" else stream.uniform(low, border)
    params = {parameter.name: parameter.draw(stream) for parameter in family.parameters}
    return Draw(family.history.draw(stream, is_rough=purpose == "test_history"), float(tau), params, attempt)


def _disturb(family: Family, split: str, seed: int, draw: Draw, index: int, level: float) -> Draw:
    """Returns a draw with noise in its history; the three levels of one draw share the shape of the noise."""
    stream = generator(seed, f"{family.name}/{split}", index)
    return Draw(family.history.disturb(draw.history, level, stream), draw.tau, draw.params)


def _intervals(family: Family, factor: float, tau: np.ndarray | float) -> np.ndarray:
    """Returns the whole delays tau that cover `factor` horizons, in the shape of tau."""
    delays = family.horizon / tau if family.horizon_unit == "time" else np.full(np.shape(tau), family.horizon)
    return np.ceil(factor * delays - 1e-9).astype(int)


def solve_draws(
    family: Family,
    draws: Sequence[Draw],
    n_intervals: int | np.ndarray,
    *,
    method: Callable[..., BatchSolution] = solve_batch,
) -> BatchSolution:
    """Returns the solutions of draws over whole delays."""
    tau = np.array([draw.tau for draw in draws])
    params = np.array([[draw.params[p.name] for p in family.parameters] for draw in draws])
    return method(family, [draw.history for draw in draws], tau, params, n_intervals)
