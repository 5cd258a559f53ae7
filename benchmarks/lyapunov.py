"""The largest Lyapunov exponent of Mackey–Glass by delay, from its tangent equation.

    python benchmarks/lyapunov.py

The tangent equation y' = β f'(x(t-τ)) y(t-τ) - γ y is solved beside the equation itself, as a second channel, and its
size is set back to one every few delays (Benettin et al. 1980; Farmer 1982 for delay equations). It says how long a
prediction can hold: an error of size e grows to the size of the solution in about -log(e)/λ. Writes
benchmarks/measured/lyapunov.json.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import OUTPUT, write_results  # noqa: E402
from search.environment import prepare_process  # noqa: E402

if TYPE_CHECKING:
    import numpy as np

DELAYS = (12.0, 14.0, 16.0, 17.0, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0, 24.0)
STRETCH = 20  # delays between two renormalisations
SETTLING, MEASURED = 20, 100  # stretches
HISTORIES = 8  # of each delay: attractors may coexist
LEAST = 2e-3  # an exponent below it is none, over this time
PERTURBATION = 1e-4  # whose growth time is printed: the error of a trained operator


def exponents(tau: Sequence[float]) -> np.ndarray:
    """Largest exponents per unit of time, over STRETCH · MEASURED delays after SETTLING stretches: (len(tau), H)."""
    import numpy as np

    from data.families import MACKEY, Family
    from data.randomness import generator
    from data.solver import solve_batch

    def right_hand_side(x: np.ndarray, xd: np.ndarray, _: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
        power = xd[..., :1] ** p["n"]
        slope = (1 + (1 - p["n"]) * power) / (1 + power) ** 2
        own = p["beta"] * xd[..., :1] / (1 + power) - p["gamma"] * x[..., :1]
        return np.concatenate([own, p["beta"] * slope * xd[..., 1:] - p["gamma"] * x[..., 1:]], axis=-1)

    values = [parameter.low for parameter in MACKEY.parameters]
    family = Family(
        name="mackey_tangent",
        equation=MACKEY.equation,
        right_hand_side=right_hand_side,
        parameters=MACKEY.parameters,
        tau=MACKEY.tau,
        history=MACKEY.history,
        horizon=STRETCH,
        horizon_unit="delays",
        points_per_delay=32,
        channels=2,
    )
    delays = np.repeat(np.array(tau), HISTORIES)
    params, grown = np.tile(values, (len(delays), 1)), np.zeros(len(delays))
    laws = [MACKEY.history.draw(generator(0, "benchmarks/lyapunov", index)) for index in range(len(delays))]
    histories = [_with_tangent(law) for law in laws]
    for stretch in range(SETTLING + MEASURED):
        solution = solve_batch(family, histories, delays, params, STRETCH)
        if not np.isfinite(solution.error).all():
            raise SystemExit("a stretch could not be solved; make STRETCH shorter")
        size = np.sqrt(np.mean(solution.values[:, -family.points_per_delay :, 1] ** 2, axis=1))
        grown += np.log(size) if stretch >= SETTLING else 0
        histories = [_rescaled(ending, float(s)) for ending, s in zip(solution.endings, size, strict=True)]
    return (grown / (STRETCH * MEASURED * delays)).reshape(len(tau), HISTORIES)


def _with_tangent(history: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    import numpy as np

    return lambda s: np.concatenate([history(s), np.ones((len(s), 1))], axis=1)


def _rescaled(ending: Callable[[np.ndarray], np.ndarray], size: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda s: ending(s) / [1.0, size]


def main() -> int:
    prepare_process()
    found = exponents(DELAYS)
    print("| τ | exponent, median | smallest to largest | per delay | an error of 1e-4 reaches the solution after |")
    print("|---|---|---|---|---|")
    for tau, values in zip(DELAYS, found.tolist(), strict=True):
        value = statistics.median(values)
        after = f"{-math.log(PERTURBATION) / (value * tau):.0f} delays" if value > LEAST else "–"
        print(f"| {tau:g} | {value:.4f} | {min(values):.4f} to {max(values):.4f} | {value * tau:.3f} | {after} |")
    write_results(
        OUTPUT / "lyapunov.json",
        device="cpu",
        command="python benchmarks/lyapunov.py",
        rows=[],
        tau=DELAYS,
        exponents=found.tolist(),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
