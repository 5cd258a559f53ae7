"""Building blocks that the three operators share. Layout of a field: (S, X, B, C), as in `spectral`."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dno.spectral import SpectralConvolution


class FourierLayer(nn.Module):
    """x + dropout(gelu(K x + W x)): spectral convolution K beside a pointwise map W, with a skip connection."""

    def __init__(
        self,
        n_points: int,
        n_space: int,
        modes_t: int,
        modes_x: int,
        width: int,
        dropout: float,
        pointwise: bool = True,
    ) -> None:
        super().__init__()
        self.spectral = SpectralConvolution(n_points, n_space, modes_t, modes_x, width)
        self.pointwise = nn.Linear(width, width) if pointwise else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, beside: Tensor | None = None) -> Tensor:
        """`beside` replaces W x where the caller mixes more than one row into it."""
        mixed = self.pointwise(x) if beside is None else beside
        return x + self.dropout(functional.gelu(self.spectral(x) + mixed))


class Lift(nn.Module):
    """Linear map of a field beside values that are the same at all its points: (..., B, C), (B, G) -> (..., B, W).

    Two products instead of one on the concatenation, which would copy the given values to every point.
    """

    def __init__(self, channels: int, given: int, width: int) -> None:
        super().__init__()
        self.field = nn.Linear(channels, width)
        self.given = nn.Linear(given, width, bias=False) if given else None

    def forward(self, field: Tensor, given: Tensor) -> Tensor:
        lifted = self.field(field)
        return lifted if self.given is None else lifted + self.given(given)


class ParameterHead(nn.Module):
    """Σ_j a_j(p) h_j: a linear read-out of learned features whose weights depend on the equation's parameters.

    features (..., B, W), parameters (B, P) standardised -> (..., B, C). The weights are an affine function of p plus
    a small network of it; without parameters they are constant.
    """

    def __init__(self, width: int, n_parameters: int, channels: int, hidden: int = 32) -> None:
        super().__init__()
        self.channels = channels
        self.base = nn.Parameter(torch.randn(width * channels) / width**0.5)
        self.affine = nn.Linear(n_parameters, width * channels, bias=False) if n_parameters else None
        if n_parameters:
            self.network = nn.Sequential(
                nn.Linear(n_parameters, hidden), nn.GELU(), nn.Linear(hidden, width * channels, bias=False)
            )
            with torch.no_grad():
                self.affine.weight.mul_(0.3 / width**0.5)
                self.network[-1].weight.mul_(0.3 / width**0.5)

    def weights(self, parameters: Tensor) -> Tensor:
        """(B, W, C), or (1, W, C) when there are no parameters."""
        if self.affine is None:
            return self.base.view(1, -1, self.channels)
        flat = self.base + self.affine(parameters) + self.network(parameters)
        return flat.view(parameters.shape[0], -1, self.channels)

    def forward(self, features: Tensor, weights: Tensor) -> Tensor:
        if self.channels == 1:
            return (features * weights[..., 0]).sum(-1, keepdim=True)
        return torch.einsum("...bw,bwc->...bc", features, weights.expand(features.shape[-2], -1, -1))


class PointwiseNetwork(nn.Module):
    """What follows the first linear map of a residual network at every point: (..., W) -> (..., W).

    Each hidden layer is a gate, x + (A x) · gelu(B x): products of learned features come cheaply, and right-hand
    sides are full of them (Shazeer 2020, "GLU variants improve transformer").
    """

    def __init__(self, width: int, n_layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(n_layers - 1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(x)
        for layer in self.hidden:
            value, gate = layer(x).chunk(2, -1)
            x = x + self.dropout(value * functional.gelu(gate))
        return x
