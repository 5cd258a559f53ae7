"""Whole splits as tensors on the device, and training windows drawn from them by index."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.store import REQUIRED_SPLITS, SPLITS, Dataset, DatasetError, dataset_path, read

SHARED_FIELDS = ("points_per_delay", "parameter_names", "traits")  # the same in every split of a family


@dataclass(frozen=True)
class Split:
    """The trajectories of one split, padded with zeros to the longest; `mask` says what is a value."""

    name: str
    history: Tensor  # (N, M+1, C), the last row is t = 0
    tau: Tensor  # (N,)
    params: Tensor  # (N, P)
    solution: Tensor  # (N, T, C) at t = jτ/M, j = 1 … T
    mask: Tensor  # (N, T) bool
    lengths: Tensor  # (N,) int64
    source: Tensor | None = None  # (N,) int64, noise splits: index into val or test
    level: Tensor | None = None  # (N,), noise splits: size of the noise
    scaled: Tensor | None = None  # (N, Q), the numbers that matter after scaling

    def __len__(self) -> int:
        return len(self.tau)

    @property
    def points_per_delay(self) -> int:
        return self.history.shape[1] - 1

    def take(self, index: Tensor) -> "Split":
        """The trajectories of this index, (N',) int64."""
        tensors = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "name"}
        return Split(self.name, **{key: value if value is None else value[index] for key, value in tensors.items()})


@dataclass(frozen=True)
class FamilyData:
    """All splits of one family that are there; `val_…` may steer a search, `test…` never."""

    family: str
    channels: int
    points_per_delay: int
    parameter_names: tuple[str, ...]
    traits: frozenset[str]
    splits: dict[str, Split]
    sha256: dict[str, str]  # of each split's file


def load_family(
    family: str, data_root: Path, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> FamilyData:
    """Every split of `family` under `data_root`, on the device.

    Raises FileNotFoundError where train, val or test is missing, DatasetError where a file is not what it should be or
    does not go with the others.
    """
    paths = {split: dataset_path(data_root, family, split) for split in SPLITS}
    present = [split for split in SPLITS if split in REQUIRED_SPLITS or paths[split].exists()]
    datasets = {split: read(paths[split], family=family, split=split) for split in present}
    for split, dataset in datasets.items():
        _check_agreement(paths[split], dataset, datasets)
    train = datasets["train"]
    return FamilyData(
        family,
        train.history.shape[2],
        train.points_per_delay,
        train.parameter_names,
        train.traits,
        {split: collate(dataset, device, dtype) for split, dataset in datasets.items()},
        {split: dataset.sha256 for split, dataset in datasets.items()},
    )


def _check_agreement(path: Path, dataset: Dataset, datasets: dict[str, Dataset]) -> None:
    """Raises DatasetError where a split does not go with train, or a noise split with what it is made from."""
    train = datasets["train"]
    pairs = [(name, getattr(dataset, name), getattr(train, name)) for name in SHARED_FIELDS]
    pairs.append(("number of channels", dataset.history.shape[2], train.history.shape[2]))
    for name, found, expected in pairs:
        if found != expected:
            raise DatasetError(
                f"{path}: {name} is {_show(found)}, but {_show(expected)} in train.h5 beside it; make both alike"
            )
    if dataset.source is not None:
        base = dataset.split.removesuffix("_noise")
        size = len(datasets[base].tau)
        if dataset.source.max() >= size:
            raise DatasetError(
                f"{path}: 'source' names trajectory {dataset.source.max()} of {base}, which has {size}; make both anew"
            )


def _show(value: object) -> str:
    return ", ".join(sorted(value)) or "nothing" if isinstance(value, frozenset | tuple) else str(value)


def collate(dataset: Dataset, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Split:
    """The ragged trajectories of a dataset as padded tensors."""
    lengths = np.diff(dataset.offsets)
    mask = np.arange(lengths.max()) < lengths[:, None]
    solution = np.zeros((*mask.shape, dataset.solution.shape[1]), dataset.solution.dtype)
    solution[mask] = dataset.solution

    def values(array: np.ndarray | None) -> Tensor | None:
        return None if array is None else torch.as_tensor(array).to(device, dtype)

    return Split(
        dataset.split,
        values(dataset.history),
        values(dataset.tau),
        values(dataset.params),
        values(solution),
        torch.as_tensor(mask).to(device),
        torch.as_tensor(lengths).to(device),
        None if dataset.source is None else torch.as_tensor(dataset.source).to(device),
        values(dataset.level),
        values(dataset.scaled),
    )


def delay_rows(split: Split) -> tuple[Tensor, Tensor]:
    """The delay plane of every trajectory: rows (N, 1+K, M+1, C) and the complete intervals of each (N,), at most K.

    Row 0 is the history, row n + 1 holds the M + 1 points of interval [nτ, (n+1)τ], both ends included. Rows past the
    last complete interval hold padding.
    """
    points = split.points_per_delay
    path = torch.cat([split.history, split.solution], 1)
    rows = path.unfold(1, points + 1, points).movedim(-1, 2).contiguous()  # (N, 1+K, M+1, C)
    return rows, split.lengths // points


class RowWindows:
    """Crops of consecutive rows for training: `past_rows` rows, then `target_rows` rows to predict.

    Every trajectory is drawn equally often, however many delays it holds: errors are measured per trajectory. The first
    target of a crop is interval 0 in `first_interval_share` of all draws, because every solution starts from a history,
    which looks like no later row; and else any later complete interval of it with equal probability.
    """

    def __init__(self, split: Split, past_rows: int, target_rows: int, first_interval_share: float) -> None:
        rows, intervals = delay_rows(split)
        count = rows.shape[1]
        absent = torch.zeros_like(rows[0, :1])
        self._rows = torch.cat([rows.flatten(0, 1), absent])  # (N·(1+K) + 1, M+1, C), the last row for all absent ones
        self._rows_per_trajectory, self._intervals = count, intervals
        self._tau, self._params = split.tau, split.params
        device = rows.device
        self._offsets = torch.arange(-past_rows, target_rows, device=device) + 1  # row n is stored at n + 1
        self._first = (intervals >= 1).nonzero().flatten()  # trajectories that have a first interval
        self._later = (intervals >= 2).nonzero().flatten()  # and later ones
        if len(self._first) == 0:
            raise ValueError(f"{split.name}: no trajectory is one delay long, nothing can be trained on it")
        self._share = first_interval_share if len(self._later) else 1.0
        if not len(self._later):
            self._later = self._first

    def draw(self, n_crops: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Crops with replacement: rows (B, past+target, M+1, C), present (B, past+target), tau (B,), params (B, P).

        Rows before the history or past the last complete interval are zero and not present.
        """
        device = self._rows.device
        chance, place = torch.rand(2, n_crops, generator=generator, device=device)
        first = self._first[torch.randint(len(self._first), (n_crops,), generator=generator, device=device)]
        later = self._later[torch.randint(len(self._later), (n_crops,), generator=generator, device=device)]
        is_first = chance < self._share
        trajectory = torch.where(is_first, first, later)
        intervals = self._intervals[trajectory]
        after = (1 + place * (intervals - 1)).long().minimum(intervals - 1)  # 1 … K-1
        start = torch.where(is_first, torch.zeros_like(after), after)
        row = start[:, None] + self._offsets  # (B, past+target), stored place in the trajectory's plane
        present = (row >= 0) & (row <= intervals[:, None])
        index = torch.where(present, trajectory[:, None] * self._rows_per_trajectory + row, len(self._rows) - 1)
        rows = self._rows.index_select(0, index.flatten()).view(*index.shape, *self._rows.shape[1:])
        return rows, present, self._tau[trajectory], self._params[trajectory]
