"""Method of steps: (history segment, delay, parameters) -> the next segment, rolled out one delay after the other.

With x_n(s) = x((n+s)τ), the next segment solves x' = τ F(x(s), c(s); p), x(0) = x_n(1), where c are features that
Fourier layers draw from x_n. It is found by Picard iteration with the same F in every sweep (Bellman & Cooke 1963;
Picard–Lindelöf), by quadrature on the stored grid, so the solution is continuous by construction.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dno.fourier_layer import FourierLayer, FourierLayers
from dno.layers import Lift
from dno.operator import Operator, OperatorSpec
from dno.picard import PicardHead


@dataclass(frozen=True)
class MethodOfStepsHyperparameters:
    """Defaults that depend on a family follow its traits; `default_hyperparameters` resolves them."""

    width: int = 64
    n_layers: int = 2
    fourier_modes_t: int = 12
    fourier_modes_x: int = 6
    dropout: float = 0.0
    sweeps: int = 12
    sub_windows: int = 4
    log_state: bool = False
    per_capita: bool = False
    homogeneous: bool = False


class MethodOfSteps(Operator):
    """Method-of-steps operator with a Picard map per delay interval."""

    Hyperparameters = MethodOfStepsHyperparameters

    @classmethod
    def trait_defaults(cls, spec: OperatorSpec) -> dict[str, object]:
        """A space axis makes layers X times as dear: small ones. Diffusion of high frequencies needs short windows."""
        return {"width": 32, "fourier_modes_t": 8, "sub_windows": 8} if spec.n_space > 1 else {}

    def __init__(self, spec: OperatorSpec, hyperparameters: MethodOfStepsHyperparameters) -> None:
        h = hyperparameters
        super().__init__(spec, h.log_state, h.homogeneous)
        points, parameters = spec.points_per_delay + 1, len(spec.parameter_names)
        self.lift = Lift(self.inputs, parameters, h.width)
        self.layers = FourierLayers(
            FourierLayer(points, spec.n_space, h.fourier_modes_t, h.fourier_modes_x, h.width, h.dropout)
            for _ in range(h.n_layers)
        )
        self.picard = PicardHead(self, h.width, h.sub_windows, h.sweeps, h.per_capita)

    def features(self, state: Tensor, parameters: Tensor) -> Tensor:
        """c(s) from the normalised past segment: (S, X, B, c), (B, P) -> (S, X, B, W)."""
        return self.layers(self.lift(self.seen(state), parameters))

    def next_row(self, window: Tensor, present: Tensor, tau: Tensor, params: Tensor) -> Tensor:
        parameters = self.standardised(params)
        field = self.to_field(window[:, -1])
        scale = self.scale_of(field)
        state = self.encode(field, scale)
        following = self.picard.solve(self, state[-1], self.features(state, parameters), parameters, tau)
        return self.from_field(self.decode(following, scale))

    def training_loss(
        self, rows: Tensor, present: Tensor, tau: Tensor, params: Tensor, progress: float, generator: torch.Generator
    ) -> Tensor:
        """Residual loss: F at the true next segment, integrated once, against that segment. One evaluation of F."""
        past, target = self.to_field(rows[:, 0]), self.to_field(rows[:, 1])
        scale = self.scale_of(past)
        parameters = self.standardised(params)
        features = self.features(self.encode(past, scale), parameters)
        return self.picard.residual(self, self.encode(target, scale), features, parameters, tau).square().mean()
