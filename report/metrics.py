"""Names, directions and labels of what a report can show, and which validation metric chooses the best."""

from collections.abc import Iterable
from dataclasses import dataclass

from report import ReportError

DEFAULT_METRIC = "test_rel_error"
FALLBACK_RANKING = "val_rel_error"
COSTS = ("train_seconds", "n_parameters", "inference_ms", "epochs", "seconds_to_best", "best_epoch")
HIGHER_IS_BETTER = ("valid_time",)
ALIASES = {"test_rollout_error": "rollout_error", "test_stability_score": "stability_score"}
HOPELESS = 10.0  # relative errors above it are all alike: drawn there, they leave the others their scale
LABELS = {
    "rel_error": "relative L2 error",
    "rel_error_median": "median relative L2 error",
    "rel_error_p90": "90 % relative L2 error",
    "centred_error": "mean-removed relative L2 error",
    "one_step_error": "one-delay error",
    "rollout_error": "error over twice the horizon",
    "stability_score": "stability score",
    "noise_gain": "noise gain",
    "valid_time": "valid time (delays)",
    "tau_rel_error": "error at larger delays",
    "tau_outside_rel_error": "error at delays outside training",
    "history_rel_error": "error on rougher histories",
    "train_seconds": "training time (s)",
    "n_parameters": "parameters",
    "inference_ms": "inference (ms)",
    "epochs": "epochs",
}
DEFINITIONS = {  # of what a page shows, in a line
    "test_rel_error": "mean of ‖prediction − truth‖ / ‖truth‖ over test trajectories, whole horizon; lower is better.",
    "val_rel_error": "the same on the validation split, which alone steers the search and chooses the best.",
    "test_centred_error": "the same with the truth's mean over time removed from the denominator.",
    "rollout_error": "the relative error over twice the horizon of training.",
    "stability_score": "0 means as sensitive to noise in the history as the truth; larger is worse.",
    "test_valid_time": "median time, in delays, until the error exceeds 0.4 standard deviations; higher is better.",
    "tau_rel_error": "the relative error at delays larger than any in training.",
    "history_rel_error": "the relative error on histories rougher than in training.",
    "train_seconds": "seconds in training steps.",
    "inference_ms": "milliseconds for one trajectory, within a batch.",
}


@dataclass(frozen=True)
class Metric:
    """What is shown (`column`) and what chooses the best (`ranking`): test values never choose."""

    column: str
    ranking: str
    higher_is_better: bool = False

    @property
    def label(self) -> str:
        return label(self.column)


def base_name(name: str) -> str:
    """The metric without its split: `val_rel_error` → `rel_error`."""
    return name.removeprefix("test_").removeprefix("val_")


def objective_columns(objectives: str) -> list[str]:
    """The metrics that a search's `--objectives` steered by: validation values, and costs."""
    return [name if name in COSTS else f"val_{name}" for name in objectives.split(",")]


def is_error(name: str) -> bool:
    """Whether it is a relative error, or a quantile of one."""
    return base_name(name).removesuffix("_median").removesuffix("_p90").endswith("error")


def label(name: str) -> str:
    """The metric in words for an axis: `val_rel_error` → `validation relative L2 error`."""
    base = base_name(name)
    words = LABELS.get(base, base.replace("_", " "))
    if name.startswith("val_"):
        return f"validation {words}"
    return words if base in COSTS else f"test {words}"


def resolve_metric(name: str, columns: Iterable[str]) -> Metric:
    """The metric that `--metric NAME` means among the columns that some run has.

    `rel_error` and `test_rel_error` mean the test value. Raises ReportError that lists the metrics there are; a
    known name that no run has, or any name where no run has a metric, is taken as it is.
    """
    present = set(columns)
    candidates = (name, f"test_{name}", ALIASES.get(name, name))
    if name in LABELS and name not in COSTS:
        candidates = (f"test_{name}", name)
    column = next((candidate for candidate in candidates if candidate in present), name)
    if present and column not in present and base_name(column) not in LABELS:
        raise ReportError(f"--metric {name}: expected one of {', '.join(sorted(present))}")
    base = base_name(column)
    if f"val_{base}" in present:
        ranking = f"val_{base}"
    elif base in COSTS or FALLBACK_RANKING not in present:
        ranking = column
    else:
        return Metric(column, FALLBACK_RANKING)
    return Metric(column, ranking, base in HIGHER_IS_BETTER)
