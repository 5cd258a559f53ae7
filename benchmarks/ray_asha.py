"""Ray Tune's ASHA with its Optuna searcher, for `benchmarks/search.py`: one trial at a time, as the others."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from hyperparameter_config import Choice, Range

if TYPE_CHECKING:
    from experiment_tracker import EpochRecord

GRACE = 3  # epochs before a trial may be stopped


def search(arguments: argparse.Namespace, space: dict[str, Range | Choice], first: dict[str, object]) -> None:
    """Prints each complete trial as a line of JSON; seconds are the CPU seconds of all trainings so far."""
    from ray import init, tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    class BudgetSpent(tune.Stopper):
        """Ends every trial, and the search."""

        def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
            return self.stop_all()

        def stop_all(self) -> bool:
            return total(spent) > arguments.seconds

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # as nice as the other searches
    init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    folder = arguments.results_dir
    spent = folder / "seconds"
    spent.touch()
    trainable = tune.with_parameters(train_one, arguments=arguments, spent=str(spent))
    tuner = tune.Tuner(
        trainable,
        param_space={name: domain(entry, tune) for name, entry in space.items()},
        tune_config=tune.TuneConfig(
            metric="error",
            mode="min",
            num_samples=-1,
            search_alg=ConcurrencyLimiter(
                OptunaSearch(seed=arguments.seed, points_to_evaluate=[{name: first[name] for name in space}]), 1
            ),
            scheduler=ASHAScheduler("epoch", max_t=arguments.max_epochs, grace_period=GRACE, reduction_factor=3),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(verbose=0, stop=BudgetSpent(), storage_path=str(folder)),
    )
    results = tuner.fit()
    for result in results:
        if result.metrics and result.metrics.get("is_complete"):
            found = {"seconds": result.metrics["spent"], "error": result.metrics["best"]}
            print(json.dumps(found | {"hyperparameters": first | dict(result.config)}), flush=True)


def total(spent: Path) -> float:
    """CPU seconds that all trainings wrote down."""
    return sum(float(line) for line in spent.read_text().split())


def domain(entry: Range | Choice, tune: ModuleType) -> object:
    """The entry of a search space in Ray's words."""
    if isinstance(entry, Choice):
        return tune.choice(list(entry.values))
    if entry.scale == "int":
        return tune.randint(entry.low, entry.high + 1)
    return (tune.loguniform if entry.scale == "log" else tune.uniform)(entry.low, entry.high)


def train_one(config: dict[str, object], arguments: argparse.Namespace, spent: str) -> None:
    """One trial: the shared trainer, every validation error reported, the last one after the final evaluation."""
    from ray import tune

    from benchmarks.search import setting, train

    data, _, first = setting(arguments)
    best, last = float("inf"), time.process_time()

    def report(record: EpochRecord, is_complete: bool) -> None:
        nonlocal best, last
        now = time.process_time()
        with open(spent, "a") as file:
            file.write(f"{now - last}\n")
        last = now
        if record.val_rel_error == record.val_rel_error:
            best = min(best, record.val_rel_error)
            found = {"epoch": record.epoch, "error": record.val_rel_error, "best": best, "is_complete": is_complete}
            tune.report(found | {"spent": total(Path(spent))})

    def on_epoch(record: EpochRecord) -> None:
        nonlocal latest
        latest = record
        if record.epoch < arguments.max_epochs:
            report(record, is_complete=False)

    latest: EpochRecord | None = None
    result = train(arguments, data, first | config, 0, on_epoch)
    if result.status == "complete":
        report(latest, is_complete=True)
