"""What a search may minimise or maximise: the names of `--objectives`, their metric keys and what they need."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """One objective. `key` is its entry among the metrics; the search reads validation metrics and costs only."""

    name: str
    key: str
    direction: str = "minimize"
    split: str | None = None  # the split that must exist besides train, val and test


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("rel_error", "val_rel_error"),
        Objective("rel_error_median", "val_rel_error_median"),
        Objective("rel_error_p90", "val_rel_error_p90"),
        Objective("centred_error", "val_centred_error"),
        Objective("centred_error_median", "val_centred_error_median"),
        Objective("centred_error_p90", "val_centred_error_p90"),
        Objective("one_step_error", "val_one_step_error"),
        Objective("rollout_error", "val_rollout_error", split="val_horizon"),
        Objective("stability_score", "val_stability_score", split="val_noise"),
        Objective("noise_gain", "val_noise_gain", split="val_noise"),
        Objective("valid_time", "val_valid_time", direction="maximize"),
        Objective("train_seconds", "train_seconds"),
        Objective("n_parameters", "n_parameters"),
        Objective("inference_ms", "inference_ms"),
    )
}
TEST_ALIAS = {"test_rel_error": "rel_error"}


def parse_objectives(text: str) -> tuple[tuple[str, ...], list[str]]:
    """The objective names of a comma-separated list, and one line for every name that was replaced.

    Raises ValueError with the names there are.
    """
    names, notes = [], []
    for given in (part.strip() for part in text.split(",")):
        name = TEST_ALIAS.get(given, given)
        if name not in OBJECTIVES:
            raise ValueError(f"expected names among {', '.join(OBJECTIVES)}, got {given!r}")
        if name != given:
            notes.append(f"--objectives {given}: the search steers by validation, so {name} of the val split is used")
        if name in names:
            raise ValueError(f"{name!r} is named twice")
        names.append(name)
    return tuple(names), notes


def directions(names: tuple[str, ...]) -> list[str]:
    return [OBJECTIVES[name].direction for name in names]


def objective_values(metrics: Mapping[str, object], names: tuple[str, ...]) -> tuple[float, ...] | None:
    """The objectives of a complete trial, or None where one is missing or not finite."""
    values = [metrics.get(OBJECTIVES[name].key) for name in names]
    if any(not isinstance(value, int | float) or not math.isfinite(value) for value in values):
        return None
    return tuple(float(value) for value in values)
