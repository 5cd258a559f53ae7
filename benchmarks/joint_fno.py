"""The baseline of published work: a Fourier neural operator on the joint history-and-future grid, in one shot.

History, mask, time, delay and parameters are channels of one grid over [-τ, T]; the whole solution comes out at once
(Li et al. 2021). It has our Fourier layers, trainer, optimizers and schedule, so that what differs is the operator.
`register()` puts it beside the other operators, in the benchmark's process alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import dno
from data.batches import FamilyData
from dno.fourier_layer import FourierLayer, FourierLayers
from dno.layers import Lift
from dno.operator import Operator, OperatorSpec

NAME = "joint_fno"
SEARCH_SPACE = {
    "learning_rate": (5e-4, 1e-2, "log"),
    "trajectories": [4, 8, 16],  # of one step
    "width": [24, 32, 48, 64],
    "n_layers": [3, 4, 5],
    "modes": [24, 48, 96],  # along time
    "optimizer": ["muon", "adamw"],
    "log_state": [False, True],  # of positive families without a space axis
}


@dataclass(frozen=True)
class JointFNOHyperparameters:
    """`intervals` is the length of the future, in delays, rounded up."""

    intervals: int = 10
    width: int = 32
    n_layers: int = 4
    modes: int = 48
    modes_x: int = 8
    log_state: bool = False
    homogeneous: bool = False


class JointFNO(Operator):
    """(history, delay, parameters) -> the whole trajectory at once. Past its horizon it says nothing: inf."""

    Hyperparameters = JointFNOHyperparameters

    def __init__(self, spec: OperatorSpec, hyperparameters: JointFNOHyperparameters) -> None:
        h = hyperparameters
        super().__init__(spec, h.log_state, h.homogeneous)
        self.target_rows = h.intervals
        points = (1 + h.intervals) * spec.points_per_delay + 1
        self.lift = Lift(self.inputs + 2, len(spec.parameter_names) + 1, h.width)  # state; mask, time; delay
        modes_x = min(h.modes_x, spec.n_space // 2 + 1)
        self.layers = FourierLayers(
            FourierLayer(points, spec.n_space, h.modes, modes_x, h.width, 0.0) for _ in range(h.n_layers)
        )
        self.hidden, self.out = nn.Linear(h.width, 128), nn.Linear(128, spec.components)

    def solution(self, history: Tensor, tau: Tensor, params: Tensor) -> tuple[Tensor, Tensor | None]:
        """The normalised future (T, X, B, c), and the scale of homogeneous equations."""
        field = self.to_field(history)
        scale = self.scale_of(field)
        past = self.seen(self.encode(field, scale))
        future = past[-1:].expand(self.target_rows * self.spec.points_per_delay, *past.shape[1:])
        state = torch.cat([past, future])
        is_past = torch.zeros_like(state[..., :1])
        is_past[: len(past)] = 1
        time = torch.linspace(-1, 1, len(state), dtype=state.dtype, device=state.device)
        time = time[:, None, None, None].expand_as(is_past)
        delay = ((tau - self.tau_mean) / self.tau_deviation)[:, None]
        x = self.lift(torch.cat([state, is_past, time], -1), torch.cat([self.standardised(params), delay], 1))
        x = self.layers(x)
        return self.out(functional.gelu(self.hidden(x[len(past) :]))), scale

    def forward(
        self, history: Tensor, tau: Tensor, params: Tensor, n_steps: int, lengths: Tensor | None = None
    ) -> Tensor:
        found = self.from_field(self.decode(*self.solution(history, tau, params)))
        missing = max(0, n_steps - found.shape[1])
        return functional.pad(found[:, :n_steps], (0, 0, 0, missing), value=torch.inf)

    def training_loss(
        self, rows: Tensor, present: Tensor, tau: Tensor, params: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        """Mean square of the normalised state over the points that hold a value: rows past the horizon are nan."""
        found, scale = self.solution(rows[:, 0], tau, params)
        truth = self.to_field(rows[:, 1:, 1:].flatten(1, 2))
        known = truth.isfinite() & present[:, 1:].repeat_interleave(self.spec.points_per_delay, 1).T[:, None, :, None]
        error = found - self.encode(torch.where(known, truth, torch.ones_like(truth)), scale)
        return torch.where(known, error, torch.zeros_like(error)).square().sum() / known.sum()


def register() -> None:
    """Lets `model_trainer.train` build it by its name."""
    dno.OPERATORS[NAME] = JointFNO


def longest(data: FamilyData) -> int:
    """Delays, rounded up, of the longest trajectory of the splits that the operator is asked for."""
    steps = max(int(data.splits[name].lengths.max()) for name in ("train", "val", "test", "test_tau", "test_history"))
    return -(-steps // data.points_per_delay)


def whole_trajectories(data: FamilyData) -> FamilyData:
    """The same data for one shot: training rows up to the last, incomplete interval (what it lacks is nan).

    Without the horizon splits, which one shot cannot reach, and the noise splits, which nothing is compared on.
    """
    train = data.splits["train"]
    points, missing = data.points_per_delay, -train.solution.shape[1] % data.points_per_delay
    mask = functional.pad(train.mask, (0, missing))
    solution = functional.pad(train.solution, (0, 0, 0, missing))
    solution = torch.where(mask[..., None], solution, torch.full_like(solution, torch.nan))
    lengths = -(-train.lengths // points) * points
    train = dataclasses.replace(train, solution=solution, mask=mask, lengths=lengths)
    kept = {name: split for name, split in data.splits.items() if not name.endswith(("_horizon", "_noise"))}
    return dataclasses.replace(data, splits=kept | {"train": train})


def trainer_hyperparameters(found: dict[str, object], data: FamilyData) -> dict[str, object]:
    """A point of SEARCH_SPACE as the trainer takes it."""
    intervals = longest(data)
    values = dict(found)
    batch = values.pop("trajectories", 8) * intervals
    is_logarithmic = "positive" in data.traits and "spatial" not in data.traits
    values["log_state"] = is_logarithmic and bool(values.get("log_state", True))
    homogeneous = "homogeneous" in data.traits
    return values | {
        "intervals": intervals,
        "batch_size": batch,
        "homogeneous": homogeneous,
        "first_interval_share": 1.0,
    }
