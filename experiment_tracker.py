"""What a run leaves behind, and the only door to it: run folders, written and read, and Weights & Biases.

Writing:

    folder = RunFolder.create(results_dir, config)       # config.json
    folder.append_epoch(record)                          # one row of metrics.csv
    folder.save_predictions(arrays)                      # artifacts/predictions.npz
    folder.save_artifact("best_model.pt", writer)        # writer(path) writes it
    folder.finish(results)                               # final_results.json, always last

Reading: `read_runs(results_dir)` for all folders, `read_run(folder)` for one.

Weights & Biases: `open_wandb(settings)` gives a `WandbLogger`, or its silent twin where the mode is "disabled".
"""

from tracking.folders import ARTIFACTS, CHECKPOINTS, RESULTS, RunFolder, sha256, write_atomically
from tracking.reading import Run, read_run, read_runs
from tracking.records import ROLES, STATUSES, EpochRecord, FinalResults, RecordError, RunConfig
from tracking.wandb_log import (
    WANDB_MODES,
    NullWandb,
    StudyHead,
    StudyLog,
    WandbLogger,
    WandbSettings,
    choose_wandb_mode,
    open_wandb,
)

__all__ = [
    "ARTIFACTS",
    "CHECKPOINTS",
    "RESULTS",
    "ROLES",
    "STATUSES",
    "WANDB_MODES",
    "EpochRecord",
    "FinalResults",
    "NullWandb",
    "RecordError",
    "Run",
    "RunConfig",
    "RunFolder",
    "StudyHead",
    "StudyLog",
    "WandbLogger",
    "WandbSettings",
    "choose_wandb_mode",
    "open_wandb",
    "read_run",
    "read_runs",
    "sha256",
    "write_atomically",
]
