"""Dataset files: the schema, atomic writing, verification and reading. The only module that knows HDF5.

A file `data_root/<family>/<split>.h5` holds N trajectories as flat arrays with offsets. Attributes of the root say
what it is, datasets hold the numbers (`SCHEMA`), `sha256` covers both, and `complete` is written last. Files come from
anywhere, so everything is checked before it is believed: what a link points at, what a shape declares against the size
of the file, what the digest says. The format is described for people in data/README.md.
"""

import json
import math
import mmap
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.families import FAMILIES
from data.schema import (
    NOISE_SPLITS,
    REQUIRED_SPLITS,
    SCHEMA,
    SPLITS,
    Dataset,
    DatasetError,
    as_text,
    dataset_path,
    digest_of,
    header_of,
    read_header,
    stored_times,
    value_problems,
)

__all__ = [
    "REQUIRED_SPLITS",
    "SPLITS",
    "Dataset",
    "DatasetError",
    "Provenance",
    "check",
    "dataset_path",
    "fix",
    "generate_command",
    "misplaced",
    "read",
    "read_provenance",
    "remove_partial_files",
    "seal",
    "write",
]

CHUNK_VALUES = 16_384
# A shape is only a claim: a file of 1.4 kB can declare 2 TB. Real trajectories compress less than tenfold.
DECLARED_BYTES_FREE = 64 * 2**20
DECLARED_BYTES_PER_FILE_BYTE = 100
HEAP = b"GCOL\x01\0\0\0"  # begins a collection of texts of variable length
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)  # what h5py raises on damage


@dataclass(frozen=True)
class Provenance:
    """Where the trajectories of a generated file come from."""

    equation: str
    seed: int
    generator_config: Mapping[str, Any]  # everything the numbers follow from; equal configurations, equal files
    solver: Mapping[str, Any]  # the method and its measured error
    rejections: int


def generate_command(path: Path) -> str:
    """Returns the command that makes the file at `path`."""
    family, data_root = path.parent.name, str(path.parent.parent)
    return f"python -m data.generate --family {shlex.quote(family)} --data_root {shlex.quote(data_root)}"


def write(path: Path, dataset: Dataset, provenance: Provenance) -> str:
    """Writes a dataset and returns its sha256. A reader sees the verified, complete file or none.

    Arrays are cast to the types of the schema; `time` is derived; `dataset.sha256` is ignored.
    """
    arrays = {name: getattr(dataset, name) for name in SCHEMA if name != "time"}
    arrays["time"] = stored_times(dataset.tau, dataset.offsets, dataset.points_per_delay)
    arrays = {
        name: np.ascontiguousarray(array, dtype=SCHEMA[name].dtype)
        for name, array in arrays.items()
        if array is not None
    }
    header = header_of(dataset)
    digest = digest_of(header, arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_path(path)
    try:
        # Metadata of this version carries checksums: of 600 flipped bits none went unnoticed (default version: 564).
        with h5py.File(partial, "w", libver=("v110", "v110")) as file:
            file.attrs.update({name: value for name, value in header.items() if name != "parameter_names"})
            file.attrs["traits"] = ",".join(header["traits"])
            file.attrs["equation"] = provenance.equation
            file.attrs["seed"] = provenance.seed
            file.attrs["generator_config"] = json.dumps(provenance.generator_config, sort_keys=True, allow_nan=False)
            file.attrs["solver"] = json.dumps(provenance.solver, sort_keys=True, allow_nan=False)
            file.attrs["rejections"] = provenance.rejections
            for name, array in arrays.items():
                file.create_dataset(name, data=array, **_storage(name, array.shape))
            file["params"].attrs["names"] = ",".join(dataset.parameter_names)
            file.attrs["sha256"] = digest
            file.flush()
            file.attrs["complete"] = True
            # Texts of variable length lie in a heap without checksums, where one flipped bit made HDF5 loop for ever.
            for holder in (file, file["params"]):
                for name in [name for name in holder.attrs if isinstance(holder.attrs[name], str)]:
                    holder.attrs[name] = np.bytes_(holder.attrs[name].encode())
        _publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return digest


def read(path: Path, *, family: str | None = None, split: str | None = None) -> Dataset:
    """Returns the dataset at `path` after verifying all of it.

    Raises FileNotFoundError when there is none, DatasetError when it is damaged, altered, malformed or not the `family`
    and `split` that were asked for.
    """
    path = Path(path)
    dataset, problems = _inspect(path)
    for name, wanted in (("family", family), ("split", split)):
        if dataset is not None and wanted is not None and getattr(dataset, name) != wanted:
            problems = [f"is of {name} {getattr(dataset, name)!r}, expected {wanted!r}"]
    if dataset is None or problems:
        raise DatasetError(f"{path}: {problems[0]}; {fix(path, problems[0])}")
    return dataset


def read_provenance(path: Path) -> Provenance | None:
    """Returns where a generated file comes from, None for a file that someone else made. Verifies nothing else."""
    try:
        _refuse_endless_heap(path)
        with h5py.File(path, "r", locking=False) as file:
            if "generator_config" not in file.attrs:
                return None
            config, solver = (json.loads(as_text(file.attrs[name])) for name in ("generator_config", "solver"))
            seed, rejections = int(file.attrs["seed"]), int(file.attrs["rejections"])
            return Provenance(as_text(file.attrs["equation"]), seed, config, solver, rejections)
    except UNREADABLE:
        return None


def check(path: Path) -> list[str]:
    """Returns what is wrong with a file, one line each; an empty list means that it loads."""
    return _inspect(Path(path))[1]


def seal(path: Path) -> str:
    """Checks a file of the user's own, adds `sha256` and `complete`, and returns the sha256. Changes nothing else.

    Raises DatasetError when something is wrong with it; the file is then as it was.
    """
    path = Path(path).resolve()
    dataset, problems = _inspect(path, is_sealed=False)
    if dataset is not None and misplaced(path, dataset):
        problems = [misplaced(path, dataset)]
    if dataset is None or problems:
        more = f" (and {len(problems) - 1} more: --check lists them)" if len(problems) > 1 else ""
        raise DatasetError(f"{path}: {problems[0]}{more}; mend it as data/README.md says, then seal it again")
    partial = _partial_path(path)
    try:
        shutil.copy2(path, partial)
        with h5py.File(partial, "r+") as file:
            if "generator_config" in file.attrs and as_text(file.attrs.get("sha256", "")) != dataset.sha256:
                raise DatasetError(
                    f"{path}: was generated and altered since; remove its attribute 'generator_config' to make it a "
                    f"file of your own, or make it again: {generate_command(path)} --overwrite"
                )
            file.attrs["sha256"] = dataset.sha256
            file.flush()
            file.attrs["complete"] = True
        _publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return dataset.sha256


def misplaced(path: Path, dataset: Dataset) -> str:
    """Returns where a search would look for a dataset that lies elsewhere, in a few words; empty where it is right."""
    if (dataset.family, dataset.split) == (path.resolve().parent.name, path.stem):
        return ""
    return (
        f"says it is family {dataset.family!r}, split {dataset.split!r}, "
        f"which a search looks for as {dataset.family}/{dataset.split}.h5"
    )


def remove_partial_files(path: Path) -> None:
    """Removes what killed writers of `path` left behind. Nobody may be writing it."""
    for partial in path.parent.glob(f"{path.name}.*.partial"):
        partial.unlink(missing_ok=True)


def _partial_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.partial")


def _publish(partial: Path, path: Path) -> None:
    """Verifies the finished temporary file, forces it to the disk and gives it its name."""
    problems = check(partial)
    if problems:
        raise DatasetError(f"{path}: {problems[0]}; not written")
    for target in (partial, path.parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if target == partial:
            os.replace(partial, path)


def _storage(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns the chunks and filters of a dataset: whole rows, about CHUNK_VALUES values, checksummed.

    Only `time` is compressed, tenfold: gzip takes a quarter off the digits of a solution, in ten times the time.
    """
    if 0 in shape:
        return {}
    rows = max(1, CHUNK_VALUES // math.prod(shape[1:]))
    chunks = (min(rows, shape[0]), *shape[1:])
    compression = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if name == "time" else {}
    return {"chunks": chunks, "fletcher32": True, **compression}


def fix(path: Path, problem: str) -> str:
    """Returns what to do about a problem that `check` found, as a command where there is one."""
    own = f"python -m data.generate --seal {shlex.quote(str(path))}"
    if problem.startswith("is not sealed"):
        return f"check and complete it: {own}"
    return f"make it again: {generate_command(path)} --overwrite (a file of your own: mend it, then {own})"


def _inspect(path: Path, *, is_sealed: bool = True) -> tuple[Dataset | None, list[str]]:
    """Returns the dataset and no problems, or None and the problems of the first stage that found any.

    Stages: opens; no links, only known datasets; header; types and shapes; sizes; values; seal. Without `is_sealed` the
    last is left out and the dataset carries the digest that it would have.
    """
    if not path.exists():
        way_out = f"make it: {generate_command(path)}" if path.parent.name in FAMILIES else "name a file that exists"
        raise FileNotFoundError(f"{path}: no such dataset; {way_out}")
    if not path.is_file():  # a pipe would be waited for, /dev/zero read for ever
        return None, ["cannot be read as HDF5 (it is not a file): of another kind"]
    try:
        _refuse_endless_heap(path)
        with h5py.File(path, "r", locking=False) as file:
            problems = _link_problems(file)
            if problems:
                return None, problems
            attributes = {name: file.attrs[name] for name in file.attrs}
            attributes["parameter_names"] = file["params"].attrs.get("names") if "params" in file else None
            header, problems = read_header(attributes)
            problems = problems or _shape_problems(file, header) or _size_problems(file, path.stat().st_size)
            if problems:
                return None, problems
            arrays = {name: file[name][()] for name in SCHEMA if name in file}
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:160]
        return None, [f"cannot be read as HDF5 ({reason}): truncated, damaged or of another kind"]
    problems = value_problems(header, arrays)
    if problems:
        return None, problems
    digest = digest_of(header, arrays)
    if is_sealed:
        problems = _seal_problems(attributes, digest)
    if problems:
        return None, problems
    arrays.pop("time", None)
    fields = {name: value for name, value in header.items() if name not in ("format", "format_version")}
    fields |= {"traits": frozenset(header["traits"]), "parameter_names": tuple(header["parameter_names"])}
    return Dataset(**fields, **arrays, sha256=digest), []


def _refuse_endless_heap(path: Path) -> None:
    """Raises ValueError where a heap of texts of variable length never ends: HDF5 would walk in it for ever.

    A collection is "GCOL", version 1, its length, then objects: index, count, length, content. HDF5 steps from one to
    the next by these lengths, and does not notice a step of 0. (HDF5 file format, III.E, lengths of 8 bytes.)
    """
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start, left = content.find(HEAP), len(content) // 16  # steps: objects have headers of 16 bytes
        while start >= 0:
            end = min(start + int.from_bytes(content[start + 8 : start + 16], "little"), len(content))
            place = start + 16
            while place + 16 <= end:
                index, size = content[place : place + 2], int.from_bytes(content[place + 8 : place + 16], "little")
                step = size if index == b"\0\0" else 16 + (size + 7) // 8 * 8
                left -= 1
                if step % 2**64 == 0 or left < 0:
                    raise ValueError("a heap of texts that does not end")
                place += step
            start = content.find(HEAP, start + 4)


def _link_problems(file: h5py.File) -> list[str]:
    """Refuses whatever reads other files, and whatever the format does not know."""
    problems = []
    for name in file:
        kind = type(file.get(name, getlink=True))
        if kind is not h5py.HardLink:
            problems.append(f"'{name}' is a {kind.__name__}, expected a dataset in the file itself")
        elif name not in SCHEMA or not isinstance(file[name], h5py.Dataset):
            problems.append(
                f"holds an unknown '{name}', expected datasets among {', '.join(SCHEMA)}; notes go into attributes"
            )
        elif file[name].is_virtual or file[name].external:
            problems.append(f"'{name}' reads its values from other files, expected them in the file itself")
    problems += [f"has no dataset '{name}'" for name, column in SCHEMA.items() if column.required and name not in file]
    return problems


def _shape_problems(file: h5py.File, header: Mapping[str, Any]) -> list[str]:
    problems = []
    sizes = {"M+1": header["points_per_delay"] + 1, "P": len(header["parameter_names"])}
    for name, column in SCHEMA.items():
        if name not in file:
            continue
        stored = file[name]
        if stored.dtype != np.dtype(column.dtype):
            problems.append(f"'{name}' is of type {stored.dtype}, expected {np.dtype(column.dtype)}")
        shape = stored.shape if stored.shape is not None else ()
        wanted = tuple(sizes.get(axis, axis) for axis in column.axes)
        is_wrong = len(shape) != len(wanted) or any(
            isinstance(want, int) and size != want for size, want in zip(shape, wanted, strict=True)
        )
        if is_wrong:
            axes = f"({', '.join(column.axes)})"
            problems.append(f"'{name}' has shape {shape}, expected {axes} = ({', '.join(map(str, wanted))})")
        else:
            sizes |= dict(zip(column.axes, shape, strict=True))
            sizes["N+1"] = sizes.get("N", 0) + 1
    noise = [name for name in ("source", "level") if (name in file) != (header["split"] in NOISE_SPLITS)]
    problems += [f"'{name}' belongs into the noise splits, and only there (split {header['split']})" for name in noise]
    if not problems and 0 in (sizes["N"], sizes["C"]):
        problems.append("holds no trajectories")
    return problems


def _size_problems(file: h5py.File, file_bytes: int) -> list[str]:
    """Compares what the shapes and the chunks declare with what the file can hold."""
    allowed = DECLARED_BYTES_FREE + DECLARED_BYTES_PER_FILE_BYTE * file_bytes
    stored = [file[name] for name in SCHEMA if name in file]
    declared = max(
        sum(array.nbytes for array in stored),
        max(math.prod(array.chunks or ()) * array.dtype.itemsize for array in stored),
    )
    return [f"declares {declared:.3g} bytes in a file of {file_bytes}"] if declared > allowed else []


def _seal_problems(attributes: Mapping[str, Any], digest: str) -> list[str]:
    if "sha256" not in attributes or not bool(np.all(attributes.get("complete", False))):
        return ["is not sealed (no 'sha256' or no 'complete')"]
    stated = attributes["sha256"]
    stated = stated.decode("ascii", "replace") if isinstance(stated, bytes) else str(stated)
    return [f"was altered: its values have sha256 {digest[:12]}…, stated is {stated[:12]}…"] if stated != digest else []
