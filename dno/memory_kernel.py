"""Memory kernel: a differential equation whose right-hand side sees the past through learned kernels.

x'(s) = τ F(x(s), x(s-1), z(s); p),  z_j(s) = ∫₀¹ K_j(σ) x(s-σ) dσ,  K_j(σ) = Σ_m a_jm cos(π m σ): the kernel weights
live in frequency space (period 2, so a kernel need not be periodic over the delay). Stepped by the classical
fourth-order Runge–Kutta rule on the stored grid; the kernels are trained through the step itself, so that the lags
at half steps are seen too. Windows are aligned with the delay: no stencil crosses a breaking point.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dno.layers import Lift
from dno.operator import Operator, OperatorSpec
from dno.quadrature import differentiation_matrix, interpolation_matrix
from dno.right_hand_side import RightHandSide
from dno.spectral import available_modes_x


@dataclass(frozen=True)
class MemoryKernelHyperparameters:
    """Defaults that depend on a family follow its traits; `default_hyperparameters` resolves them."""

    width: int = 64
    n_layers: int = 3
    fourier_modes_t: int = 8
    fourier_modes_x: int = 6
    dropout: float = 0.0
    n_kernels: int = 4
    point_delay: bool = True
    log_state: bool = False
    per_capita: bool = False
    homogeneous: bool = False


class CosineKernels(nn.Module):
    """J kernels on [0, 1] as cosine series, and their quadrature weights at whole and at half steps of M per delay."""

    def __init__(self, n_kernels: int, modes: int, points_per_delay: int) -> None:
        super().__init__()
        step = 1 / points_per_delay
        m = np.arange(modes)[:, None]
        whole = np.arange(points_per_delay + 1) * step
        half = np.concatenate([[0.0], (np.arange(points_per_delay) + 0.5) * step, [1.0]])
        weight = np.full(points_per_delay + 1, step)
        weight[[0, -1]] /= 2
        weight_half = np.full(points_per_delay + 2, step)
        weight_half[[0, -1]], weight_half[[1, -2]] = step / 4, 3 * step / 4
        for name, lags, weights in (("whole", whole, weight), ("half", half, weight_half)):
            matrix = torch.tensor(np.cos(np.pi * m * lags) * weights, dtype=torch.get_default_dtype())
            self.register_buffer(f"{name}_basis", matrix, persistent=False)
        self.amplitude = nn.Parameter(torch.randn(n_kernels, modes) / modes**0.5)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Weights of the lags 0, h, … 1: (J, M+1), and of the lags 0, h/2, 3h/2, … 1-h/2, 1: (J, M+2)."""
        return self.amplitude @ self.whole_basis, self.amplitude @ self.half_basis


@dataclass(frozen=True)
class Past:
    """What a right-hand side sees at given times, as its share of the first hidden layer: linear, so made only once."""

    hidden: Tensor  # (…, X, B, W), of all but x(s)
    own: Tensor  # (W, inputs), how x(s) enters: directly, and through lag zero of the kernels

    def at(self, index: int | slice) -> "Past":
        """The same at one time, or at some."""
        return Past(self.hidden[index], self.own)


Rate = Callable[[Tensor, Past], Tensor]


class MemoryKernel(Operator):
    """Memory-kernel operator."""

    Hyperparameters = MemoryKernelHyperparameters

    @classmethod
    def trait_defaults(cls, spec: OperatorSpec) -> dict[str, object]:
        """A space axis makes layers X times as dear: smaller ones. Its filters need every frequency: without the high
        ones, which diffusion damps most, the error on reaction_diffusion stays at 3.5e-2 (5.9e-3 with them, 100 s).
        """
        every = available_modes_x(spec.n_space)
        return {"width": 32, "n_layers": 2, "fourier_modes_x": every} if spec.n_space > 1 else {}

    def __init__(self, spec: OperatorSpec, hyperparameters: MemoryKernelHyperparameters) -> None:
        h = hyperparameters
        super().__init__(spec, h.log_state, h.homogeneous)
        points, parameters, components = spec.points_per_delay, len(spec.parameter_names), spec.components
        self.step = 1 / points
        self.point_delay, self.neutral = h.point_delay, "neutral" in spec.traits
        self.kernels = CosineKernels(h.n_kernels, h.fourier_modes_t, points)
        inputs = self.inputs * (1 + h.point_delay) + components * (h.n_kernels + self.neutral)
        self.lift = Lift(inputs, parameters, h.width)
        self.right_hand_side = RightHandSide(self, h.width, h.n_layers, h.dropout, h.fourier_modes_x, h.per_capita)
        at_half = np.arange(points) + 0.5
        constants = {
            "half_points": interpolation_matrix(points + 1, at_half, 3),
            "slope_points": differentiation_matrix(points + 1, self.step, np.arange(points + 1)),
            "slope_half": differentiation_matrix(points + 1, self.step, at_half),
        }
        for name, matrix in constants.items():
            self.register_buffer(name, torch.tensor(matrix, dtype=torch.get_default_dtype()), persistent=False)
        # Lag of sequence entry t seen from step j is M + j - t; out of reach points to the appended zero weight.
        j, t = np.arange(points + 1)[:, None], np.arange(2 * points + 1)[None, :]
        lag = points + j - t
        self.register_buffer("lag_whole", torch.tensor(np.where((lag >= 1) & (lag <= points), lag, points + 1)), False)
        lag = lag[:-1] + 1
        self.register_buffer("lag_half", torch.tensor(np.where((lag >= 1) & (lag <= points), lag, points + 2)), False)

    def read_row(self, row: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The delayed row (M+1, X, B, c) at whole and half steps, and its slopes there for neutral families."""
        half = torch.tensordot(self.half_points, row, 1)
        if not self.neutral:
            return row, half, None, None
        unit = tau[:, None] * self.rate_scale
        return (
            row,
            half,
            torch.tensordot(self.slope_points, row, 1) / unit,
            torch.tensordot(self.slope_half, row, 1) / unit,
        )

    def past(self, parameters: Tensor, memory: Tensor, delayed: Tensor, slope: Tensor | None, lag_zero: Tensor) -> Past:
        """From the part of z without x(s), (…, X, B, c J), x(s-1), x'(s-1)/τ, and the weight of x(s) in z, (J,)."""
        weight, own = self.lift.field.weight, self.inputs
        by_memory = weight[:, own : own + memory.shape[-1]].unflatten(1, (self.spec.components, -1))
        seen = [memory] + ([self.seen(delayed)] if self.point_delay else []) + ([slope] if self.neutral else [])
        hidden = functional.linear(torch.cat(seen, -1), weight[:, own:], self.lift.field.bias)
        if self.lift.given is not None:
            hidden = hidden + self.lift.given(parameters)
        through_kernels = functional.pad(by_memory @ lag_zero, (0, own - self.spec.components))
        return Past(hidden, weight[:, :own] + through_kernels)

    def rate_function(self, parameters: Tensor, tau: Tensor) -> Rate:
        """(y, past) -> dy/ds = τ · rate_scale · F at any leading shape (…, X, B, c)."""
        right_hand_side = self.right_hand_side.given(self, parameters, tau)

        def rate(y: Tensor, past: Past) -> Tensor:
            y = self.bounded(y)
            return right_hand_side(y, past.hidden + functional.linear(self.seen(y), past.own))

        return rate

    def runge_kutta(self, rate: Rate, y: Tensor, start: Past, middle: Past, end: Past) -> Tensor:
        """One step of the classical fourth-order rule (Kutta 1901)."""
        h = self.step
        k1 = rate(y, start)
        k2 = rate(y + h / 2 * k1, middle)
        k3 = rate(y + h / 2 * k2, middle)
        k4 = rate(y + h * k3, end)
        return y + h / 6 * (k1 + 2 * (k2 + k3) + k4)

    @staticmethod
    def _memory(weights: Tensor, sequence: Tensor) -> Tensor:
        """(…, J, T) weights on a sequence (T, X, B, c) -> (…, X, B, c·J)."""
        read = torch.tensordot(weights, sequence, 1)  # (…, J, X, B, c)
        return read.movedim(-4, -1).flatten(-2)

    def training_loss(
        self, rows: Tensor, present: Tensor, tau: Tensor, params: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        """Error of one Runge–Kutta step from every true point, balanced."""
        past, target = self.to_field(rows[:, 0]), self.to_field(rows[:, 1])
        scale = self.scale_of(past)
        row, truth = self.encode(past, scale), self.encode(target, scale)
        whole, half = self.kernels()
        sequence = torch.cat([row, truth[1:]])
        zero = whole.new_zeros(len(whole), 1)
        at_whole = torch.cat([whole, zero], 1)[:, self.lag_whole].movedim(0, 1)  # (M+1, J, 2M+1)
        at_half = torch.cat([half, zero], 1)[:, self.lag_half].movedim(0, 1)
        delayed, delayed_half, slope, slope_half = self.read_row(row, tau)
        memory = self._memory(at_whole, sequence)
        last_lag = (delayed_half[..., None] * half[:, -1]).flatten(-2)
        memory_half = self._memory(at_half, sequence) + last_lag
        parameters = self.standardised(params)
        at_points = self.past(parameters, memory, delayed, slope, whole[:, 0])
        middle = self.past(parameters, memory_half, delayed_half, slope_half, half[:, 0])
        start, end = at_points.at(slice(None, -1)), at_points.at(slice(1, None))
        stepped = self.runge_kutta(self.rate_function(parameters, tau), truth[:-1], start, middle, end)
        return self.balanced(stepped - truth[:-1], truth.diff(dim=0), tau).square().mean()

    def next_row(self, window: Tensor, present: Tensor, tau: Tensor, params: Tensor) -> Tensor:
        field = self.to_field(window[:, -1])
        scale = self.scale_of(field)
        parameters = self.standardised(params)
        following = self._solve_interval(self.encode(field, scale), tau, parameters)
        return self.from_field(self.decode(following, scale))

    def _solve_interval(self, row: Tensor, tau: Tensor, parameters: Tensor) -> Tensor:
        """The next row (M+1, X, B, c), step by step."""
        points, rate, (whole, half) = self.spec.points_per_delay, self.rate_function(parameters, tau), self.kernels()
        delayed, delayed_half, slope, slope_half = self.read_row(row, tau)
        cut = lambda field, j: None if field is None else field[j]  # noqa: E731
        sequence = list(row.unbind())
        # Ascending time, so that a window of the sequence meets its weights without a copy in reverse.
        whole_weights, half_weights = whole[:, 1:].flip(1), half[:, 1:-1].flip(1)
        memory = self._memory(whole_weights, torch.stack(sequence[:points]))
        end = self.past(parameters, memory, delayed[0], cut(slope, 0), whole[:, 0])
        for j in range(points):
            start, window = end, torch.stack(sequence[j + 1 : points + j + 1])
            last_lag = (delayed_half[j][..., None] * half[:, -1]).flatten(-2)
            memory = self._memory(half_weights, window) + last_lag
            middle = self.past(parameters, memory, delayed_half[j], cut(slope_half, j), half[:, 0])
            memory = self._memory(whole_weights, window)
            end = self.past(parameters, memory, delayed[j + 1], cut(slope, j + 1), whole[:, 0])
            sequence.append(self.runge_kutta(rate, sequence[-1], start, middle, end))
        return torch.stack(sequence[points:])
