"""The learned right-hand side F that the Picard map integrates and that the memory kernel steps."""

from collections.abc import Callable

from torch import Tensor, nn

from dno.layers import ParameterHead, PointwiseNetwork
from dno.operator import Operator
from dno.spectral import SpaceFilter


class RightHandSide(nn.Module):
    """From the first hidden layer of a point to dy/ds = τ · rate_scale · F there.

    In space, filters of the state enter the network and, linearly, the rate: diffusion needs no network. Per capita, F
    is the rate of growth of a positive state.
    """

    def __init__(
        self, operator: Operator, width: int, n_layers: int, dropout: float, modes_x: int, per_capita: bool
    ) -> None:
        super().__init__()
        spec, self.per_capita = operator.spec, per_capita
        parameters, components, is_spatial = len(spec.parameter_names), spec.components, spec.n_space > 1
        self.network = PointwiseNetwork(width, n_layers, dropout)
        self.head = ParameterHead(width, parameters, components)
        self.filter = SpaceFilter(spec.n_space, modes_x, width) if is_spatial else None
        self.linear_head = ParameterHead(width, parameters, components) if is_spatial else None

    def given(self, operator: Operator, parameters: Tensor, tau: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """(y, hidden) -> dy/ds for these parameters (B, P) and delays (B,).

        y is the bounded state (…, X, B, c), hidden (…, X, B, W) the first layer before its nonlinearity.
        """
        weights = self.head.weights(parameters)
        linear_weights = self.linear_head.weights(parameters) if self.linear_head else None
        factor = tau[:, None] * operator.rate_scale

        def rate(y: Tensor, hidden: Tensor) -> Tensor:
            filtered = None
            if self.filter is not None:
                filtered = self.filter(y if y.dim() == 4 else y[None])
                filtered = filtered if y.dim() == 4 else filtered[0]
                hidden = hidden + filtered
            out = self.head(self.network(hidden), weights)
            if self.per_capita:
                out = out * (y + operator.mean / operator.deviation)
            if filtered is not None:
                out = out + self.linear_head(filtered, linear_weights)
            return factor * out

        return rate
