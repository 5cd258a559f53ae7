"""What all delay neural operators share: the signature, the state they work in, and the product door `predict`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dno.cuda_graph import recorded
from dno.quadrature import interpolation_matrix

TINY = 1e-30  # smallest value whose logarithm is taken


@dataclass(frozen=True)
class OperatorSpec:
    """All that an operator may know of a family: shapes, parameter names and declared traits, never its name."""

    channels: int
    points_per_delay: int
    parameter_names: tuple[str, ...]
    traits: frozenset[str] = frozenset()

    @property
    def n_space(self) -> int:
        """Points in space X: the channels of a spatial family, 1 otherwise."""
        return self.channels if "spatial" in self.traits else 1

    @property
    def components(self) -> int:
        """Channels at one point in space."""
        return self.channels // self.n_space


class Operator(nn.Module):
    """Base class. Rows are delay intervals: row n holds the M + 1 points of [nτ, (n+1)τ], both ends included.

    Inside, a row is a field (S, X, B, c) in normalised state: standardised x, or log x (`log_state`), or x divided by
    the RMS of the row that came before (`homogeneous`). Time is scaled by the delay, and the rate of change by
    `rate_scale`, so that a network's output is of order one: dy/ds = τ · rate_scale · F.
    """

    Hyperparameters: type  # a frozen dataclass: names and defaults
    past_rows = 1  # rows before the first target that training needs
    target_rows = 1  # consecutive rows that one training crop predicts

    def __init__(self, spec: OperatorSpec, log_state: bool, homogeneous: bool) -> None:
        super().__init__()
        self.spec, self.log_state, self.homogeneous = spec, log_state, homogeneous
        parameters, components = len(spec.parameter_names), spec.components
        for name, size in (("mean", components), ("low", components), ("parameter_mean", parameters)):
            self.register_buffer(name, torch.zeros(size))
        for name, size in (
            ("deviation", components),
            ("high", components),
            ("rate_scale", components),
            ("parameter_deviation", parameters),
        ):
            self.register_buffer(name, torch.ones(size))
        if log_state:
            for name in ("value_mean", "value_deviation", "value_high"):
                self.register_buffer(name, torch.ones(components))
        self.register_buffer("tau_mean", torch.zeros(()))
        self.register_buffer("tau_deviation", torch.ones(()))

    @property
    def inputs(self) -> int:
        """Numbers that a network sees of the state at one point, see `seen`."""
        return self.spec.components * (2 if self.log_state else 1)

    @classmethod
    def trait_defaults(cls, spec: OperatorSpec) -> dict[str, object]:
        """Defaults of this operator that differ for families of these traits."""
        return {}

    @torch.no_grad()
    def fit_normalisation(self, history: Tensor, solution: Tensor, mask: Tensor, tau: Tensor, params: Tensor) -> None:
        """Set the buffers from the training split: history (N, M+1, C), solution (N, T, C) with mask (N, T)."""
        path = torch.cat([history, solution], 1).double()
        valid = torch.cat([torch.ones_like(history[..., 0], dtype=torch.bool), mask], 1)
        both = (valid[:, 1:] & valid[:, :-1]).flatten().nonzero().flatten()  # an index: a mask is searched every time
        valid = valid.flatten().nonzero().flatten()
        if self.homogeneous:
            scale = history.double().square().mean((1, 2)).sqrt().clamp_min(TINY)
            state = path / scale[:, None, None]
        else:
            state = path.clamp_min(TINY).log() if self.log_state else path
        components = self.spec.components
        entries = state.flatten(0, 1)[valid].reshape(-1, components)
        if not self.homogeneous:
            self.mean.copy_(entries.mean(0))
            deviation = entries.std(0)
            self.deviation.copy_(torch.where(deviation > 1e-12, deviation, torch.ones_like(deviation)))
        low, high = entries.amin(0), entries.amax(0)
        self.low.copy_((low - (high - low) - self.mean) / self.deviation)
        self.high.copy_((high + (high - low) - self.mean) / self.deviation)
        if self.log_state:
            values = path.flatten(0, 1)[valid].reshape(-1, components)
            self.value_mean.copy_(values.mean(0))
            self.value_deviation.copy_(values.std(0).clamp_min(TINY))
            self.value_high.copy_(2 * values.amax(0))
        rate = state.diff(dim=1) * self.spec.points_per_delay / tau.double()[:, None, None]
        rate = rate.flatten(0, 1)[both].reshape(-1, components).square().mean(0).sqrt() / self.deviation
        self.rate_scale.copy_(torch.where(rate > 1e-12, rate, torch.ones_like(rate)))
        for name, values in (("parameter", params.double()), ("tau", tau.double())):
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            deviation = (values - values.mean(0)).square().mean(0).sqrt()
            # A parameter that is the same in all rows up to rounding is a constant: its deviation is 1.
            constant = deviation <= 1e-6 * values.abs().amax(0)
            getattr(self, f"{name}_deviation").copy_(torch.where(constant, torch.ones_like(deviation), deviation))

    def to_field(self, rows: Tensor) -> Tensor:
        """(B, S, C) -> (S, X, B, c)."""
        batch, points, _ = rows.shape
        return rows.view(batch, points, self.spec.n_space, self.spec.components).permute(1, 2, 0, 3)

    def from_field(self, field: Tensor) -> Tensor:
        """(S, X, B, c) -> (B, S, C)."""
        points, _, batch, _ = field.shape
        return field.permute(2, 0, 1, 3).reshape(batch, points, self.spec.channels)

    def scale_of(self, field: Tensor) -> Tensor | None:
        """(B, 1), the RMS of a raw row for homogeneous equations; None otherwise."""
        if not self.homogeneous:
            return None
        return field.square().mean((0, 1, 3)).sqrt().clamp_min(TINY)[:, None]

    def encode(self, field: Tensor, scale: Tensor | None) -> Tensor:
        """Raw field -> normalised state."""
        if scale is not None:
            return field / scale
        state = field.clamp_min(TINY).log() if self.log_state else field
        return (state - self.mean) / self.deviation

    def seen(self, state: Tensor) -> Tensor:
        """What a network gets of a state (..., c): the state itself, and beside a logarithm the value, (..., inputs).

        Right-hand sides are functions of values; from the logarithm alone, an exponential has to be learned as well.
        """
        if not self.log_state:
            return state
        value = (state * self.deviation + self.mean).exp().minimum(self.value_high)
        return torch.cat([state, (value - self.value_mean) / self.value_deviation], -1)

    def bounded(self, state: Tensor) -> Tensor:
        """Clamped to the range of training, widened threefold, so that sweeps and rollouts stay finite."""
        return state if self.training else torch.clamp(state, self.low, self.high)

    def decode(self, state: Tensor, scale: Tensor | None) -> Tensor:
        """Normalised state -> raw field."""
        state = self.bounded(state)
        if scale is not None:
            return state * scale
        state = state * self.deviation + self.mean
        return state.exp() if self.log_state else state

    def balanced(self, predicted: Tensor, increments: Tensor, tau: Tensor) -> Tensor:
        """Errors of the increments of a row (M, X, B, c) in units of their typical size, or of its own where larger.

        A solution that spikes would else outweigh all others: logistic with r τ up to 3.9, 60 s, 90 % of errors below
        4.8e-2 -> 3.0e-2, larger delays 1.3e-1 -> 5.9e-2; memory kernel on the logistic 5.7e-3 -> 2.6e-3.
        """
        unit = tau[:, None] * self.rate_scale / self.spec.points_per_delay
        true = increments / unit
        return (predicted / unit - true) * (1 + true.square().mean((0, 1), keepdim=True)).rsqrt()

    def standardised(self, params: Tensor) -> Tensor:
        """(B, P)."""
        return (params - self.parameter_mean) / self.parameter_deviation

    def forward(
        self, history: Tensor, tau: Tensor, params: Tensor, n_steps: int, lengths: Tensor | None = None
    ) -> Tensor:
        """The trajectory at t = jτ/M, j = 1 … n_steps: (B, M+1, C), (B,), (B, P) -> (B, n_steps, C).

        A history of several delays, (B, R M + 1, C), is looked at as far as `past_rows` reach. `lengths` (B,), falling,
        are the steps that are wanted of each; what follows them is not to be read.
        """
        points = self.spec.points_per_delay
        given = history.unfold(1, points + 1, points).movedim(-1, 2)[:, -self.past_rows :]  # (B, R, M+1, C)
        absent = self.past_rows - given.shape[1]
        window = torch.cat([given.new_zeros(len(given), absent, *given.shape[2:]), given], 1)
        present = torch.ones(window.shape[:2], dtype=torch.bool, device=window.device)
        present[:, :absent] = False
        n_intervals = -(-n_steps // points)
        follow = recorded(self.next_row, window, n_intervals)
        kind = torch.result_type(window, self.mean)
        path = window.new_zeros(len(window), n_intervals * points, window.shape[-1], dtype=kind)
        for n, count in enumerate(_unfinished(lengths, n_intervals, points, window)):
            window, present, tau, params = window[:count], present[:count], tau[:count], params[:count]
            row = follow(window, present, tau, params)
            path[:count, n * points : (n + 1) * points] = row[:, 1:]
            window = torch.cat([window[:, 1:], row[:, None]], 1)
            present = torch.cat([present[:, 1:], torch.ones_like(present[:, :1])], 1)
        return path[:, :n_steps]

    def next_row(self, window: Tensor, present: Tensor, tau: Tensor, params: Tensor) -> Tensor:
        """The row after the last `past_rows`: (B, past, M+1, C), which of them there are (B, past) -> (B, M+1, C)."""
        raise NotImplementedError

    def training_loss(
        self, rows: Tensor, present: Tensor, tau: Tensor, params: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        """Scalar, the mean over valid target points: rows (B, past+target, M+1, C), present (B, past+target)."""
        raise NotImplementedError

    def typical(self) -> tuple[float, dict[str, float]]:
        """The mean delay and parameters of the training trajectories."""
        means = self.parameter_mean.flatten().tolist()
        return float(self.tau_mean), dict(zip(self.spec.parameter_names, means, strict=True))

    @torch.inference_mode()
    def predict(
        self,
        history: np.ndarray | Callable[[np.ndarray], np.ndarray],
        tau: float | np.ndarray,
        params: Mapping[str, float | np.ndarray],
        times: np.ndarray,
    ) -> np.ndarray:
        """The solution at any times t >= 0 (units of the equation): (len(times), C), or (B, len(times), C) for a batch.

        history: an array (H,), (H, C) or (B, H, C) of values at H equidistant times from -τ to 0, or a callable of an
        array of times in [-τ, 0]. A batch has one τ and one value of every parameter per row, or shares them.
        """
        batched, samples, delays = self._sampled_history(history, tau)
        times = np.atleast_1d(np.asarray(times, dtype=np.float64))
        if times.ndim != 1 or not len(times) or not np.all(np.isfinite(times) & (times >= 0)):
            raise ValueError(f"times must be a list of finite numbers from 0, got {str(times)[:60]}")
        values = self._parameter_table(params, len(delays))
        device, points = self.mean.device, self.spec.points_per_delay
        intervals = max(1, int(np.ceil(times.max() / delays.min() - 1e-9)))
        as_tensor = lambda array: torch.as_tensor(array, dtype=self.mean.dtype, device=device)  # noqa: E731
        self.eval()
        start = as_tensor(samples)
        path = self(start, as_tensor(delays), as_tensor(values), intervals * points)
        path = torch.cat([start[:, -1:], path], 1).double().cpu().numpy()
        results = np.stack([self._read(row, times / delay) for row, delay in zip(path, delays, strict=True)])
        return results if batched else results[0]

    def _read(self, path: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Values of one path (K M + 1, C) at scaled times, interpolated inside each delay interval."""
        points = self.spec.points_per_delay
        interval = np.clip(np.ceil(s - 1e-12).astype(int) - 1, 0, (len(path) - 1) // points - 1)
        values = np.empty((len(s), path.shape[1]))
        for n in np.unique(interval):
            here = interval == n
            row = path[n * points : (n + 1) * points + 1]
            values[here] = interpolation_matrix(points + 1, (s[here] - n) * points) @ row
        return values

    def _sampled_history(
        self, history: np.ndarray | Callable[[np.ndarray], np.ndarray], tau: float | np.ndarray
    ) -> tuple[bool, np.ndarray, np.ndarray]:
        """Whether it is a batch, the history on the stored grid (B, M+1, C), and the delays (B,)."""
        delays = np.atleast_1d(np.asarray(tau, dtype=np.float64))
        if not np.all(np.isfinite(delays) & (delays > 0)):
            raise ValueError(f"tau must be positive, got {tau}")
        grid = np.linspace(-1.0, 0.0, self.spec.points_per_delay + 1)
        if callable(history):
            values = np.stack([np.asarray(history(grid * d), dtype=np.float64).reshape(len(grid), -1) for d in delays])
            batched = np.ndim(tau) > 0
        else:
            values = np.asarray(history, dtype=np.float64)
            batched = values.ndim == 3
            values = values if batched else values.reshape(1, len(values), -1)
        if values.shape[2] != self.spec.channels or not np.all(np.isfinite(values)):
            raise ValueError(f"history needs finite values of {self.spec.channels} channels, got {values.shape[1:]}")
        if values.shape[1] != len(grid):
            if values.shape[1] < 2:
                raise ValueError(f"history needs at least 2 equidistant times from -tau to 0, got {values.shape[1]}")
            values = interpolation_matrix(values.shape[1], (grid + 1) * (values.shape[1] - 1)) @ values
        size = max(len(values), len(delays))
        if {len(values), len(delays)} - {1, size}:
            raise ValueError(f"{len(values)} histories do not go with {len(delays)} delays")
        return batched, np.repeat(values, size // len(values), 0), np.repeat(delays, size // len(delays))

    def _parameter_table(self, params: Mapping[str, float | np.ndarray], size: int) -> np.ndarray:
        """(B, P) in the order of the spec."""
        names = self.spec.parameter_names
        if not isinstance(params, Mapping):
            raise ValueError(f"params must be a dict of {', '.join(names) or 'nothing'}, got {type(params).__name__}")
        if set(params) != set(names):
            raise ValueError(f"params must name {', '.join(names) or 'nothing'}, got {', '.join(params) or 'nothing'}")
        columns = [np.broadcast_to(np.asarray(params[name], dtype=np.float64), (size,)) for name in names]
        table = np.stack(columns, 1) if columns else np.zeros((size, 0))
        if not np.all(np.isfinite(table)):
            raise ValueError("params must be finite")
        return table


def _unfinished(lengths: Tensor | None, n_intervals: int, points: int, window: Tensor) -> list[int]:
    """How many of the trajectories are wanted beyond the start of each interval. A recorded graph takes them all."""
    if lengths is None or window.is_cuda:
        return [len(window)] * n_intervals
    starts = points * torch.arange(n_intervals, device=lengths.device)
    return [count for count in (lengths[:, None] > starts).sum(0).tolist() if count]
