"""The folder of a run while it goes on: every file is written so that a reader never sees half of it."""

import csv
import dataclasses
import hashlib
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

import numpy as np

from tracking.records import EpochRecord, FinalResults, RunConfig

CONFIG = "config.json"
METRICS = "metrics.csv"
RESULTS = "final_results.json"
ARTIFACTS = "artifacts"
PREDICTIONS = "predictions.npz"
CHECKPOINTS = "checkpoints"  # states to go on from; not part of a finished run
PARTIAL = ".partial."  # begins the name of a file that is being written
COLUMNS = tuple(field.name for field in dataclasses.fields(EpochRecord))


class RunFolder:
    """One run's folder while the run goes on."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config = config
        self._metrics = open(path / METRICS, "a", newline="", encoding="utf-8")  # noqa: SIM115 closed by close()
        self._rows = csv.writer(self._metrics, lineterminator="\n")

    @classmethod
    def create(cls, results_dir: Path, config: RunConfig, announce: Callable[[str], None] = lambda name: None) -> Self:
        """A new folder {model}_{family}_{timestamp} with its config.json; no two processes ever get the same.

        `announce` hears its name before it is made, so that a kill leaves no folder that nobody knows of.
        """
        config = RunConfig.from_json(config.to_json())  # what could not be read again is refused now
        stem = f"{config.model}_{config.family}_{datetime.now():%Y%m%d_%H%M%S_%f}"
        results_dir.mkdir(parents=True, exist_ok=True)
        path, suffix = results_dir / stem, 1
        while not _made(path, announce):
            path, suffix = results_dir / f"{stem}_{suffix}", suffix + 1
        return cls._begin(path, config, ())

    @classmethod
    def reopen(cls, path: Path, config: RunConfig, epochs: Sequence[EpochRecord]) -> Self:
        """The folder of a run that was cut off or paused, with the epochs from which it goes on; it has no results."""
        config = RunConfig.from_json(config.to_json())
        (path / RESULTS).unlink(missing_ok=True)
        for left_over in path.rglob(f"{PARTIAL}*"):
            left_over.unlink()
        return cls._begin(path, config, epochs)

    @classmethod
    def _begin(cls, path: Path, config: RunConfig, epochs: Sequence[EpochRecord]) -> Self:
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        rows.writerows(map(_cells, epochs))
        (path / ARTIFACTS).mkdir(exist_ok=True)
        for name, content in ((CONFIG, config.to_json()), (METRICS, text.getvalue())):
            write_atomically(path / name, lambda partial, content=content: partial.write_text(content, "utf-8"))
        return cls(path, config)

    def append_epoch(self, record: EpochRecord) -> None:
        """Writes and flushes one row of metrics.csv."""
        self._rows.writerow(_cells(record))
        self._metrics.flush()

    def save_artifact(self, name: str, writer: Callable[[Path], None]) -> Path:
        """artifacts/`name`, written by `writer(path)` under a temporary name with the same ending, then renamed."""
        if not name or name != Path(name).name or name.startswith("."):
            raise ValueError(f"artifact: expected a plain file name, got {name!r}")
        target = self.path / ARTIFACTS / name
        write_atomically(target, writer)
        return target

    def save_predictions(self, arrays: Mapping[str, np.ndarray]) -> Path:
        """artifacts/predictions.npz with the arrays that `docs/formats.md` lists."""
        return self.save_artifact(PREDICTIONS, lambda partial: np.savez_compressed(partial, **arrays))

    def finish(self, results: FinalResults) -> FinalResults:
        """Writes final_results.json with the sha256 of all other files. Nothing may be written afterwards."""
        if (self.path / RESULTS).exists():
            raise RuntimeError(f"{self.path}: this run is finished already")
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        self.close()
        files = {name: sha256(self.path / name) for name in _file_names(self.path)}
        results = FinalResults.from_json(dataclasses.replace(results, files=files, digest="").to_json())
        results = dataclasses.replace(results, digest=digest(results))
        write_atomically(self.path / RESULTS, lambda partial: partial.write_text(results.to_json(), encoding="utf-8"))
        return results

    @property
    def checkpoints(self) -> Path:
        """Where the training keeps states to go on from."""
        return self.path / CHECKPOINTS

    def close(self) -> None:
        """Closes metrics.csv; `finish` does this too."""
        self._metrics.close()


def _made(path: Path, announce: Callable[[str], None]) -> bool:
    if path.exists():
        return False
    announce(path.name)
    try:
        path.mkdir(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _cells(record: EpochRecord) -> list[str]:
    values = (getattr(record, name) for name in COLUMNS)
    return ["" if not math.isfinite(value) else repr(_number(value)) for value in values]


def _number(value: float) -> int | float:
    return int(value) if isinstance(value, int) else float(value)


def write_atomically(target: Path, writer: Callable[[Path], object], *, is_flushed: bool = True) -> None:
    """Lets `writer` write under a temporary name, then gives the file its own: it is never seen half written.

    `is_flushed`: it also outlives a power cut.
    """
    partial = target.with_name(PARTIAL + target.name)
    try:
        writer(partial)
        if is_flushed:
            with open(partial, "rb+") as handle:
                os.fsync(handle.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    if not is_flushed:
        return
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _file_names(path: Path) -> list[str]:
    """Relative names of a run folder's files, without final_results.json, checkpoints and files being written."""
    files = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith(PARTIAL))
    names = (file.relative_to(path).as_posix() for file in files)
    return sorted(name for name in names if name != RESULTS and not name.startswith(f"{CHECKPOINTS}/"))


def sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(results: FinalResults) -> str:
    return hashlib.sha256(dataclasses.replace(results, digest="").to_json().encode()).hexdigest()
