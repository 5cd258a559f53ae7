"""Picard maps: the next delay interval as the fixed point of an integral equation with a learned right-hand side.

x(s) = x(0) + τ ∫₀ˢ F(x(σ), c(σ); p) dσ, where c are features of the past; for neutral equations + H(c(s)) - H(c(0)),
with H learned: the delayed derivative carries no τ. Picard–Lindelöf: sweeps with the same F converge from any guess.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from dno.layers import ParameterHead
from dno.operator import Operator
from dno.quadrature import extrapolation_matrix, integration_matrix
from dno.right_hand_side import RightHandSide
from dno.spectral import available_modes_x

WIDEST_HEAD = 64  # the head runs once per sweep: its width is what a rollout costs
HEAD_LAYERS = 2
# A trajectory has settled where a sweep changes its normalised state by no more roundings than these: convergence is
# superlinear, so that less than a fifth of it is left. Of 12 sweeps mackey needs 5.9 in the mean and 9.5 until the last
# of 1000 trajectories has settled, the logistic 2.4 and 3.6, neutral 3.4 and 5.0.
SETTLED = 25.0
MOVING = 0.7  # as soon as fewer of those that are swept still move, the others are left out
Rates = Callable[[slice, Tensor | None], Callable[[Tensor], Tensor]]


class PicardWindows(nn.Module):
    """Solves dy/ds = f(y) on the points of one delay interval by Picard sweeps on consecutive sub-windows.

    At most `sweeps`; fewer for trajectories that have settled, except on a GPU, which would have to be waited for.
    """

    def __init__(self, n_points: int, sub_windows: int, sweeps: int) -> None:
        super().__init__()
        self.sweeps = sweeps
        edges = np.round(np.linspace(0, n_points - 1, sub_windows + 1)).astype(int)
        self.windows = [slice(int(a), int(b) + 1) for a, b in pairwise(edges)]
        for i, window in enumerate(self.windows):
            matrix = integration_matrix(window.stop - window.start, 1 / (n_points - 1))
            self._constant(f"integral_{i}", matrix)
        for i, (before, window) in enumerate(pairwise(self.windows), start=1):
            self._constant(f"guess_{i}", extrapolation_matrix(before.stop - before.start, window.stop - window.start))

    def _constant(self, name: str, matrix: np.ndarray) -> None:
        self.register_buffer(name, torch.tensor(matrix, dtype=torch.get_default_dtype()), False)

    def forward(self, start: Tensor, rates: Rates, jump: Tensor | None = None) -> Tensor:
        """start (X, B, c) -> (S, X, B, c). `rates(points, among)` gives y -> dy/ds at those points, for all
        trajectories or those of an index; `jump` is added after the integral.
        """
        pieces = []
        guess = start.new_zeros(self.windows[0].stop, *start.shape)  # of the integral: as it went on before
        base = start
        for i, window in enumerate(self.windows):
            offset = base if jump is None else base + jump[window] - jump[window.start]
            state = self._swept(offset, guess, getattr(self, f"integral_{i}"), lambda among, w=window: rates(w, among))
            base = state[-1]
            if i + 1 < len(self.windows):
                guess = torch.tensordot(getattr(self, f"guess_{i + 1}"), state - offset, 1)
            pieces.append(state if i == 0 else state[1:])
        return torch.cat(pieces)

    def _swept(
        self,
        offset: Tensor,
        guess: Tensor,
        integral: Tensor,
        rate_among: Callable[[Tensor | None], Callable[[Tensor], Tensor]],
    ) -> Tensor:
        """The fixed point of y = offset + ∫ rate(y) on one sub-window, from a guess of the integral."""
        state, rate, among = offset + guess, rate_among(None), None
        found, settled = state, SETTLED * torch.finfo(state.dtype).eps
        for _ in range(self.sweeps):
            before, state = state, offset + torch.tensordot(integral, rate(state), 1)
            if state.device.type != "cpu":
                continue
            moving = ((state - before).abs().amax((0, 1, 3)) > settled).nonzero().flatten()
            if len(moving) == 0:
                break
            if len(moving) < MOVING * state.shape[2]:
                found = state if among is None else found.index_copy(2, among, state)
                among = moving if among is None else among[moving]
                offset, state, rate = offset.index_select(-2, moving), state.index_select(2, moving), rate_among(among)
        return state if among is None else found.index_copy(2, among, state)


class PicardHead(nn.Module):
    """The right-hand side F and the jump H on features (S, X, B, width) of the past, and the next row they imply."""

    def __init__(self, operator: Operator, width: int, sub_windows: int, sweeps: int, per_capita: bool) -> None:
        super().__init__()
        spec = operator.spec
        points, parameters, components = spec.points_per_delay + 1, len(spec.parameter_names), spec.components
        head_width = min(width, WIDEST_HEAD)
        self.context = nn.Linear(width, head_width)
        self.state = nn.Linear(operator.inputs, head_width, bias=False)
        every_mode = available_modes_x(spec.n_space)
        self.right_hand_side = RightHandSide(operator, head_width, HEAD_LAYERS, 0.0, every_mode, per_capita)
        self.jump_head = ParameterHead(width, parameters, components) if "neutral" in spec.traits else None
        self.windows = PicardWindows(points, sub_windows, sweeps)
        cells = np.diff(integration_matrix(points, 1 / spec.points_per_delay), axis=0)  # (M, M+1)
        self.register_buffer("increments", torch.tensor(cells, dtype=torch.get_default_dtype()), persistent=False)

    def rates(self, operator: Operator, features: Tensor, parameters: Tensor, tau: Tensor) -> Rates:
        """(points, among) -> (y -> dy/ds = τ · rate_scale · F(y, c; p)) there; `among` is an index of trajectories."""
        context = self.context(features)
        of_all = self.right_hand_side.given(operator, parameters, tau)

        def rate_at(points: slice, among: Tensor | None) -> Callable[[Tensor], Tensor]:
            here, right_hand_side = context[points], of_all
            if among is not None:
                here = here.index_select(2, among)
                right_hand_side = self.right_hand_side.given(operator, parameters[among], tau[among])

            def rate(y: Tensor) -> Tensor:
                y = operator.bounded(y)
                return right_hand_side(y, self.state(operator.seen(y)) + here)

            return rate

        return rate_at

    def jump(self, features: Tensor, parameters: Tensor) -> Tensor | None:
        """H(c(s)), the part that a delayed derivative contributes: it carries no τ. (S, X, B, c)."""
        if self.jump_head is None:
            return None
        return self.jump_head(features, self.jump_head.weights(parameters))

    def solve(self, operator: Operator, start: Tensor, features: Tensor, parameters: Tensor, tau: Tensor) -> Tensor:
        """The next row (S, X, B, c) from its first value (X, B, c)."""
        rates = self.rates(operator, features, parameters, tau)
        return self.windows(start, rates, self.jump(features, parameters))

    def residual(self, operator: Operator, truth: Tensor, features: Tensor, parameters: Tensor, tau: Tensor) -> Tensor:
        """What one sweep from the true row (S, X, B, c) misses of its increments, balanced: (S-1, X, B, c).

        From one evaluation of F and no iteration. Increments rather than values: an error of the rate counts the same
        wherever in the interval it is made.
        """
        rate = self.rates(operator, features, parameters, tau)(slice(None), None)(truth)
        predicted = torch.tensordot(self.increments, rate, 1)
        jump = self.jump(features, parameters)
        if jump is not None:
            predicted = predicted + jump.diff(dim=0)
        return operator.balanced(predicted, truth.diff(dim=0), tau)
