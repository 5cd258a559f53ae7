"""Run folders that lie on other machines: what travels through the study, and `--collect`, which writes them here."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.artifacts import (
    ArtifactMeta,
    FileSystemArtifactStore,
    download_artifact,
    get_all_artifact_meta,
    upload_artifact,
)
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from experiment_tracker import (
    ARTIFACTS,
    RESULTS,
    EpochRecord,
    FinalResults,
    RecordError,
    RunConfig,
    RunFolder,
    read_run,
    sha256,
)
from search.command_line import Options, without_password
from search.places import check_places, make_places, unwritable
from search.slots import finished_trials
from search.storage import open_storage, patiently

logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """What became of the runs of a study."""

    written: int = 0
    completed: int = 0  # were here, but for their models
    here: int = 0
    left_out: int = 0  # files that travelled, where no --artifacts says whereto
    missing: int = 0  # files that are not in --artifacts

    def line(self) -> str:
        parts = [f"{self.written} run folders written", f"{self.here} were here already"]
        if self.completed:
            parts.append(f"{self.completed} were here without their models, which came")
        return ", ".join(parts)


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
    """Puts the model and the predictions of a finished run where all machines can read them. Unwritable if it can't."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        store = FileSystemArtifactStore(place)
        for file in sorted((folder / ARTIFACTS).iterdir()):
            if file.is_file() and not file.name.startswith("."):
                upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial, storage=storage)
    except OSError as error:
        raise unwritable("--artifacts", place, error) from error


def collect(options: Options) -> int:
    """Writes the run folders of all finished trials that are not here; returns the exit code."""
    if options.artifacts is not None and not options.artifacts.is_dir():
        raise ValueError(f"--artifacts {options.artifacts}: no such folder; name the one that the searches wrote to")
    check_places(options)
    make_places(options)
    storage = open_storage(options.results_dir, options.storage)
    names = [summary.study_name for summary in storage.get_all_studies()]
    if options.study is not None:
        names = [name for name in names if name == options.study or name.startswith(f"{options.study}_")]
    if not names:
        what = "no study yet" if options.study is None else f"no study {options.study!r}"
        raise ValueError(f"--collect: {without_password(options.storage)} holds {what}")
    left_out = missing = 0
    for name in sorted(names):
        study = optuna.load_study(study_name=name, storage=storage)
        tally = Tally()
        for trial in finished_trials(study):
            if trial.user_attrs.get("config"):
                _write(trial, study, options, tally)
        print(f"{name}: {tally.line()}")
        left_out, missing = left_out + tally.left_out, missing + tally.missing
    if left_out:
        logger.warning("%d models and files of predictions stay where they are; --artifacts says where", left_out)
    if missing:
        raise ValueError(
            f"--artifacts {options.artifacts}: {missing} models and files of predictions are missing there or "
            "damaged; name the folder that the searches wrote to, and collect again"
        )
    return 0


def bring_here(study: optuna.Study, options: Options, slot: int | None = None) -> None:
    """Writes the run folders, of a slot or of all, that other machines have trained, as far as they travelled."""
    tally = Tally()
    try:
        for trial in patiently(options.storage, lambda: finished_trials(study)):
            if slot in (None, trial.user_attrs["slot"]) and trial.user_attrs.get("config"):
                patiently(options.storage, lambda trial=trial: _write(trial, study, options, tally))
    except (OSError, ValueError) as problem:
        logger.warning("study %s: what other machines trained could not be fetched: %s", study.study_name, problem)
    if tally.missing:
        logger.warning("--artifacts %s: %d files are not there", options.artifacts, tally.missing)


def _write(trial: FrozenTrial, study: optuna.Study, options: Options, tally: Tally) -> None:
    """Writes the trial's run folder, or what of it is missing here."""
    name = str(trial.user_attrs.get("run_folder"))
    if name != Path(name).name or name.startswith("."):
        raise ValueError(f"study {study.study_name!r}, trial {trial.number}: {name!r} is no name of a run folder")
    path = options.results_dir / name
    travelled = get_all_artifact_meta(trial, storage=study._storage)
    lacking = {meta.filename: meta for meta in travelled if not (path / ARTIFACTS / meta.filename).is_file()}
    is_here = (path / RESULTS).exists()
    if options.artifacts is None:
        tally.left_out += len(lacking)
    if is_here and (options.artifacts is None or not lacking):
        tally.here += 1
        return
    try:
        config = RunConfig.from_json(trial.user_attrs["config"])
        results = FinalResults.from_json(trial.user_attrs["results"])
    except RecordError as error:
        raise ValueError(f"study {study.study_name!r}, trial {trial.number}: {error}") from error
    nan = float("nan")
    rows = [[nan if value is None else value for value in row] for row in trial.user_attrs["epochs"]]
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder.reopen(path, config, [EpochRecord(*row) for row in rows])
    came = 0
    if options.artifacts is not None:
        came = _download(list(lacking.values()), folder, options.artifacts, results)
        tally.missing += len(lacking) - came
    folder.finish(results)
    if not is_here:
        tally.written += 1
    elif came:
        tally.completed += 1
    else:
        tally.here += 1


def _download(metas: Sequence[ArtifactMeta], folder: RunFolder, place: Path, results: FinalResults) -> int:
    """How many of the files came whole; the others are left out."""
    store, came = FileSystemArtifactStore(place), 0

    def fetch(meta: ArtifactMeta, path: Path) -> None:
        download_artifact(artifact_store=store, artifact_id=meta.artifact_id, file_path=str(path))
        if results.files.get(f"{ARTIFACTS}/{meta.filename}", digest := sha256(path)) != digest:
            raise ValueError("changed since written")

    for meta in metas:
        try:
            folder.save_artifact(meta.filename, lambda path, meta=meta: fetch(meta, path))
            came += 1
        except (OSError, ValueError, optuna.artifacts.exceptions.ArtifactNotFound) as error:
            logger.debug("%s: %s of %s: %s", folder.path.name, meta.filename, place, error)
    return came
