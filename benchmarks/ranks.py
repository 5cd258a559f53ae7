"""Whether early errors rank configurations as their last errors do, for `benchmarks/search.py --ranks`.

Random configurations are trained twice: with the cycles of `--pruner promote`, which end at each rung, and with the one
cycle that all other trainings have.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.record import write_results
from search.promotion import REDUCTION, rungs

if TYPE_CHECKING:
    from experiment_tracker import EpochRecord

CYCLES, ONE = "cycles that end at the rungs", "one cycle"


def run(arguments: argparse.Namespace, device: str) -> None:
    """Trains and prints; what an earlier run of the same settings trained is kept."""
    import numpy as np
    import optuna

    from benchmarks.search import setting, train
    from search.sampling import suggest

    data, space, first = setting(arguments)
    wanted = {name: getattr(arguments, name) for name in ("model", "family", "max_epochs", "widest")}
    stored = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    trained = stored["trained"] if stored.get("settings") == wanted else []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ladder = rungs(arguments.max_epochs)
    for i in range(arguments.ranks):
        hyperparameters = first | suggest(study.ask(), space) if i else first
        if i < len(trained):
            continue
        record: dict[str, object] = {"hyperparameters": hyperparameters}
        for name, ends in ((CYCLES, ladder), (ONE, ())):
            errors: dict[int, float] = {}
            began = time.process_time()
            train(arguments, data, hyperparameters, i, listener(errors, arguments.max_epochs), ends)
            record[name] = {str(epoch): error for epoch, error in errors.items() if np.isfinite(error)}
            record[f"{name}, CPU seconds"] = time.process_time() - began
        trained.append(record)
        last = {name: min(record[name].values(), default=None) for name in (CYCLES, ONE)}
        print(f"configuration {i}: {last}", flush=True)
        rows = [row for name in (CYCLES, ONE) for row in agreement(trained, name, ladder, arguments.max_epochs)]
        command = "python benchmarks/search.py --ranks"
        write_results(arguments.output, device=device, command=command, rows=rows, settings=wanted, trained=trained)
    for row in rows:
        print(f"{row['name']}: {row['value']:.2f}")


def listener(errors: dict[int, float], last_epoch: int) -> Callable[[EpochRecord], str | None]:
    """Notes every error, and ends a training without its final evaluation."""

    def on_epoch(record: EpochRecord) -> str | None:
        errors[record.epoch] = record.val_rel_error
        return "pruned" if record.epoch == last_epoch else None

    return on_epoch


def agreement(
    trained: list[dict[str, object]], name: str, ladder: tuple[int, ...], last_epoch: int
) -> list[dict[str, object]]:
    """Spearman's rank correlation of the least errors until each rung with those at the end; and by how much the best
    of those that a rung lets pass is worse at the end than the best of all.

    One cycle is not evaluated at each rung: it is granted the next evaluation.
    """
    import numpy as np
    from scipy.stats import spearmanr

    def least(errors: dict[str, float], epoch: int) -> float:
        return min((error for when, error in errors.items() if int(when) <= epoch), default=np.inf)

    end = np.array([least(record[name], last_epoch) for record in trained])
    rows = [{"name": f"{name}: median error at the end", "value": float(np.median(end)), "unit": "relative L2"}]
    for rung in ladder:
        seen = min(int(e) for record in trained for e in record[name] if int(e) >= rung)
        early = np.array([least(record[name], seen) for record in trained])
        if len(trained) > 2:
            value = float(spearmanr(early, end).statistic)
            rows.append({"name": f"{name}: rank correlation of epoch {seen} with {last_epoch}", "value": value})
        passed = np.argsort(early)[: max(1, len(trained) // REDUCTION)]
        value = float(end[passed].min() / end.min())
        rows.append({"name": f"{name}: best of those that pass epoch {seen} / best of all", "value": value})
    return [{"unit": "", **row, "n": len(trained)} for row in rows]
