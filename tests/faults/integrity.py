"""Single flipped bits and cuts of datasets and checkpoints: a damaged file is refused, or reads as it was.

A flip in a place that the format does not use changes nothing and may be read. What may not happen is another value.
"""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import dno
from data import store
from tests.faults import tiny

SPEC = dno.OperatorSpec(1, 8, ("w",), frozenset())


@dataclass(frozen=True)
class Tally:
    """How often damage was refused, harmless, or silently wrong."""

    kind: str
    refused: int
    harmless: int
    wrong: int

    def line(self, flips: int, cuts: int) -> str:
        counts = f"{self.refused} refused, {self.harmless} read as they were, {self.wrong} silently wrong"
        return f"{self.kind}: {flips} flipped bits and {cuts} cuts: {counts}"


def dataset_content(path: Path) -> str:
    """A digest of everything that a dataset says."""
    dataset = store.read(path)
    fields = sorted(vars(dataset).items())
    return repr([(k, v.tobytes(), v.shape) if isinstance(v, np.ndarray) else (k, str(v)) for k, v in fields])


def checkpoint_content(path: Path) -> str:
    """A digest of everything that a checkpoint says."""
    operator = dno.load(path)
    digest = hashlib.sha256()
    for name, value in operator.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return f"{type(operator)} {operator.spec} {operator.hyperparameters} {digest.hexdigest()}"


def damage(kind: str, path: Path, read: Callable[[Path], str], flips: int, cuts: int, seed: int) -> Tally:
    """Damages the file, reads it, and counts."""
    random, whole, expected = np.random.default_rng(seed), path.read_bytes(), read(path)
    damaged = []
    for _ in range(flips):
        content = bytearray(whole)
        content[int(random.integers(len(whole)))] ^= 1 << int(random.integers(8))
        damaged.append(bytes(content))
    damaged += [whole[:length] for length in random.integers(0, len(whole), cuts)]
    refused = harmless = wrong = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            is_same = read(path) == expected
        except (ValueError, FileNotFoundError):
            refused += 1
            continue
        harmless, wrong = harmless + is_same, wrong + (not is_same)
    path.write_bytes(whole)
    return Tally(kind, refused, harmless, wrong)


def run(flips: int, cuts: int, seed: int = 0) -> list[Tally]:
    """Damages a dataset and a checkpoint of every operator."""
    with tempfile.TemporaryDirectory() as base:
        path = tiny.make_data(Path(base)) / "cosine" / "val.h5"
        tallies = [damage("dataset", path, dataset_content, flips, cuts, seed)]
        for model in dno.MODELS:
            path = Path(base) / f"{model}.pt"
            torch.manual_seed(0)
            dno.save(dno.build_operator(model, {"width": 4, "n_layers": 1, "fourier_modes_t": 4}, SPEC), path, {"a": 1})
            tallies.append(damage(f"checkpoint of {model}", path, checkpoint_content, flips, cuts, seed))
    return tallies
