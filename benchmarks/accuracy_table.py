"""The table of benchmarks/accuracy.py: medians over seeds, targets and whether they hold."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Record = dict[str, object]

OPERATORS = ("stacked_history", "method_of_steps", "memory_kernel")
SEARCH = "joint_fno search"  # of a baseline's configuration: a job, no row of the table
BASELINES = ("persistence", "joint_fno", "identified")
# Medians over seeds of a training of at most ten minutes, 1000 training trajectories. Columns as in COLUMNS.
TARGETS = {
    "mackey": {"test_rel_error_median": 2e-4, "test_rel_error_p90": 8e-4, "tau_rel_error_median": 4e-4},
    "delayed_logistic": {
        "test_rel_error_median": 3e-4,
        "test_rel_error_p90": 1e-3,
        "tau_rel_error_median": 1.2e-3,
        "tau_rel_error_p90": 2e-2,
    },
    "neutral": {"test_rel_error_median": 1e-4, "test_rel_error_p90": 4e-4, "tau_rel_error_median": 2e-4},
    "reaction_diffusion": {
        "test_rel_error_median": 1e-3,
        "test_rel_error_p90": 4e-3,
        "tau_rel_error_median": 4e-3,
        "tau_rel_error_p90": 3e-2,
    },
}
TRIVIAL_FACTOR = 5  # every operator must be this many times below persistence
SPREAD = 10  # and within this factor of the best operator of its family
BASELINE_RATIO = 10  # the best operator must be this many times below the searched Fourier operator

COLUMNS = {
    "test_rel_error_median": "median",
    "test_rel_error_p90": "90 %",
    "test_centred_error_median": "centred",
    "test_one_step_error": "one step",
    "tau_rel_error_median": "larger τ",
    "tau_rel_error_p90": "90 %",
    "tau_outside_rel_error_median": "outside",
    "history_rel_error_median": "rougher history",
    "rollout_error_median": "twice as long",
    "test_first_10_delays": "10 delays",
    "n_parameters": "parameters",
    "train_seconds": "training s",
    "inference_ms": "ms",
}


def medians(records: Sequence[Record], family: str, operator: str) -> dict[str, float]:
    """Every scalar metric's median over the seeds that have it."""
    own = [r["metrics"] for r in records if (r["family"], r["operator"]) == (family, operator) and "metrics" in r]
    names = {name for metrics in own for name, value in metrics.items() if isinstance(value, int | float)}
    named = {name: [metrics[name] for metrics in own if name in metrics] for name in names}
    found = {name: statistics.median(values) for name, values in named.items()}
    # The horizon splits' median stands beside their mean under the split's own name.
    if "test_rollout_error_median" in found:
        found["rollout_error_median"] = found["test_rollout_error_median"]
    return found


def table(records: Sequence[Record]) -> str:
    """A Markdown table: a row per family and operator, medians over seeds; the best operator of a family in bold."""
    lines = [
        "| family | operator | seeds | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|---|" + "---|" * len(COLUMNS),
    ]
    for family in dict.fromkeys(str(r["family"]) for r in records):
        best = best_operator(records, family)
        for operator in (*OPERATORS, *BASELINES):
            found = medians(records, family, operator)
            if found:
                count = sum((r["family"], r["operator"]) == (family, operator) for r in records)
                cells = [_cell(found.get(name), name) for name in COLUMNS]
                if operator == best:
                    cells[0] = f"**{cells[0]}**"
                lines.append(f"| {family} | {operator} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def best_operator(records: Sequence[Record], family: str) -> str | None:
    """The operator whose median error on validation, over seeds, is smallest: test chooses nothing."""
    known = {operator: medians(records, family, operator).get("val_rel_error_median") for operator in OPERATORS}
    known = {operator: error for operator, error in known.items() if error is not None}
    return min(known, key=known.__getitem__) if known else None


def _cell(value: float | None, name: str) -> str:
    if value is None:
        return "–"
    if name == "n_parameters":
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if name == "train_seconds" else f"{value:.2g}" if name == "inference_ms" else f"{value:.1e}"


def verdicts(records: Sequence[Record]) -> list[dict[str, object]]:
    """The targets, and whether they hold: of the best operator, of every operator, and against the baselines."""
    rows: list[dict[str, object]] = []

    def judge(name: str, value: float | None, target: float, unit: str = "relative L2", *, least: bool = False) -> None:
        if value is not None:
            holds = value >= target if least else value <= target
            rows.append({"name": name, "value": value, "unit": unit, "target": target, "holds": holds})

    for family in dict.fromkeys(str(r["family"]) for r in records):
        best = best_operator(records, family)
        if best is None:
            continue
        of_best = medians(records, family, best)
        for name, target in TARGETS.get(family, {}).items():
            judge(f"{family}: {best}, {COLUMNS_IN_WORDS[name]}", of_best.get(name), target)
        error, trivial, fno = (
            medians(records, family, operator).get("test_rel_error_median")
            for operator in (best, "persistence", "joint_fno")
        )
        for operator in OPERATORS:
            own = medians(records, family, operator).get("test_rel_error_median")
            if own is not None and trivial is not None:
                judge(f"{family}: {operator} below persistence", trivial / own, TRIVIAL_FACTOR, "times", least=True)
            if own is not None and operator != best:
                judge(f"{family}: {operator} over the best operator", own / error, SPREAD, "times")
        if fno is not None:
            judge(f"{family}: {best} below the Fourier operator", fno / error, BASELINE_RATIO, "times", least=True)
    return rows


COLUMNS_IN_WORDS = {
    "test_rel_error_median": "in range, median",
    "test_rel_error_p90": "in range, 90 %",
    "tau_rel_error_median": "larger τ, median",
    "tau_rel_error_p90": "larger τ, 90 %",
}
