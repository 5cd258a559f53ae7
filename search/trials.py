"""One trial: a configuration is sampled, trained, written to its run folder, and told to the study."""

import contextlib
import logging
import platform
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

import dno
import model_trainer
from data.batches import FamilyData
from experiment_tracker import (
    CHECKPOINTS,
    EpochRecord,
    FinalResults,
    NullWandb,
    RecordError,
    RunConfig,
    RunFolder,
    WandbLogger,
    WandbSettings,
    open_wandb,
    read_run,
)
from model_checkpoint import Checkpoints, read_records, seconds_spent
from search.adoption import adopt_folders, trial_end
from search.collect import travelling_record, upload
from search.command_line import Options
from search.objectives import directions
from search.plan import StudyPlan, find_data, resolve_device
from search.progress import Channel
from search.promotion import goes_on
from search.reports import Reports
from search.sampling import discrete_values, new_configuration, pruner, sampler, suggest
from search.slots import (
    ERROR,
    INTERRUPTED,
    PRUNED,
    SPENT_BEFORE,
    SlotLost,
    StorageLost,
    TrialEnd,
    latest_results,
    one_transaction,
    record_end,
    trials_by_slot,
)
from search.storage import guard_lock, held, open_storage, open_study, patiently

logger = logging.getLogger(__name__)

AT_ONCE = "stopped at once"
VERSIONS = ("torch", "numpy", "optuna", "wandb")


class TrialCrash(Exception):
    """A trial ended by an error that is none of its own: a bug. Its text is the traceback."""


@dataclass(frozen=True)
class Bench:
    """All that a process needs to run trials of a study."""

    plan: StudyPlan
    options: Options
    study: optuna.Study
    data: FamilyData
    device: torch.device
    wandb_settings: WandbSettings
    wandb: WandbLogger | NullWandb


def open_bench(plan: StudyPlan, options: Options, settings: WandbSettings, data: FamilyData | None = None) -> Bench:
    """The study, opened or made, and the family's data, loaded where they are not given."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device = resolve_device(options.device)
    data = find_data(plan.family, options, device) if data is None else data

    def opened() -> optuna.Study:
        storage = open_storage(options.results_dir, options.storage)
        with held(guard_lock(options.results_dir, plan.name, options.storage)):
            study = open_study(storage, plan.name, directions(plan.objectives), plan.fingerprint())
            if options.storage is None and not study.get_trials(deepcopy=False):
                adopt_folders(study, plan, options.results_dir)
            return study

    study = patiently(options.storage, opened)
    return Bench(plan, options, study, data, device, settings, open_wandb(settings))


def open_benches(
    plans: Sequence[StudyPlan], options: Options, settings: WandbSettings, data: FamilyData | None = None
) -> list[Bench]:
    """The benches of studies of one family, which share its data and W&B."""
    first = open_bench(plans[0], options, settings, data)
    others = [open_bench(plan, options, settings, first.data) for plan in plans[1:]]
    return [first, *(replace(bench, wandb=first.wandb) for bench in others)]


def run_trial(bench: Bench, trial: optuna.Trial, channel: Channel) -> None:
    """Trains the configuration of a claimed slot and tells the study how it ended. Raises TrialCrash for a bug."""
    plan, slot = bench.plan, trial.user_attrs["slot"]
    channel.began(plan.label(slot))
    trial, hyperparameters = patiently(bench.options.storage, lambda: _sample(bench, trial._trial_id))
    folder, checkpoints = _open_folder(bench, trial, _run_config(bench, slot, trial, hyperparameters))
    reports = Reports(trial, plan, is_remote=bench.options.storage is not None)

    def on_epoch(record: EpochRecord) -> str | None:
        channel.epoch(slot, record.epoch, record.val_rel_error)
        try:
            if reports.add(record):
                return "pruned"
            if plan.pauses() and record.epoch in plan.rungs():
                reports.flush()
                if not goes_on(trials_by_slot(bench.study), slot, record.epoch):
                    return "paused"
        except (SlotLost, StorageLost):
            return "interrupted"
        return "interrupted" if channel.stop_requested() else None

    if checkpoints.saved is not None:
        trial.set_user_attr(SPENT_BEFORE, seconds_spent(checkpoints.saved))
    reports.restore(restored_epochs(checkpoints))
    try:
        results = train_into(folder, bench.data, bench.wandb, on_epoch, checkpoints)
    except OSError as error:
        _give_up(bench, trial, error)
        raise
    end = trial_end(results, plan.objectives)
    _tell(bench, trial, end, reports, folder)
    channel.ended(slot, end.status)
    logger.info("%s: %s", plan.label(slot), _one_line(end, folder.path.name, is_paused=plan.pauses()))
    if end.status == ERROR:
        raise TrialCrash(f"{folder.path}:\n{results.traceback}")
    if end.reason == AT_ONCE:
        raise KeyboardInterrupt


def _give_up(bench: Bench, trial: optuna.Trial, error: OSError) -> None:
    """Frees the slot of a trial whose folder cannot be written to: another machine need not wait for this one."""
    if bench.options.storage is None:  # the journal lies on the same disk
        return
    end = TrialEnd(INTERRUPTED, error.strerror or str(error), None, {}, {})
    with contextlib.suppress(SlotLost, UpdateFinishedTrialError):
        patiently(bench.options.storage, lambda: record_end(bench.study, trial.number, end))


def _sample(bench: Bench, trial_id: int) -> tuple[optuna.Trial, dict[str, object]]:
    """The trial with its configuration, which is stored with it."""
    plan, study = bench.plan, bench.study
    claimed = study._storage.get_trial(trial_id)
    slot = claimed.user_attrs["slot"]

    def draw(attempt: int) -> optuna.samplers.BaseSampler:
        return sampler(plan.search_type, plan.seed, slot, plan.sampler, attempt)

    study.sampler, study.pruner = draw(0), optuna.pruners.NopPruner()
    # CMA-ES keeps its state in the trials themselves.
    if not claimed.system_attrs.get("fixed_params") and not (
        plan.search_type == "bayesian" and plan.sampler == "cmaes"
    ):
        # Of a discrete space two workers could draw the same at the same moment.
        guard = guard_lock(bench.options.results_dir, plan.name, bench.options.storage)
        with contextlib.nullcontext() if discrete_values(plan.space) is None else held(guard):
            values = new_configuration(study, latest_results(study), plan.space, draw)
            study._storage.set_trial_system_attr(trial_id, "fixed_params", values)
    trial = optuna.Trial(study, trial_id)
    with one_transaction(study):
        hyperparameters = plan.defaults | suggest(trial, plan.space)
    if plan.is_pruned():  # only now: with Hyperband in place TPE would learn from one bracket alone
        study.pruner = pruner(plan.max_epochs, plan.pruner)
    return trial, hyperparameters


def _tell(bench: Bench, trial: optuna.Trial, end: TrialEnd, reports: Reports, folder: RunFolder) -> None:
    """Tells the study how the trial ended, unless another machine has taken its slot over meanwhile."""
    try:
        told = patiently(bench.options.storage, lambda: _to_travel(bench, trial, end, folder.path))
        patiently(bench.options.storage, lambda: _finish(bench.study, trial, told, reports))
    except (SlotLost, UpdateFinishedTrialError):
        label = bench.plan.label(trial.user_attrs["slot"])
        logger.warning("%s: another machine has taken it over, as this one gave no sign of life", label)


def _finish(study: optuna.Study, trial: optuna.Trial, end: TrialEnd, reports: Reports) -> None:
    with one_transaction(study):
        reports.flush()
        record_end(study, trial.number, end)


def restored_epochs(checkpoints: Checkpoints | None) -> list[EpochRecord]:
    """The epochs that a training need not repeat."""
    return [] if checkpoints is None or checkpoints.saved is None else read_records(checkpoints.saved)


def _open_folder(bench: Bench, trial: optuna.Trial, config: RunConfig) -> tuple[RunFolder, Checkpoints]:
    """The folder of the slot's last attempt, with its last checkpoint, where it lies here; else a new folder.

    The study hears of the folder before it is made: whatever a kill leaves of it, the slot's next attempt takes over.
    """
    results_dir, every = bench.options.results_dir, bench.options.checkpoint_every
    name = trial.user_attrs.get("run_folder")

    def announce(name: str) -> None:
        with one_transaction(bench.study):
            for key, value in (("sampled", True), ("run_folder", name)):
                trial.set_user_attr(key, value)

    if name is None or Path(name).name != name or not (results_dir / name).is_dir():
        folder = RunFolder.create(results_dir, config, announce)
        return folder, Checkpoints(folder.checkpoints, every)
    announce(name)
    checkpoints = Checkpoints(results_dir / name / CHECKPOINTS, every)
    epochs = restored_epochs(checkpoints)
    if epochs:
        logger.info("%s: goes on after epoch %d", bench.plan.label(config.slot), epochs[-1].epoch)
    return RunFolder.reopen(results_dir / name, config, epochs), checkpoints


def train_into(
    folder: RunFolder,
    data: FamilyData,
    wandb: WandbLogger | NullWandb,
    on_epoch: Callable[[EpochRecord], str | None],
    checkpoints: Checkpoints | None = None,
) -> FinalResults:
    """Trains the folder's configuration and writes epochs, model, predictions and, last, the results.

    Goes on from the newest of `checkpoints`, and removes them when the run is over. An error that is not the trial's
    own is recorded with its traceback, for the caller to stop at.
    """
    config = folder.config
    limits = model_trainer.Limits(config.max_epochs, config.patience, config.max_seconds, tuple(config.rungs))

    def record_epoch(record: EpochRecord) -> str | None:
        folder.append_epoch(record)
        wandb.log_epoch(record)
        return on_epoch(record)

    is_paused = False
    wandb.start_trial(config, folder.path.name)
    for record in restored_epochs(checkpoints):
        wandb.log_epoch(record)
    try:
        result = model_trainer.train(
            config.model,
            config.hyperparameters,
            data,
            limits=limits,
            seed=config.seed,
            on_epoch=record_epoch,
            checkpoints=checkpoints,
        )
        if result.operator is not None:
            about = {
                "study": config.study,
                "slot": config.slot,
                "family": config.family,
                "run_folder": folder.path.name,
            }
            folder.save_artifact("best_model.pt", lambda path: dno.save(result.operator, path, about))
        if result.predictions:
            folder.save_predictions(result.predictions)
        is_paused = result.status == "paused"
        status = "pruned" if is_paused else result.status  # for good, unless it is promoted
        results = FinalResults(status, result.reason, dict(result.metrics), dict(result.seconds))
    except KeyboardInterrupt:
        results = FinalResults("interrupted", AT_ONCE, {}, {})
    except OSError:  # a full disk: nothing can be recorded either, and the trial is not to blame
        raise
    except Exception as error:  # recorded here; the study stops at it
        reason = f"{type(error).__name__}: {error}"
        results = FinalResults("failed", reason, {}, {}, traceback=traceback.format_exc())
    results = folder.finish(results)
    if checkpoints is not None and results.status != "interrupted" and not is_paused:
        checkpoints.remove()
    wandb.finish_trial(results, folder.path)
    return results


def adopt(bench: Bench, trial: FrozenTrial) -> TrialEnd | None:
    """The end of a trial whose process died after its results were written; None where they were not, or not here."""
    name, results_dir = trial.user_attrs.get("run_folder"), bench.options.results_dir
    if name is None or Path(name).name != name or not (results_dir / name).is_dir():
        return None
    try:
        results = read_run(results_dir / name).results
    except FileNotFoundError:  # it ended while the folder was made
        return None
    except RecordError as problem:
        logger.warning("%s: %s", name, problem)
        return None
    if results is None:
        return None
    end = trial_end(results, bench.plan.objectives)
    if results.status != "interrupted" and not (results.status == "pruned" and bench.plan.pauses()):
        shutil.rmtree(results_dir / name / CHECKPOINTS, ignore_errors=True)
    return _to_travel(bench, trial, end, results_dir / name)


def _to_travel(bench: Bench, trial: optuna.Trial | FrozenTrial, end: TrialEnd, folder: Path) -> TrialEnd:
    """The end with all that other machines need to know; the files of a complete trial are put where they see them."""
    if bench.options.storage is None:
        return end
    if bench.options.artifacts is not None and end.status == "complete":
        upload(folder, trial, bench.study._storage, bench.options.artifacts)
    return replace(end, record=travelling_record(folder))


def _version(package: str) -> str | None:
    """None where it is not installed, as W&B may be where nothing is logged to it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _run_config(bench: Bench, slot: int, trial: optuna.Trial, hyperparameters: dict[str, object]) -> RunConfig:
    plan, options = bench.plan, bench.options
    versions = {name: found for name in VERSIONS if (found := _version(name))} | {"python": platform.python_version()}
    return RunConfig(
        study=plan.name if plan.origin is None else plan.parent,
        slot=slot,
        attempt=trial.user_attrs["attempt"],
        role=plan.role,
        search_type=plan.search_type,
        model=plan.model,
        family=plan.family,
        hyperparameters=hyperparameters,
        seed=plan.training_seed(slot),
        max_epochs=plan.max_epochs,
        patience=plan.patience,
        max_seconds=plan.max_seconds,
        objectives=list(plan.objectives),
        device=str(bench.device),
        threads=torch.get_num_threads(),
        data_root=str(options.data_root),
        dataset_sha256=plan.dataset_sha256,
        versions=versions,
        command=options.command,
        created=datetime.now().astimezone().isoformat(),
        origin=plan.origin,
        rungs=list(plan.rungs()),
    )


def _one_line(end: TrialEnd, folder: str, *, is_paused: bool) -> str:
    errors = [f"{s} {end.metrics[f'{s}_rel_error']:.4g}" for s in ("val", "test") if f"{s}_rel_error" in end.metrics]
    spent = f"{end.seconds['total']:.1f} s" if "total" in end.seconds else ""
    reason = end.reason if end.status not in ("complete", PRUNED) else None
    parts = [
        "paused" if is_paused and end.status == PRUNED else end.status,
        reason,
        ", ".join(errors),
        f"{end.metrics['epochs']} epochs" if "epochs" in end.metrics else "",
        spent,
    ]
    return "; ".join(part for part in (*parts, folder) if part)
