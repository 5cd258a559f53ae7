"""Weights & Biases: one logger for trials and studies, offline where nobody is logged in, and a silent twin."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracking.records import EpochRecord, FinalResults, RunConfig

logger = logging.getLogger(__name__)

WANDB_MODES = ("online", "offline", "disabled")


@dataclass(frozen=True)
class WandbSettings:
    """Where runs are logged. Plain values, so that they can be sent to worker processes."""

    mode: str  # one of WANDB_MODES
    project: str
    entity: str | None  # the text "None" means None
    results_dir: Path  # W&B's own files go to results_dir/wandb


class WandbLogger:
    """Logs one run at a time: a trial from start to finish, or a study's table. One per process."""

    def __init__(self, settings: WandbSettings) -> None:
        self.settings = settings

    def start_trial(self, config: RunConfig, n_params: int | None = None) -> None:
        """Begins the W&B run of a trial; one that is still open is finished first."""

    def log_epoch(self, record: EpochRecord) -> None:
        """Logs an epoch under the step `epoch`; what was not computed is left out."""

    def finish_trial(self, results: FinalResults, folder: Path | None = None) -> None:
        """Writes the summary, uploads best_model.pt and pictures of the run folder, and closes the run."""

    def log_study(
        self,
        study: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        config: Mapping[str, object] | None = None,
        summary: Mapping[str, object] | None = None,
        pictures: Sequence[Path] = (),
    ) -> None:
        """One run with job type "study": the table of its trials, and pictures."""


class NullWandb:
    """Takes everything and logs nothing: the mode "disabled"."""

    def start_trial(self, config: RunConfig, n_params: int | None = None) -> None: ...

    def log_epoch(self, record: EpochRecord) -> None: ...

    def finish_trial(self, results: FinalResults, folder: Path | None = None) -> None: ...

    def log_study(
        self,
        study: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        config: Mapping[str, object] | None = None,
        summary: Mapping[str, object] | None = None,
        pictures: Sequence[Path] = (),
    ) -> None: ...


def choose_wandb_mode(settings: WandbSettings) -> WandbSettings:
    """The settings with "offline" instead of "online" where nobody is logged in, with one logged line. Never asks."""
    return settings


def open_wandb(settings: WandbSettings) -> WandbLogger | NullWandb:
    """The logger of this process."""
    return NullWandb() if settings.mode == "disabled" else WandbLogger(settings)
