"""Method of steps: (history segment, delay, parameters) -> the next segment, rolled out one delay after the other.

With x_n(s) = x((n+s)τ), the next segment solves x' = τ F(x(s), c(s); p), x(0) = x_n(1), where c are features that
Fourier layers draw from x_n. It is found by Picard iteration with the same F in every sweep (Bellman & Cooke 1963;
Picard–Lindelöf), by quadrature on the stored grid, so the solution is continuous by construction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from dno.fourier_layer import FourierLayer
from dno.layers import Lift, ParameterHead, PointwiseNetwork
from dno.operator import Operator, OperatorSpec
from dno.quadrature import integration_matrix
from dno.spectral import SpaceFilter


@dataclass(frozen=True)
class MethodOfStepsHyperparameters:
    """Defaults that depend on a family follow its traits; `default_hyperparameters` resolves them."""

    width: int = 64
    n_layers: int = 2
    fourier_modes_t: int = 12
    fourier_modes_x: int = 6
    dropout: float = 0.0
    sweeps: int = 12
    sub_windows: int = 2
    log_state: bool = False
    per_capita: bool = False
    homogeneous: bool = False


class PicardWindows(nn.Module):
    """Solves dy/ds = f(y, points) on the points of one delay interval by Picard sweeps on consecutive sub-windows."""

    def __init__(self, n_points: int, sub_windows: int, sweeps: int) -> None:
        super().__init__()
        self.sweeps = sweeps
        edges = np.round(np.linspace(0, n_points - 1, sub_windows + 1)).astype(int)
        self.windows = [slice(int(a), int(b) + 1) for a, b in pairwise(edges)]
        for i, window in enumerate(self.windows):
            matrix = integration_matrix(window.stop - window.start, 1 / (n_points - 1))
            self.register_buffer(f"integral_{i}", torch.tensor(matrix, dtype=torch.get_default_dtype()), False)

    def forward(self, start: Tensor, rate: Callable[[Tensor, slice], Tensor], jump: Tensor | None = None) -> Tensor:
        """start (X, B, c) -> (S, X, B, c). `rate(y, points)` is dy/ds there; `jump` is added after the integral."""
        pieces = []
        base = start
        for i, window in enumerate(self.windows):
            integral = getattr(self, f"integral_{i}")
            offset = base if jump is None else base + jump[window] - jump[window.start]
            state = offset.expand(window.stop - window.start, *start.shape)
            for _ in range(self.sweeps):
                state = offset + torch.tensordot(integral, rate(state, window), 1)
            base = state[-1]
            pieces.append(state if i == 0 else state[1:])
        return torch.cat(pieces)


class MethodOfSteps(Operator):
    """Method-of-steps operator with a Picard map per delay interval."""

    Hyperparameters = MethodOfStepsHyperparameters

    @classmethod
    def trait_defaults(cls, spec: OperatorSpec) -> dict[str, object]:
        """A space axis makes every layer X times as dear: smaller layers, more steps in the same time."""
        return {"width": 32, "fourier_modes_t": 8, "sub_windows": 4} if spec.n_space > 1 else {}

    def __init__(self, spec: OperatorSpec, hyperparameters: MethodOfStepsHyperparameters) -> None:
        h = hyperparameters
        super().__init__(spec, h.log_state, h.homogeneous)
        self.per_capita = h.per_capita
        points, parameters, components = spec.points_per_delay + 1, len(spec.parameter_names), spec.components
        head_width = min(h.width, 64)  # the head runs once per sweep: its width is what a rollout costs
        self.lift = Lift(components, parameters, h.width)
        self.layers = nn.ModuleList(
            FourierLayer(points, spec.n_space, h.fourier_modes_t, h.fourier_modes_x, h.width, h.dropout)
            for _ in range(h.n_layers)
        )
        self.context = nn.Linear(h.width, head_width)
        self.state = nn.Linear(components, head_width, bias=False)
        self.network = PointwiseNetwork(head_width, 2)
        self.head = ParameterHead(head_width, parameters, components)
        self.filter = SpaceFilter(spec.n_space, h.fourier_modes_x, head_width) if spec.n_space > 1 else None
        self.linear_head = ParameterHead(head_width, parameters, components) if spec.n_space > 1 else None
        self.jump_head = ParameterHead(h.width, parameters, components) if "neutral" in spec.traits else None
        self.picard = PicardWindows(points, h.sub_windows, h.sweeps)
        whole = integration_matrix(points, 1 / spec.points_per_delay)
        self.register_buffer("integral", torch.tensor(whole, dtype=torch.get_default_dtype()), persistent=False)

    def features(self, state: Tensor, parameters: Tensor) -> Tensor:
        """c(s) from the normalised past segment: (S, X, B, c), (B, P) -> (S, X, B, W)."""
        x = self.lift(state, parameters)
        for layer in self.layers:
            x = layer(x)
        return x

    def rate_function(self, features: Tensor, parameters: Tensor, tau: Tensor) -> Callable[[Tensor, slice], Tensor]:
        """(y, points) -> dy/ds = τ · rate_scale · F(y, c; p) at those points of the interval."""
        context = self.context(features)
        weights = self.head.weights(parameters)
        linear_weights = self.linear_head.weights(parameters) if self.linear_head else None
        factor = tau[:, None] * self.rate_scale

        def rate(y: Tensor, points: slice) -> Tensor:
            y = self.bounded(y)
            hidden = self.state(y) + context[points]
            filtered = None
            if self.filter is not None:
                filtered = self.filter(y)
                hidden = hidden + filtered
            out = self.head(self.network(hidden), weights)
            if self.per_capita:
                out = out * (y + self.mean / self.deviation)
            if filtered is not None:
                out = out + self.linear_head(filtered, linear_weights)
            return factor * out

        return rate

    def jump(self, features: Tensor, parameters: Tensor) -> Tensor | None:
        """H(c(s)), the part that a delayed derivative contributes: it carries no τ. (S, X, B, c)."""
        if self.jump_head is None:
            return None
        return self.jump_head(features, self.jump_head.weights(parameters))

    def forward(self, history: Tensor, tau: Tensor, params: Tensor, n_steps: int) -> Tensor:
        parameters = self.standardised(params)
        field = self.to_field(history)
        rows = []
        for _ in range(-(-n_steps // self.spec.points_per_delay)):
            scale = self.scale_of(field)
            state = self.encode(field, scale)
            features = self.features(state, parameters)
            rate = self.rate_function(features, parameters, tau)
            nxt = self.picard(state[-1], rate, self.jump(features, parameters))
            field = self.decode(nxt, scale)
            rows.append(field[1:])
        return self.from_field(torch.cat(rows))[:, :n_steps]

    def training_loss(
        self, rows: Tensor, present: Tensor, tau: Tensor, params: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        """Residual loss: F at the true next segment, integrated once, against that segment. One evaluation of F."""
        past, target = self.to_field(rows[:, 0]), self.to_field(rows[:, 1])
        scale = self.scale_of(past)
        state, truth = self.encode(past, scale), self.encode(target, scale)
        parameters = self.standardised(params)
        features = self.features(state, parameters)
        rate = self.rate_function(features, parameters, tau)(truth, slice(None))
        predicted = truth[0] + torch.tensordot(self.integral, rate, 1)
        jump = self.jump(features, parameters)
        if jump is not None:
            predicted = predicted + jump - jump[0]
        return (predicted - truth).square().mean()
