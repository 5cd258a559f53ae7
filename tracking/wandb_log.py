"""Weights & Biases: one logger for trials and studies, offline where nobody is logged in, and a silent twin.

W&B's own files lie in `results_dir/wandb`; a run that was logged offline is uploaded with `wandb sync` on its folder.
"""

import contextlib
import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tracking.folders import ARTIFACTS
from tracking.records import EpochRecord, FinalResults, RunConfig

logger = logging.getLogger(__name__)

WANDB_MODES = ("online", "offline", "disabled")
PICTURES = (".png", ".pdf", ".svg", ".html")
LONGEST_TAG = 64
INIT_SECONDS = 20.0  # how long an online run waits for the server before it goes offline
FINISH_SECONDS = 60.0  # and for the last upload
EPOCH_KEYS = {  # the key in W&B of each field of an EpochRecord
    "train_loss": "train/loss",
    "val_rel_error": "val/rel_error",
    "learning_rate": "lr",
    "gradient_norm": "grad_norm",
    "epoch_seconds": "epoch_time",
    "elapsed_seconds": "elapsed_time",
}
AXES = ("train/*", "val/*", *(key for key in EPOCH_KEYS.values() if "/" not in key))  # what is drawn over the epoch
PANELLESS = ("elapsed_time",)  # an axis to choose, whose own panel would be a straight line
SUMMARY_KEYS = {  # besides the metrics under their own names
    "best_val": "val_rel_error",
    "best_epoch": "best_epoch",
    "test_rel_error": "test_rel_error",
    "rollout_error": "rollout_error",
    "stability_score": "stability_score",
    "n_params": "n_parameters",
}


@dataclass(frozen=True)
class StudyLog:
    """What the run of a study shows. The keys before a slash are the sections of its workspace."""

    name: str
    tags: tuple[str, ...]
    config: Mapping[str, object]
    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]  # of the table `trials`, a row a trial
    course: Sequence[Mapping[str, float]]  # what is drawn over the step `trial`, by key
    summary: Mapping[str, object]
    pictures: Mapping[str, tuple[Path, str]] = field(default_factory=dict)  # name -> PNG file and caption


@dataclass(frozen=True)
class WandbSettings:
    """Where runs are logged. Plain values, so that they can be sent to worker processes."""

    mode: str  # one of WANDB_MODES
    project: str
    entity: str | None  # the text "None" means None
    results_dir: Path

    def __post_init__(self) -> None:
        if self.mode not in WANDB_MODES:
            raise ValueError(f"--wandb_mode: expected one of {', '.join(WANDB_MODES)}, got {self.mode!r}")
        if self.entity is not None and self.entity.strip().lower() in ("", "none"):
            object.__setattr__(self, "entity", None)


class WandbLogger:
    """Logs one run at a time: a trial from start to finish, or a study. One logger per process.

    Losing W&B never stops a search: an unreachable server means offline runs from then on, and a run that breaks off
    later costs one logged line. The run folder is the record of truth.
    """

    def __init__(self, settings: WandbSettings) -> None:
        import wandb

        self.settings = settings
        self._wandb = wandb
        self._troubles = (*_troubles(), OSError)
        self._run: wandb.Run | None = None
        self._study = ""
        folder = self.settings.results_dir.resolve() / "wandb"
        os.environ.setdefault("WANDB_DATA_DIR", str(folder))  # W&B has no setting for these two
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "cache"))

    def start_trial(self, config: RunConfig, n_params: int | None = None) -> None:
        """Begins the W&B run of a trial; one that is still open is finished first."""
        flat = {key: value for key, value in asdict(config).items() if not isinstance(value, dict)}
        flat = {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in flat.items()}
        flat |= config.hyperparameters
        flat |= {f"version_{name}": version for name, version in config.versions.items()}
        self._study = config.study
        self._start(
            group=config.study,
            job_type=config.role,
            name=f"{config.role}-{config.slot:04d}",
            tags=[config.model, config.family, config.search_type],
            config=flat if n_params is None else {**flat, "n_params": n_params},
        )
        self._attempt(lambda: self._define_steps("epoch", AXES))

    def log_epoch(self, record: EpochRecord) -> None:
        """Logs an epoch under the step `epoch`; what was not computed is left out."""
        values = {key: float(getattr(record, field)) for field, key in EPOCH_KEYS.items()}
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        self._attempt(lambda: self._run.log({"epoch": record.epoch, **finite}))

    def finish_trial(self, results: FinalResults, folder: Path | None = None) -> None:
        """Writes the summary, uploads best_model.pt and the pictures of a run folder, and closes the run."""
        self._attempt(lambda: self._run.summary.update(summary(results)))
        if folder is not None:
            files = sorted((folder / ARTIFACTS).iterdir())
            models = [file for file in files if file.name == "best_model.pt"]
            pictures = [file for file in files if file.suffix in PICTURES]
            self._attempt(lambda: self._run.summary.update({"run_folder": str(folder)}))
            self._attempt(lambda: self._upload(f"{self._study}-models", "model", models))
            self._attempt(lambda: self._upload(f"{self._study}-pictures", "pictures", pictures))
        self._finish(exit_code=0 if results.status in ("complete", "pruned") else 1)

    def log_study(self, study: StudyLog) -> None:
        """One run with job type "study" in the group of its trials. W&B keeps copies of the pictures."""
        data = [[_cell(value) for value in row] for row in study.rows]
        last = {key: _cell(value) for key, value in study.summary.items()}
        arguments = {"group": study.name, "job_type": "study", "name": study.name, "config": dict(study.config)}
        self._start(tags=["study", *study.tags], **arguments)
        self._attempt(lambda: self._define_steps("trial", sorted({key for row in study.course for key in row})))
        for row in study.course:
            self._attempt(lambda row=row: self._run.log(dict(row)))
        table = self._wandb.Table(columns=list(study.columns), data=data, allow_mixed_types=True)
        self._attempt(lambda: self._run.log({"trials": table, **self._images(study.pictures)}))
        self._attempt(lambda: self._run.summary.update(last))
        self._finish(exit_code=0)

    def close(self) -> None:
        """Finishes a run that is still open and stops W&B's service process."""
        self._finish(exit_code=1)
        self._tear_down()

    def _start(self, *, tags: list[str], **arguments: object) -> None:
        """Opens a run: offline, now and from here on, where the server cannot be reached."""
        arguments["tags"] = [tag[:LONGEST_TAG] for tag in tags]
        self._run = None
        for mode in dict.fromkeys((self.settings.mode, "offline")):
            try:
                self._run = self._init(mode, arguments)
            except self._troubles as error:
                folder = self.settings.results_dir / "wandb"
                outcome = f"logging offline in {folder}" if mode == "online" else "this run is not logged there"
                logger.warning("W&B cannot start a run (%s): %s", _one_line(error), outcome)
                self._tear_down()
            else:
                self.settings = replace(self.settings, mode=mode)
                return

    def _init(self, mode: str, arguments: dict[str, object]) -> "wandb.Run":  # noqa: F821 wandb is imported late
        self.settings.results_dir.mkdir(parents=True, exist_ok=True)
        return self._wandb.init(
            mode=mode,
            project=self.settings.project,
            entity=self.settings.entity,
            dir=str(self.settings.results_dir.resolve()),
            reinit="finish_previous",  # without it a second init returns the first run and mixes trials
            settings=self._wandb.Settings(
                silent=True,
                console="off",
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,
                disable_git=True,
                disable_code=True,
                x_save_requirements=False,
                x_disable_stats=True,
                x_transaction_log_flush_interval=2,
            ),
            **arguments,
        )

    def _define_steps(self, step: str, names: Sequence[str]) -> None:
        """Draws these keys over `step`, which has no panel of its own."""
        self._run.define_metric(step, hidden=True)
        for name in names:
            if name != step:
                self._run.define_metric(name, step_metric=step, hidden=name in PANELLESS)

    def _images(self, pictures: Mapping[str, tuple[Path, str]]) -> dict[str, object]:
        return {f"report/{name}": self._wandb.Image(str(path), caption=text) for name, (path, text) in pictures.items()}

    def _upload(self, name: str, kind: str, files: list[Path]) -> None:
        if not files:
            return
        artifact = self._wandb.Artifact(re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)[-128:], type=kind)
        for file in files:
            # A finished run folder never changes, so W&B need not keep a copy of its own.
            artifact.add_file(str(file.resolve()), name=file.name, policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact, aliases=[self._run.name[:LONGEST_TAG]])

    def _finish(self, exit_code: int) -> None:
        self._attempt(lambda: self._run.finish(exit_code=exit_code))
        self._run = None

    def _attempt(self, action: Callable[[], object]) -> None:
        """Does something with the open run. When that fails, the rest of the run is not logged, in one line."""
        if self._run is None:
            return
        try:
            action()
        except self._troubles as error:
            logger.warning("W&B broke off the run %s: %s", self._run.name, _one_line(error))
            broken, self._run = self._run, None
            with contextlib.suppress(*self._troubles):
                broken.finish(exit_code=1)  # or its thread would go on, and end with a traceback
            self._tear_down()

    def _tear_down(self) -> None:
        """Stops W&B's service process; the next run starts another, and asks no service of a parent process again."""
        os.environ.pop("WANDB_SERVICE", None)
        try:
            self._wandb.teardown()
        except self._troubles as error:
            logger.debug("W&B's service process was gone: %s", _one_line(error))


class NullWandb:
    """Takes everything and logs nothing: the mode "disabled"."""

    def start_trial(self, config: RunConfig, n_params: int | None = None) -> None: ...

    def log_epoch(self, record: EpochRecord) -> None: ...

    def finish_trial(self, results: FinalResults, folder: Path | None = None) -> None: ...

    def log_study(self, study: StudyLog) -> None: ...

    def close(self) -> None: ...


def choose_wandb_mode(settings: WandbSettings) -> WandbSettings:
    """The settings with "offline" instead of "online" where nobody is logged in, with one logged line. Never asks."""
    if settings.mode != "online":
        return settings
    wanted = os.environ.get("WANDB_MODE")
    if wanted in ("offline", "disabled"):
        logger.info("W&B: %s, as WANDB_MODE says", wanted)
        return replace(settings, mode=wanted)
    import wandb

    reason = "not logged in"
    try:
        wandb.setup(wandb.Settings(silent=True))  # a login reports to the terminal otherwise
        if wandb.login(prompt=False, verify=False):
            return settings
    except _troubles() as error:
        reason = _one_line(error)
    folder = settings.results_dir / "wandb"
    logger.info("W&B: %s, so runs are logged offline in %s; `wandb login` first logs them online", reason, folder)
    return replace(settings, mode="offline")


def open_wandb(settings: WandbSettings) -> WandbLogger | NullWandb:
    """The logger of this process, in the mode that `choose_wandb_mode` finds."""
    settings = choose_wandb_mode(settings)
    return NullWandb() if settings.mode == "disabled" else WandbLogger(settings)


def summary(results: FinalResults) -> dict[str, object]:
    """The summary of a finished trial: its status and every metric that is one finite number."""
    numbers = {k: v for k, v in results.metrics.items() if isinstance(v, int | float) and math.isfinite(v)}
    named = {key: numbers[metric] for key, metric in SUMMARY_KEYS.items() if metric in numbers}
    return {**numbers, **named, "status": results.status, "reason": results.reason}


def _troubles() -> tuple[type[Exception], ...]:
    """What W&B raises by itself; that a parent process's service is gone is no `wandb.Error` to it."""
    import wandb
    from wandb.sdk.lib.service.service_token import WandbServiceConnectionError

    return wandb.Error, WandbServiceConnectionError


def _cell(value: object) -> object:
    """A value that a W&B table or summary can hold."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) or value is None else str(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
