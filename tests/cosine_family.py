"""A family with a closed form, x'(t) = -w x(t-τ) with w τ = π/2: a cos(π s/2 + f), s = t/τ; and operators for it."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import dno
from data.batches import FamilyData, collate
from data.schema import Dataset

POINTS = 8
SIZES = {"train": 40, "val": 12, "test": 9, "test_tau": 7, "test_history": 6, "val_horizon": 12, "test_horizon": 9}
LEVELS = (0.01, 0.1)


def cosine(amplitude: np.ndarray, phase: np.ndarray, s: np.ndarray) -> np.ndarray:
    """(N,), (N,), (S,) -> (N, S)."""
    return amplitude[:, None] * np.cos(math.pi / 2 * s + phase[:, None])


def make_dataset(
    split: str, tau: np.ndarray, amplitude: np.ndarray, phase: np.ndarray, horizon: float = 6.0, **fields: np.ndarray
) -> Dataset:
    """Trajectories to t = horizon: their lengths vary with τ, the last interval is mostly incomplete."""
    lengths = np.floor(horizon / tau * POINTS + 1e-9).astype(np.int64)
    paths = cosine(amplitude, phase, np.arange(-POINTS, lengths.max() + 1) / POINTS).astype(np.float32)
    frequency = math.pi / 2 / tau
    return Dataset(
        "cosine",
        split,
        POINTS,
        horizon,
        "time",
        frozenset(),
        ("w",),
        paths[:, : POINTS + 1, None],
        tau,
        frequency[:, None],
        np.append(0, np.cumsum(lengths)),
        np.concatenate([path[POINTS + 1 : POINTS + 1 + n] for path, n in zip(paths, lengths, strict=True)])[:, None],
        scaled=fields.pop("scaled", (frequency * tau)[:, None] + 0.1 * tau[:, None]),
        **fields,
    )


def make_datasets(*, optional: bool = True) -> dict[str, Dataset]:
    """Every split, or train, val and test alone."""
    made = {}
    for seed, (split, size) in enumerate(SIZES.items()):
        draw = np.random.default_rng(seed if not split.endswith("_horizon") else list(SIZES).index(split[:-8]))
        tau = draw.uniform(0.9, 1.3, size) + (0.2 if split == "test_tau" else 0.0)
        amplitude, phase = draw.uniform(0.5, 2.0, size), draw.uniform(0, 2 * math.pi, size)
        horizon = 12.0 if split.endswith("_horizon") else 6.0
        made[split] = make_dataset(split, tau, amplitude, phase, horizon)
        if split in ("val", "test"):
            source, level = np.tile(np.arange(5), len(LEVELS)), np.repeat(LEVELS, 5)
            shift = draw.uniform(-1, 1, len(source))
            # The disturbance is a cosine of the family itself, so that its true solution is one, too.
            total = amplitude[source] * np.exp(1j * phase[source]) + amplitude[source] * level * np.exp(1j * shift)
            made[f"{split}_noise"] = make_dataset(
                f"{split}_noise", tau[source], np.abs(total), np.angle(total), source=source, level=level
            )
    return {split: made[split] for split in made if optional or split in ("train", "val", "test")}


def make_family(*, optional: bool = True) -> FamilyData:
    """The family in memory, on the CPU."""
    splits = {split: collate(dataset) for split, dataset in make_datasets(optional=optional).items()}
    return FamilyData("cosine", 1, POINTS, ("w",), frozenset(), splits, dict.fromkeys(splits, "0"))


class ScaledSolution(dno.Operator):
    """The exact solution x(s) = x(0) cos(π s/2) - x(-1) sin(π s/2), times a factor, plus an offset."""

    def __init__(self, factor: float, offset: float = 0.0) -> None:
        super().__init__(dno.OperatorSpec(1, POINTS, ("w",)), False, False)
        self.factor, self.offset = factor, offset

    def forward(
        self, history: Tensor, tau: Tensor, params: Tensor, n_steps: int, lengths: Tensor | None = None
    ) -> Tensor:
        angle = math.pi / 2 * torch.arange(1, n_steps + 1, dtype=torch.float64)[:, None] / POINTS
        exact = history[:, -1:].double() * angle.cos() - history[:, :1].double() * angle.sin()
        return (self.factor * exact + self.offset).to(history.dtype)


@dataclass(frozen=True)
class LinearHyperparameters:
    trouble: str = "none"  # what goes wrong in training
    from_progress: float = 0.0  # and when
    fourier_modes_t: int = 1  # these four every operator has
    fourier_modes_x: int = 1
    log_state: bool = False
    homogeneous: bool = False


class LinearWindows(dno.Operator):
    """Maps one interval to the next by a matrix, with troubles that can be switched on."""

    Hyperparameters = LinearHyperparameters

    def __init__(self, spec: dno.OperatorSpec, hyperparameters: LinearHyperparameters) -> None:
        super().__init__(spec, False, False)
        self.given, self.spikes = hyperparameters, 1
        self.step = nn.Linear(spec.points_per_delay + 1, spec.points_per_delay)

    def forward(
        self, history: Tensor, tau: Tensor, params: Tensor, n_steps: int, lengths: Tensor | None = None
    ) -> Tensor:
        row, pieces = history[..., 0], []
        for _ in range(-(-n_steps // self.spec.points_per_delay)):
            pieces.append(self.step(row))
            row = torch.cat([row[:, -1:], pieces[-1]], 1)
        if self.given.trouble == "infinite rollout":
            pieces[0] = pieces[0] / 0.0
        return torch.cat(pieces, 1)[:, :n_steps, None]

    def training_loss(
        self, rows: Tensor, present: Tensor, tau: Tensor, params: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        loss = (self.step(rows[:, 0, :, 0]) - rows[:, 1, 1:, 0]).square().mean()
        if progress < self.given.from_progress:
            return loss
        match self.given.trouble:
            case "ascent":
                return -loss
            case "not a number":
                return loss * torch.nan
            case "one spike" if self.spikes:
                self.spikes -= 1
                return loss * torch.nan
            case "infinite gradient":
                return loss + (self.step.weight[0, 0] * 0.0).sqrt()
            case "memory":
                return torch.empty(2**58).sum()
            case "bug":
                raise RuntimeError("shapes do not match")
        return loss
