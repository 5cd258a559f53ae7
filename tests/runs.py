"""Run folders for tests: one configuration, its epochs and its results."""

import math
from pathlib import Path

import numpy as np

from experiment_tracker import (
    EpochRecord,
    FinalResults,
    RunConfig,
    RunFolder,
)

CONFIG = RunConfig(
    study="memory_kernel_mackey_random",
    slot=7,
    attempt=0,
    role="trial",
    search_type="random",
    model="memory_kernel",
    family="mackey",
    hyperparameters={"width": 64, "learning_rate": 1e-3, "log_state": True, "schedule": "one_cycle"},
    seed=3,
    max_epochs=30,
    patience=20,
    max_seconds=None,
    objectives=["rel_error"],
    device="cpu",
    threads=1,
    data_root="data",
    dataset_sha256={"train": "ab", "val": "cd", "test": "ef"},
    versions={"python": "3.11", "torch": "2.13.0", "numpy": "2.4.6", "optuna": "5.0.0"},
    command="python hyperparameter_search.py",
    created="2026-01-02T03:04:05+00:00",
)
METRICS = {"val_rel_error": 0.2, "test_rel_error": 0.25, "best_epoch": 2, "n_parameters": 1234, "rollout_error": 0.5}
RESULTS = FinalResults("complete", None, METRICS, {"training": 1.0, "evaluation": 0.5, "total": 1.75})


def epoch(number: int) -> EpochRecord:
    val = math.nan if number % 2 else 0.5 / number
    return EpochRecord(number, 1 / number, val, 1e-3, 0.1, 0.25, 0.25 * number)


def finished_run(results_dir: Path, config: RunConfig = CONFIG, epochs: int = 3) -> Path:
    folder = RunFolder.create(results_dir, config)
    for number in range(1, epochs + 1):
        folder.append_epoch(epoch(number))
    folder.save_predictions({"best_time": np.arange(4.0), "best_tau": np.float64(17.0)})
    folder.save_artifact("best_model.pt", lambda path: path.write_bytes(b"weights"))
    folder.finish(RESULTS)
    return folder.path
