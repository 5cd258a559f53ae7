"""Reading run folders that were written by us, half written, damaged, edited by hand, or never were run folders."""

import csv
import io
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

import numpy as np

from tracking.folders import ARTIFACTS, COLUMNS, CONFIG, METRICS, PREDICTIONS, RESULTS, digest, sha256
from tracking.records import EpochRecord, FinalResults, RecordError, RunConfig

NOT_RUNS = ("wandb", "best")  # folders of a results folder that hold no run, besides hidden ones
LARGEST_TEXT = 64 * 2**20  # bytes of a JSON or CSV file
LARGEST_PREDICTIONS = 512 * 2**20  # bytes of predictions.npz, unpacked
CHANGED = "changed since written"
# What numpy and zipfile raise on damaged archives.
DAMAGE = (ValueError, TypeError, OSError, EOFError, LookupError, MemoryError, RuntimeError, OverflowError)
DAMAGE += (SyntaxError, struct.error, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Run:
    """One run folder as it was read. `results` is None while the run goes on, and after it was killed."""

    path: Path
    config: RunConfig
    epochs: tuple[EpochRecord, ...]
    results: FinalResults | None
    problems: tuple[str, ...] = ()  # what is wrong with the folder, which could be read all the same

    @property
    def name(self) -> str:
        return self.path.name

    def predictions(self) -> dict[str, np.ndarray]:
        """The arrays of predictions.npz; FileNotFoundError without one, RecordError where it is damaged or changed."""
        path = self.path / ARTIFACTS / PREDICTIONS
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing")
        expected = self.results.files.get(f"{ARTIFACTS}/{PREDICTIONS}") if self.results else None
        if expected is not None and sha256(path) != expected:
            raise RecordError(f"{path}: {CHANGED}")
        return _read_arrays(path)

    def changed_artifacts(self) -> list[str]:
        """One line for every artifact that is missing or was changed since the run finished. Reads all of them."""
        files = self.results.files if self.results else {}
        checks = {name: _file_problem(self.path, name, files[name]) for name in files if name not in (CONFIG, METRICS)}
        return [problem for problem in checks.values() if problem]


def read_run(path: Path) -> Run:
    """One run folder, artifacts left alone. FileNotFoundError without config.json, RecordError if it is damaged."""
    try:
        config = RunConfig.from_json(_read_text(path / CONFIG))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no {CONFIG}, so not a run folder") from error
    except (RecordError, OSError) as error:
        raise RecordError(f"{path / CONFIG}: {_one_line(error)}") from error
    problems: list[str] = []
    results = _read_results(path, problems)
    epochs = _read_epochs(path, problems)
    for name in (CONFIG, METRICS) if results else ():
        problem = _file_problem(path, name, results.files.get(name, ""))
        if problem and problem not in problems:
            problems.append(problem)
    return Run(path, config, epochs, results, tuple(problems))


def read_runs(results_dir: Path) -> tuple[list[Run], list[str]]:
    """All runs of a results folder in order of creation, and one line for every folder with something wrong.

    A folder without a readable config.json is no run and has only its line. Artifacts are left alone. A results folder
    that does not exist has no runs.
    """
    runs, problems = [], []
    folders = sorted(path for path in results_dir.iterdir() if path.is_dir()) if results_dir.is_dir() else []
    for path in folders:
        if path.name.startswith(".") or path.name in NOT_RUNS:
            continue
        try:
            run = read_run(path)
        except (FileNotFoundError, RecordError) as error:
            problems.append(f"{_one_line(error)}; left out")
        else:
            runs.append(run)
            if run.problems:
                problems.append(f"{_one_line(path)}: {'; '.join(run.problems)}")
    return sorted(runs, key=lambda run: (_creation(run.config), run.name)), problems


def _creation(config: RunConfig) -> float:
    try:
        return datetime.fromisoformat(config.created).timestamp()
    except (ValueError, OverflowError):
        return math.inf


def _read_results(path: Path, problems: list[str]) -> FinalResults | None:
    try:
        results = FinalResults.from_json(_read_text(path / RESULTS))
    except FileNotFoundError:
        return None
    except (RecordError, OSError) as error:
        problems.append(f"{RESULTS}: {_one_line(error)}; taken as unfinished")
        return None
    if results.digest != digest(results):
        problems.append(f"{RESULTS}: {CHANGED}")
    return results


def _read_epochs(path: Path, problems: list[str]) -> tuple[EpochRecord, ...]:
    """The rows of metrics.csv up to the first that is damaged. A last line that a kill cut short is left out."""
    epochs: list[EpochRecord] = []
    try:
        text = _read_text(path / METRICS)
        whole, _, _ = text.rpartition("\n")
        rows = list(csv.reader(io.StringIO(whole), strict=True))
        if rows and tuple(rows[0]) != COLUMNS:
            raise RecordError(f"expected the columns {','.join(COLUMNS)}, got {','.join(rows[0])[:80]}")
        for number, row in enumerate(rows[1:], start=2):
            epochs.append(_epoch(number, row))
    except FileNotFoundError:
        problems.append(f"{METRICS}: missing")
    except (RecordError, OSError, csv.Error) as error:
        problems.append(f"{METRICS}: {_one_line(error)}")
    return tuple(epochs)


def _epoch(number: int, row: list[str]) -> EpochRecord:
    if len(row) != len(COLUMNS):
        raise RecordError(f"line {number}: expected {len(COLUMNS)} cells, got {len(row)}")
    try:
        epoch = int(row[0])
        values = [float(cell) if cell else math.nan for cell in row[1:]]
    except ValueError as error:
        raise RecordError(f"line {number}: expected numbers, got {','.join(row)[:80]!r}") from error
    return EpochRecord(epoch, *values)


def _file_problem(folder: Path, name: str, expected: str) -> str | None:
    """What is wrong with a file whose sha256 is known, or None."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        return f"{name}: lies outside the run folder"
    try:
        return None if sha256(folder / name) == expected else f"{name}: {CHANGED}"
    except FileNotFoundError:
        return f"{name}: missing"
    except OSError as error:
        return f"{name}: {_one_line(error)}"


def _read_text(path: Path) -> str:
    """The text of a file. FileNotFoundError, OSError, or RecordError for what cannot be ours."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise RecordError("expected a file, got another kind")
    with open(path, "rb") as handle:
        content = handle.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise RecordError(f"expected at most {LARGEST_TEXT} bytes, got more")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError("expected UTF-8 text, got other bytes") from error


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise RecordError(f"{path}: expected arrays as numpy packs them, got another compression")
        unpacked = sum(member.file_size for member in members)
        if unpacked > LARGEST_PREDICTIONS:
            raise RecordError(f"{path}: expected at most {LARGEST_PREDICTIONS} bytes, got {unpacked}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except RecordError:
        raise
    except DAMAGE as error:
        raise RecordError(f"{path}: expected arrays, got a damaged file: {_one_line(error)}") from error


def _one_line(value: object) -> str:
    """The text on one line; an OSError without the path that the line begins with anyway."""
    text = value.strerror if isinstance(value, OSError) and value.strerror else str(value)
    return " ".join(text.split())
