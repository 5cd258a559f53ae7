"""The meaning of a dataset file, without the file: columns, header, digest, and what makes values wrong. numpy only."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "dno-trajectories"
FORMAT_VERSION = 1
REQUIRED_SPLITS = ("train", "val", "test")
NOISE_SPLITS = ("val_noise", "test_noise")
SPLITS = (*REQUIRED_SPLITS, "test_tau", "test_history", "val_horizon", "test_horizon", *NOISE_SPLITS)
HORIZON_UNITS = ("time", "delays")
TRAITS = frozenset({"positive", "homogeneous", "neutral", "spatial"})


class DatasetError(ValueError):
    """A dataset file that cannot be trusted; one line that names the file, the problem and the fix."""


@dataclass(frozen=True)
class Column:
    """The type and the axes of one HDF5 dataset."""

    dtype: str
    axes: tuple[str, ...]
    required: bool = True


# In this order the sizes of the axes become known: N and P from the first two, T and C from `solution`.
SCHEMA: dict[str, Column] = {
    "tau": Column("<f8", ("N",)),
    "params": Column("<f8", ("N", "P")),
    "offsets": Column("<i8", ("N+1",)),
    "solution": Column("<f4", ("ΣT", "C")),
    "history": Column("<f4", ("N", "M+1", "C")),
    "time": Column("<f8", ("ΣT",), required=False),
    "scaled": Column("<f8", ("N", "Q"), required=False),
    "source": Column("<i8", ("N",), required=False),
    "level": Column("<f8", ("N",), required=False),
}

MOST_NEGATIVE = 0.1  # of the largest value: what discretised space leaves below zero where a family is positive


@dataclass(frozen=True)
class Dataset:
    """The trajectories of one split. Trajectory i is `solution[offsets[i]:offsets[i + 1]]` at t = j tau / M, j = 1, 2…

    `history` covers t = -tau … 0 in M + 1 points, the last of which is t = 0. `source` and `level` belong to the noise
    splits: the index of the undisturbed trajectory in val or test, and the size of the disturbance.
    """

    family: str
    split: str
    points_per_delay: int
    horizon: float
    horizon_unit: str
    traits: frozenset[str]
    parameter_names: tuple[str, ...]
    history: np.ndarray  # (N, M+1, C) float32
    tau: np.ndarray  # (N,) float64
    params: np.ndarray  # (N, P) float64
    offsets: np.ndarray  # (N+1,) int64
    solution: np.ndarray  # (ΣT, C) float32
    source: np.ndarray | None = None  # (N,) int64
    level: np.ndarray | None = None  # (N,) float64
    scaled: np.ndarray | None = None  # (N, Q) float64
    sha256: str = ""


def dataset_path(data_root: Path | str, family: str, split: str) -> Path:
    """Returns where a split lies: `data_root/<family>/<split>.h5`."""
    return Path(data_root) / family / f"{split}.h5"


def step_counts(tau: np.ndarray, points_per_delay: int, horizon: float, horizon_unit: str) -> np.ndarray:
    """Returns the number of stored steps of each trajectory, (N,) int64: ⌊T M / tau + 1e-9⌋, or T M for T in delays."""
    with np.errstate(over="ignore"):
        delays = horizon / np.asarray(tau) if horizon_unit == "time" else np.full(np.shape(tau), horizon)
        return np.minimum(np.floor(delays * points_per_delay + 1e-9), 2.0**53).astype(np.int64)


def stored_times(tau: np.ndarray, offsets: np.ndarray, points_per_delay: int) -> np.ndarray:
    """Returns t = j tau / M, j = 1, 2, … of every trajectory, one after the other, (ΣT,) float64."""
    lengths = np.diff(offsets)
    steps = np.arange(1, offsets[-1] + 1) - np.repeat(offsets[:-1], lengths)
    return steps * np.repeat(tau, lengths) / points_per_delay


def header_of(dataset: Dataset) -> dict[str, Any]:
    """Returns what the numbers mean: the root attributes, and the parameter names."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "family": dataset.family,
        "split": dataset.split,
        "points_per_delay": int(dataset.points_per_delay),
        "horizon": float(dataset.horizon),
        "horizon_unit": dataset.horizon_unit,
        "traits": sorted(dataset.traits),
        "parameter_names": list(dataset.parameter_names),
    }


def digest_of(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256 over the header and, in name order, the name, type, shape and bytes of all datasets."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def as_text(value: Any) -> str:
    """Returns a string attribute as `str`; anything else raises TypeError."""
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r}")
    return value


def _names(value: Any) -> list[str]:
    """Returns the names in "a,b" or in an array of strings."""
    if isinstance(value, str | bytes):
        return [name.strip() for name in as_text(value).split(",") if name.strip()]
    return [as_text(name) for name in np.ravel(value).tolist()]


def read_header(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the header of `header_of` and what is wrong with it. `horizon_unit` may be missing: "time"."""
    problems = []
    header: dict[str, Any] = {}
    for name, convert, holds, expected in (
        ("format", as_text, FORMAT.__eq__, repr(FORMAT)),
        ("format_version", _whole_number, FORMAT_VERSION.__eq__, str(FORMAT_VERSION)),
        ("family", as_text, lambda value: bool(value.strip()), "a name"),
        ("split", as_text, SPLITS.__contains__, f"one of {', '.join(SPLITS)}"),
        ("points_per_delay", _whole_number, lambda value: value >= 2, "a whole number of at least 2"),
        ("horizon", float, lambda value: math.isfinite(value) and value > 0, "a positive number"),
        ("horizon_unit", as_text, HORIZON_UNITS.__contains__, "time or delays"),
        ("traits", _names, TRAITS.issuperset, f"names among {', '.join(sorted(TRAITS))}"),
        ("parameter_names", _names, lambda value: len(set(value)) == len(value), "distinct names"),
    ):
        value = attributes.get(name, "time" if name == "horizon_unit" else None)
        label = "'names' of params" if name == "parameter_names" else f"'{name}'"
        try:
            header[name] = convert(value)
        except (TypeError, ValueError):
            header[name] = None
        if header[name] is None or not holds(header[name]):
            problems.append(
                f"attribute {label} is {'missing' if value is None else _plain(value)}, expected {expected}"
            )
    header["traits"] = sorted(header["traits"] or [])
    return header, problems


def _plain(value: Any) -> str:
    """Returns a value as a person writes it, without numpy's types."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def _whole_number(value: Any) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"expected a whole number, got {value!r}")
    return int(value)


def value_problems(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> list[str]:
    problems = []
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            problems.append(f"'{name}' holds {np.count_nonzero(~np.isfinite(array))} values that are not finite")
    tau, offsets, points = arrays["tau"], arrays["offsets"], header["points_per_delay"]
    if not (tau > 0).all():
        problems.append(f"'tau' holds {tau.min():g}, expected positive delays")
    end = len(arrays["solution"])
    if offsets[0] != 0 or offsets[-1] != end or (offsets[1:] <= offsets[:-1]).any():
        problems.append(f"'offsets' must rise from 0 to the {end} rows of solution, got {offsets[0]} … {offsets[-1]}")
    if problems:
        return problems
    lengths, longest = np.diff(offsets), step_counts(tau, points, header["horizon"], header["horizon_unit"])
    wrong = np.flatnonzero((lengths < points) | (lengths > longest))
    if wrong.size:
        first = wrong[0]
        problems.append(
            f"'offsets' give trajectory {first} {lengths[first]} steps, expected {points} (one delay) "
            f"to {longest[first]} (the horizon)"
        )
    if "time" in arrays and not np.allclose(arrays["time"], stored_times(tau, offsets, points), rtol=1e-9, atol=0):
        problems.append("'time' is not j tau / points_per_delay, j = 1, 2, … for every trajectory")
    if "level" in arrays and not (arrays["level"] > 0).all():
        problems.append(f"'level' holds {arrays['level'].min():g}, expected positive noise levels")
    if "positive" in header["traits"]:
        for name in ("history", "solution"):
            if arrays[name].min() < -MOST_NEGATIVE * np.abs(arrays[name]).max():
                problems.append(f"'{name}' holds {arrays[name].min():.4g}, but 'traits' say that it is positive")
    if "source" in arrays and (arrays["source"] < 0).any():
        problems.append(f"'source' holds {arrays['source'].min()}, expected indices into the split without noise")
    return problems
