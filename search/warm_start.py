"""`--warm_start RESULTS_DIR`: the first trials of a search take what served the same operator in earlier ones."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from experiment_tracker import Run, read_runs
from hyperparameter_config import Choice, Range
from search.sampling import snap

logger = logging.getLogger(__name__)

MOST = 3  # configurations taken over: more would leave small searches no trials of their own


def warm_starts(
    results_dir: Path, study: str, model: str, space: Mapping[str, Range | Choice]
) -> list[dict[str, object]]:
    """The best configuration of this operator for each family in a results folder, moved into the space.

    Runs of the study that begins with them are left out, as a folder may hold several studies.
    ValueError where the folder holds no complete trial of this operator.
    """
    best: dict[str, Run] = {}
    for run in read_runs(results_dir)[0]:
        if run.config.model == model and run.config.study != study and _error(run) < math.inf:
            rival = best.get(run.config.family)
            if rival is None or _error(run) < _error(rival):
                best[run.config.family] = run
    if not best:
        raise ValueError(
            f"--warm_start {results_dir}: holds no complete trial of {model} in another study; name earlier results"
        )
    chosen: list[dict[str, object]] = []
    for run in list(best.values())[:MOST]:
        parameters, _ = snap(run.config.hyperparameters, space)
        if parameters not in chosen:
            chosen.append(parameters)
            logger.info("%s begins also with the best configuration of %s, %s", model, run.config.family, run.name)
    return chosen


def _error(run: Run) -> float:
    if run.results is None or run.results.status != "complete":
        return math.inf
    value = run.results.metrics.get("val_rel_error")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.inf
