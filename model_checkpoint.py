"""A training that goes on where it was cut off: its whole state, in files that are never half written.

On a CPU the restored training is bit for bit the uninterrupted one. That takes the operator, the optimizers, the pace
(it holds the schedule), torch's own randomness and that of the batches; without any of the last four it is another.
"""

import dataclasses
import hashlib
import io
import logging
import pickle
import shutil
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from experiment_tracker import EpochRecord, write_atomically
from model_optimizer import JointOptimizer

logger = logging.getLogger(__name__)
torch.serialization.set_crc32_options(False)  # 7 ms for 26 MB; there is a sha256

HEADER = b"dno-training-state 1 "  # then the sha256 of all that follows the line
DIGITS = 64
# What torch raises on a file that is none of its own.
DAMAGE = (RuntimeError, pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
DAMAGE += (EOFError, OSError, OverflowError, MemoryError, struct.error)
ZIP = b"PK\x03\x04"
PARTS = ("operator", "optimizer", "progress", "order", "random", "random_device", "records")
SHARE = 0.005  # of the time, at most: a wide operator can take longer to save than a GPU needs for an epoch
KEPT = 2  # the newest checkpoints: should the last be damaged, one epoch more is trained again


@dataclass
class Training:
    """Everything of a training that changes from step to step."""

    operator: nn.Module
    optimizer: JointOptimizer
    progress: tuple[object, ...]  # pace, best weights and stopwatch: plain attributes, copied as they are
    order: torch.Generator
    records: list[EpochRecord]

    def capture(self) -> dict[str, object]:
        """The state, as plain values and tensors."""
        device, weights = self.order.device, self.operator.state_dict()
        progress = [_plain_attributes(part) for part in self.progress]
        for attributes in progress:  # the best weights are often the present ones: then they are written once
            attributes.update({name: weights for name, value in attributes.items() if _are_equal(value, weights)})
        return {
            "operator": weights,
            "optimizer": self.optimizer.state_dict(),
            "progress": progress,
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "random_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "records": [dataclasses.astuple(record) for record in self.records],
        }

    def restore(self, saved: dict[str, object]) -> None:
        """Goes back to a captured state."""
        self.operator.load_state_dict(saved["operator"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for part, attributes in zip(self.progress, saved["progress"], strict=True):
            for name, value in attributes.items():
                setattr(part, name, _on(self.order.device, value))
        self.order.set_state(saved["order"])
        torch.set_rng_state(saved["random"])
        if saved["random_device"] is not None:
            torch.cuda.set_rng_state(saved["random_device"], self.order.device)
        self.records[:] = read_records(saved)


def _plain_attributes(part: object) -> dict[str, object]:
    """What of an object's attributes can change: numbers, and numbers or tensors by name."""
    return {name: value for name, value in vars(part).items() if value is None or isinstance(value, int | float | dict)}


def _on(device: torch.device, value: object) -> object:
    """A copy, its tensors on the device."""
    if not isinstance(value, dict):
        return value
    return {
        name: entry.to(device, copy=True) if isinstance(entry, torch.Tensor) else entry for name, entry in value.items()
    }


def _are_equal(value: object, weights: dict[str, torch.Tensor]) -> bool:
    if not isinstance(value, dict) or value.keys() != weights.keys():
        return False
    return all(torch.equal(value[name], tensor) for name, tensor in weights.items())


def read_records(saved: dict[str, object]) -> list[EpochRecord]:
    """The epochs of a captured state."""
    return [EpochRecord(*values) for values in saved["records"]]


def seconds_spent(saved: dict[str, object]) -> dict[str, float]:
    """The seconds by activity that a captured training had taken."""
    return next(dict(part["spent"]) for part in saved["progress"] if "spent" in part)


class _Summed:
    """A file that sums up what is written to it: no copy of a state is made to be written and summed."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle, self.sha256 = handle, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self._handle.write(content)

    def flush(self) -> None:
        self._handle.flush()


class Checkpoints:
    """The newest states of one training, in a folder of their own. `saved` is the one that was found there, if any."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self.saved = self._newest()
        self._next = 0.0  # not before, by time.perf_counter

    def is_due(self, epoch: int, status: str) -> bool:
        """Every so many epochs as long as saving takes at most SHARE of the time, and where a training stops to go on
        later; not where it was judged and ends.
        """
        if status != "complete":
            return status in ("paused", "interrupted")
        return epoch % self.every == 0 and time.perf_counter() >= self._next

    def save(self, training: Training) -> None:
        """Writes the state under a name of its own, then removes all but the last two. Not flushed to the disk: what a
        power cut leaves is noticed by its sha256, and the one before is taken.
        """
        begun = time.perf_counter()
        self.folder.mkdir(exist_ok=True)

        def write(partial: Path) -> None:
            with open(partial, "wb") as handle:
                handle.write(HEADER + bytes(DIGITS) + b"\n")
                content = _Summed(handle)
                torch.save(training.capture(), content)
                handle.seek(len(HEADER))
                handle.write(content.sha256.hexdigest().encode())

        write_atomically(self.folder / f"epoch-{len(training.records):06d}.pt", write, is_flushed=False)
        for old in self._files()[KEPT:]:
            old.unlink()
        self._next = time.perf_counter() + (time.perf_counter() - begun) / SHARE

    def remove(self) -> None:
        """Deletes them all: the training is over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.pt"), reverse=True)

    def _newest(self) -> dict[str, object] | None:
        for path in self._files():
            try:
                return read_checkpoint(path)
            except (OSError, ValueError) as problem:
                logger.warning("%s; the one before it is taken", problem)
        return None


def read_checkpoint(path: Path) -> dict[str, object]:
    """The state in a file. Runs no code from it; ValueError for a file that was altered, cut or is of another kind."""
    with open(path, "rb") as handle:
        line, content = handle.readline(len(HEADER) + DIGITS + 1), handle.read()
    if line != HEADER + hashlib.sha256(content).hexdigest().encode() + b"\n":
        raise ValueError(f"{path}: differs from its sha256: damaged")
    try:
        # Without its zip archive torch would take the bytes for a form of its own from before 2020.
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True) if content[:4] == ZIP else None
    except DAMAGE as error:
        raise ValueError(f"{path}: not a training state") from error
    if not isinstance(saved, dict) or set(saved) != set(PARTS):
        raise ValueError(f"{path}: not a training state")
    return saved
