"""Weights & Biases: one logger for trials and studies, offline where nobody is logged in, and a silent twin.

W&B's own files lie in `results_dir/wandb`; a run that was logged offline is uploaded with `wandb sync` on its folder.
"""

import contextlib
import hashlib
import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tracking.folders import ARTIFACTS
from tracking.records import EpochRecord, FinalResults, RunConfig

if TYPE_CHECKING:  # imported where it is used: it takes a second
    import wandb

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
STUDY_STEP = "trial"  # over which the course of a study is drawn
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
class StudyHead:
    """What a study's own run shows from its start. Runs of the same `id` are one, which goes on."""

    id: str
    name: str
    tags: tuple[str, ...]
    config: Mapping[str, object]
    keys: tuple[str, ...]  # of the rows that follow; what stands before a slash is a section of the workspace


@dataclass(frozen=True)
class StudyLog:
    """What a study's run shows when a search ends."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]  # of the table `trials`, a row a trial
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


class OpenRun:
    """A run that was started. When something about it fails, the rest of it is not logged, in one line."""

    def __init__(self, run: "wandb.Run | None", give_up: Callable[[], None]) -> None:
        self.run = run  # None when it is over, or could not be started
        self._give_up = give_up

    def attempt(self, action: Callable[["wandb.Run"], object]) -> None:
        """Does something with the run, if it is open."""
        if self.run is None:
            return
        try:
            action(self.run)
        except Exception as error:  # W&B raises whatever its server, its service and its libraries do
            logger.warning("W&B broke off the run %s: %s", self.run.name, _one_line(error))
            self.abandon()
            self._give_up()

    def last(self, step: str) -> int:
        """The number of the last row that the server has of a run that goes on; 0 of any other."""
        return int(self.run.summary.get(step, 0)) if self.run is not None and self.run.resumed else 0

    def abandon(self) -> None:
        """Ends the run, if it is open, however that goes: else its thread goes on, and ends with a traceback."""
        run, self.run = self.run, None
        if run is not None:
            with contextlib.suppress(Exception):
                run.finish(exit_code=1)

    def finish(self, exit_code: int) -> None:
        """Closes the run; to close it again does nothing."""
        self.attempt(lambda run: run.finish(exit_code=exit_code))
        self.run = None


class WandbLogger:
    """Logs trials one after another, and beside them the run of their study. One logger per process.

    Losing W&B never stops a search: an unreachable server means offline runs from then on, and a run that breaks off
    later costs one logged line. The run folder is the record of truth.
    """

    def __init__(self, settings: WandbSettings) -> None:
        import wandb

        self.settings = settings
        self._wandb = wandb
        self._trial = self._study = OpenRun(None, self._tear_down)
        self._group, self._known_epochs = "", 0
        folder = self.settings.results_dir.resolve() / "wandb"
        os.environ.setdefault("WANDB_DATA_DIR", str(folder))  # W&B has no setting for these two
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "cache"))

    def start_trial(self, config: RunConfig, folder: str | None = None) -> None:
        """Begins the W&B run of a trial; one that is still open is finished first.

        A trial that was killed or paused goes on in the same run, known by the name of its run folder. Offline each
        attempt has all epochs, so that the last one says everything.
        """
        flat = {key: value for key, value in asdict(config).items() if not isinstance(value, dict)}
        flat = {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in flat.items()}
        flat |= config.hyperparameters
        flat |= {f"version_{name}": version for name, version in config.versions.items()}
        self._trial.finish(exit_code=1)
        self._group = config.study
        again = {} if folder is None else {"id": hashlib.sha256(folder.encode()).hexdigest()[:16], "resume": "allow"}
        self._trial = self._start(
            group=config.study,
            job_type=config.role,
            name=f"{config.role}-{config.slot:04d}",
            tags=[config.model, config.family, config.search_type],
            config=flat,
            **again,
        )
        self._trial.attempt(lambda run: _define_steps(run, "epoch", AXES))
        self._known_epochs = self._trial.last("epoch")

    def log_epoch(self, record: EpochRecord) -> None:
        """Logs an epoch under the step `epoch`, unless the server has it; what was not computed is left out."""
        if record.epoch <= self._known_epochs:
            return
        values = {key: float(getattr(record, field)) for field, key in EPOCH_KEYS.items()}
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        self._trial.attempt(lambda run: run.log({"epoch": record.epoch, **finite}))

    def finish_trial(self, results: FinalResults, folder: Path | None = None) -> None:
        """Writes the summary, uploads best_model.pt and the pictures of a run folder, and closes the run."""
        self._trial.attempt(lambda run: run.summary.update(summary(results)))
        if folder is not None:
            files = sorted((folder / ARTIFACTS).iterdir())
            models = [file for file in files if file.name == "best_model.pt"]
            pictures = [file for file in files if file.suffix in PICTURES]
            self._trial.attempt(lambda run: run.summary.update({"run_folder": str(folder)}))
            self._trial.attempt(lambda run: self._upload(run, f"{self._group}-models", "model", models))
            self._trial.attempt(lambda run: self._upload(run, f"{self._group}-pictures", "pictures", pictures))
        self._trial.finish(exit_code=0 if results.status in ("complete", "pruned") else 1)

    def start_study(self, study: StudyHead) -> int:
        """Begins the run of a study, or goes on with it; returns the number of its last row that the server has.

        Offline nothing is known of earlier runs: each then has all rows, so that the newest says everything.
        """
        arguments = {"id": study.id, "group": study.name, "job_type": "study", "name": study.name}
        self._study = self._start(
            tags=["study", *study.tags], config=dict(study.config), resume="allow", **arguments
        )  # fmt: skip
        self._study.attempt(lambda run: _define_steps(run, STUDY_STEP, study.keys))
        return self._study.last(STUDY_STEP)

    def log_row(self, row: Mapping[str, float]) -> None:
        """A row of the study's course: its number as `trial`, and what is drawn over it."""
        self._study.attempt(lambda run: run.log(dict(row)))

    def is_study_open(self) -> bool:
        """Whether the study's run goes on: it was started, and did not break off."""
        return self._study.run is not None

    def finish_study(self, study: StudyLog | None) -> None:
        """Logs the table, the pictures, of which W&B keeps copies, and the summary; None where the search failed."""
        if study is not None and self.is_study_open():
            data = [[_cell(value) for value in row] for row in study.rows]
            last = {key: _cell(value) for key, value in study.summary.items()}
            table = self._wandb.Table(columns=list(study.columns), data=data, allow_mixed_types=True)
            self._study.attempt(lambda run: run.log({"trials": table, **self._images(study.pictures)}))
            self._study.attempt(lambda run: run.summary.update(last))
        self._study.finish(exit_code=1 if study is None else 0)

    def close(self) -> None:
        """Finishes runs that are still open and stops W&B's service process."""
        for run in (self._trial, self._study):
            run.finish(exit_code=1)
        self._tear_down()

    def _start(self, *, tags: list[str], **arguments: object) -> OpenRun:
        """Opens a run: offline, now and from here on, where the server cannot be reached."""
        arguments["tags"] = [tag[:LONGEST_TAG] for tag in tags]
        for mode in dict.fromkeys((self.settings.mode, "offline")):
            try:
                run = self._init(mode, arguments)
            except Exception as error:
                folder = self.settings.results_dir / "wandb"
                outcome = f"logging offline in {folder}" if mode == "online" else "this run is not logged there"
                logger.warning("W&B cannot start a run (%s): %s", _one_line(error), outcome)
                self._tear_down()
            else:
                self.settings = replace(self.settings, mode=mode)
                return OpenRun(run, self._tear_down)
        return OpenRun(None, self._tear_down)

    def _init(self, mode: str, arguments: dict[str, object]) -> "wandb.Run":
        self.settings.results_dir.mkdir(parents=True, exist_ok=True)
        run = self._wandb.init(
            mode=mode,
            project=self.settings.project,
            entity=self.settings.entity,
            dir=str(self.settings.results_dir.resolve()),
            reinit="create_new",  # without it a second init returns the first run, or ends that of the study
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
        os.environ.pop("WANDB_SERVICE", None)  # worker processes start a service of their own, whatever becomes of ours
        return run

    def _images(self, pictures: Mapping[str, tuple[Path, str]]) -> dict[str, object]:
        return {f"report/{name}": self._wandb.Image(str(path), caption=text) for name, (path, text) in pictures.items()}

    def _upload(self, run: "wandb.Run", name: str, kind: str, files: list[Path]) -> None:
        if not files:
            return
        artifact = self._wandb.Artifact(re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)[-128:], type=kind)
        for file in files:
            # A finished run folder never changes, so W&B need not keep a copy of its own.
            artifact.add_file(str(file.resolve()), name=file.name, policy="immutable", skip_cache=True)
        run.log_artifact(artifact, aliases=[run.name[:LONGEST_TAG]])

    def _tear_down(self) -> None:
        """Stops W&B's service process; the next run starts another, and asks no service of a parent process again.

        A run that is still open breaks off: its thread would ask the service that is gone, and end with a traceback.
        """
        os.environ.pop("WANDB_SERVICE", None)
        for open_run in (self._trial, self._study):
            open_run.abandon()
        try:
            self._wandb.teardown()
        except Exception as error:
            logger.debug("W&B's service process was gone: %s", _one_line(error))


class NullWandb:
    """Takes everything and logs nothing: the mode "disabled"."""

    def start_trial(self, config: RunConfig, folder: str | None = None) -> None: ...

    def log_epoch(self, record: EpochRecord) -> None: ...

    def finish_trial(self, results: FinalResults, folder: Path | None = None) -> None: ...

    def start_study(self, study: StudyHead) -> int:
        return 0

    def log_row(self, row: Mapping[str, float]) -> None: ...

    def is_study_open(self) -> bool:
        return False

    def finish_study(self, study: StudyLog | None) -> None: ...

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
    except Exception as error:
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


def _define_steps(run: "wandb.Run", step: str, names: Sequence[str]) -> None:
    """Draws these keys over `step`, which has no panel of its own."""
    run.define_metric(step, hidden=True)
    for name in names:
        run.define_metric(name, step_metric=step, hidden=name in PANELLESS)


def _cell(value: object) -> object:
    """A value that a W&B table or summary can hold."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) or value is None else str(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
