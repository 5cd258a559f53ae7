"""The figures of the dataset card, from the trajectories themselves: python -m benchmarks.dataset_card

How much the delay matters, how far the best constant is off, and how many draws were rejected: `test` draws, seed 0.
"""

import time
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

from benchmarks.record import OUTPUT, write_results
from data import FAMILIES
from data.families import Family
from data.schema import step_counts
from data.solver import solve_batch
from data.trajectories import draw_split, make_split, solve_draws

COUNT = 200
STRETCH = (6, 5)  # tau grows to 6/5 of itself: stored times then lie on a grid of the stretched solution
LEAST_DELAY_EFFECT, LEAST_CONSTANT_ERROR = 0.05, 0.1


@dataclass(frozen=True)
class Row:
    """One figure and what is asked of it; `target` None for a figure that is only told."""

    name: str
    value: float
    unit: str
    target: float | None
    holds: bool | None


def relative_errors(values: list[np.ndarray], truths: list[np.ndarray]) -> np.ndarray:
    """Returns the relative L2 distance of every trajectory from the truth, (N,)."""
    return np.array([np.linalg.norm(v - x) / np.linalg.norm(x) for v, x in zip(values, truths, strict=True)])


def delay_effect(family: Family) -> np.ndarray:
    """Returns the relative change of every `test` solution when tau grows under the same scaled history, (N,)."""
    draws = draw_split(family, "test", COUNT, seed=0)
    tau, points = np.array([draw.tau for draw in draws]), family.points_per_delay
    steps = step_counts(tau, points, family.horizon, family.horizon_unit)
    plain = solve_draws(family, draws, int(np.ceil(steps.max() / points))).values
    factor = STRETCH[0] / STRETCH[1]
    slower = [replace(draw, tau=factor * draw.tau) for draw in draws]
    fine = partial(solve_batch, points_per_delay=points * STRETCH[0])
    stretched = solve_draws(family, slower, int(np.ceil(steps.max() / points / factor)), method=fine)
    other = stretched.values[:, STRETCH[1] - 1 :: STRETCH[1]]
    return relative_errors(
        [row[:n] for row, n in zip(other, steps, strict=True)], [row[:n] for row, n in zip(plain, steps, strict=True)]
    )


def figures(family: Family) -> list[Row]:
    """Returns the rows of one family."""
    started = time.perf_counter()
    made = make_split(family, "test", COUNT, seed=0)
    effect = delay_effect(family)
    truths = np.split(made.dataset.solution.astype(float), made.dataset.offsets[1:-1])
    constant = np.median(relative_errors([np.broadcast_to(x.mean(0), x.shape) for x in truths], truths))
    low = float(np.quantile(effect, 0.1))
    rejected = made.rejections / (COUNT + made.rejections)
    name = family.name
    return [
        Row(f"{name}: delay effect, 10 % quantile", low, "relative L2", LEAST_DELAY_EFFECT, low >= LEAST_DELAY_EFFECT),
        Row(f"{name}: delay effect, median", float(np.median(effect)), "relative L2", None, None),
        Row(
            f"{name}: best constant, median",
            float(constant),
            "relative L2",
            LEAST_CONSTANT_ERROR,
            bool(constant >= LEAST_CONSTANT_ERROR),
        ),
        Row(f"{name}: rejected draws", rejected, "share", None, None),
        Row(f"{name}: solver error, largest estimate", made.solver["largest_error"], "relative L2", None, None),
        Row(f"{name}: seconds", time.perf_counter() - started, "s", None, None),
    ]


def main() -> None:
    """Prints the table and writes benchmarks/measured/dataset_card.json."""
    rows = [row for family in FAMILIES.values() for row in figures(family)]
    for row in rows:
        told = "" if row.target is None else f"  (at least {row.target:g}: {'holds' if row.holds else 'FAILS'})"
        print(f"{row.name:50s} {row.value:9.2e} {row.unit}{told}")
    write_results(
        OUTPUT / "dataset_card.json",
        device="cpu",
        command="python -m benchmarks.dataset_card",
        rows=[asdict(row) for row in rows],
    )


if __name__ == "__main__":
    main()
