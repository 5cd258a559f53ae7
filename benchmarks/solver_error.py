"""How far the batch solver's trajectories are from the truth, and from its own estimates of that.

    python benchmarks/solver_error.py

Truth is the same problem on elements four times as fine with more nodes, iterated to 1e-13. The
draws are none of a dataset's: another seed. Prints a table and writes benchmarks/measured/solver_error.json.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import OUTPUT, write_results  # noqa: E402
from search.environment import prepare_process  # noqa: E402

GENERAL = "in range, general form"
SETS = {  # a split's law, and horizons
    "in range": ("train", 1.0),
    "larger τ": ("test_tau", 1.0),
    "rough": ("test_history", 1.0),
    "long": ("test", 2.0),
    GENERAL: ("train", 1.0),
}
COUNT, COUNT_IN_SPACE, COUNT_GENERAL, SEED = 1000, 400, 100, 7
FINER, MORE_NODES, TOLERANCE = 4, 8, 1e-13
Record = dict[str, object]


def measure(name: str, draws_of: str) -> Record:
    """Relative L2 errors of one family's draws, and what the solver estimates."""
    import numpy as np

    from data import solver
    from data.families import FAMILIES
    from data.trajectories import _intervals, draw_split, solve_draws

    (split, factor), family = SETS[draws_of], FAMILIES[name]
    count = COUNT_IN_SPACE if "spatial" in family.traits else COUNT
    draws = draw_split(family, split, COUNT_GENERAL if draws_of == GENERAL else count, SEED)
    n_intervals = _intervals(family, factor, np.array([draw.tau for draw in draws]))
    nodes, elements = family.special_form.meshes[1]
    meshes = ((nodes, FINER * elements), (nodes + MORE_NODES, FINER * elements))
    finer = replace(family, special_form=replace(family.special_form, meshes=meshes))
    tried = replace(family, special_form=None) if draws_of == GENERAL else family
    solution = solve_draws(tried, draws, n_intervals)
    usual, solver.BATCH_TOLERANCE = solver.BATCH_TOLERANCE, TOLERANCE
    try:
        exact = solve_draws(finer, draws, n_intervals)
    finally:
        solver.BATCH_TOLERANCE = usual
    assert np.isfinite(exact.error).all(), "a truth that could not be solved"
    truth = np.nan_to_num(exact.values)
    values = np.nan_to_num(solution.values)
    error = solver._relative_difference(values.swapaxes(0, 1), truth.swapaxes(0, 1))
    return {
        "trajectories": len(draws),
        "error_median": float(np.median(error)),
        "error_largest": float(error.max()),
        "estimate_largest": float(solution.error.max()),
        "error_over_estimate_largest": float((error / solution.error).max()),
    }


def main() -> int:
    prepare_process()
    from data.families import FAMILIES

    found = []
    print("| family | draws | trajectories | error: median | largest | largest estimate | largest error/estimate |")
    print("|---|---|---|---|---|---|---|")
    for name in FAMILIES:
        for words in SETS:
            record = measure(name, words)
            found.append({"family": name, "draws": words} | record)
            cells = [f"{value:.2g}" for key, value in record.items() if key != "trajectories"]
            print(f"| {name} | {words} | {record['trajectories']} | {' | '.join(cells)} |", flush=True)
    largest = max(record["error_largest"] for record in found)
    row = {"name": "largest error", "value": largest, "unit": "relative L2", "target": 1e-8, "holds": largest <= 1e-8}
    write_results(
        OUTPUT / "solver_error.json",
        device="cpu, one thread",
        command="python benchmarks/solver_error.py",
        rows=[row],
        sets=found,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
