"""Run folders that lie on other machines: what travels through the study, and `--collect`, which writes them here."""

import dataclasses
import logging
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta, upload_artifact
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from experiment_tracker import ARTIFACTS, EpochRecord, FinalResults, RecordError, RunConfig, RunFolder, read_run
from search.command_line import Options, masked
from search.slots import finished_trials
from search.storage import open_storage, patiently

logger = logging.getLogger(__name__)

RESULTS_NAME = "final_results.json"


def travelling_record(folder: Path) -> dict[str, object]:
    """The files of a run folder as attributes of its trial: enough to write the folder again, pictures apart."""
    run = read_run(folder)
    return {
        "config": run.config.to_json(),
        "epochs": [dataclasses.astuple(epoch) for epoch in finite(run.epochs)],
        "results": "" if run.results is None else run.results.to_json(),
    }


def finite(epochs: tuple[EpochRecord, ...]) -> list[EpochRecord]:
    """With None for numbers that are not: JSON in a database has no nan."""
    return [
        EpochRecord(*(None if value != value else value for value in dataclasses.astuple(epoch))) for epoch in epochs
    ]


def upload(folder: Path, trial: FrozenTrial, storage: BaseStorage, place: Path) -> None:
    """Puts the model and the predictions of a finished run where all machines can read them."""
    place.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(place)
    for file in sorted((folder / ARTIFACTS).iterdir()):
        if file.is_file() and not file.name.startswith("."):
            upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial, storage=storage)


def collect(options: Options) -> int:
    """Writes the run folders of all finished trials that are not here; returns the exit code."""
    storage = open_storage(options.results_dir, options.storage)
    names = [summary.study_name for summary in storage.get_all_studies()]
    if options.study is not None:
        names = [name for name in names if name == options.study or name.startswith(f"{options.study}_")]
    if not names:
        raise ValueError(f"--collect: {masked(options.storage)} holds no such study")
    for name in sorted(names):
        study = optuna.load_study(study_name=name, storage=storage)
        trials = [trial for trial in finished_trials(study) if trial.user_attrs.get("config")]
        written = sum(_write(trial, study, options) for trial in trials)
        print(f"{name}: {written} run folders written, {len(trials) - written} were here already")
    return 0


def bring_here(study: optuna.Study, options: Options, slot: int | None = None) -> None:
    """Writes the run folders, of a slot or of all, that other machines have trained, as far as they travelled."""
    try:
        for trial in patiently(options.storage, lambda: finished_trials(study)):
            if slot in (None, trial.user_attrs["slot"]) and trial.user_attrs.get("config"):
                patiently(options.storage, lambda trial=trial: _write(trial, study, options))
    except (OSError, ValueError) as problem:
        logger.warning("study %s: what other machines trained could not be fetched: %s", study.study_name, problem)


def _write(trial: FrozenTrial, study: optuna.Study, options: Options) -> bool:
    """Whether the trial's run folder was missing here, and has been written."""
    name = str(trial.user_attrs.get("run_folder"))
    if name != Path(name).name or name.startswith("."):
        raise ValueError(f"study {study.study_name!r}, trial {trial.number}: {name!r} is no name of a run folder")
    path = options.results_dir / name
    if (path / RESULTS_NAME).exists():
        return False
    try:
        config = RunConfig.from_json(trial.user_attrs["config"])
        results = FinalResults.from_json(trial.user_attrs["results"])
    except RecordError as error:
        raise ValueError(f"study {study.study_name!r}, trial {trial.number}: {error}") from error
    nan = float("nan")
    rows = [[nan if value is None else value for value in row] for row in trial.user_attrs["epochs"]]
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder.reopen(path, config, [EpochRecord(*row) for row in rows])
    if options.artifacts is not None:
        _download(trial, study, folder, options.artifacts)
    folder.finish(results)
    return True


def _download(trial: FrozenTrial, study: optuna.Study, folder: RunFolder, place: Path) -> None:
    store = FileSystemArtifactStore(place)
    for meta in get_all_artifact_meta(trial, storage=study._storage):
        try:
            folder.save_artifact(
                meta.filename,
                lambda path, meta=meta: download_artifact(
                    artifact_store=store, artifact_id=meta.artifact_id, file_path=str(path)
                ),
            )
        except (OSError, optuna.artifacts.exceptions.ArtifactNotFound) as error:
            logger.warning("%s: %s is not in %s (%s)", folder.path.name, meta.filename, place, type(error).__name__)
