"""Building blocks that the three operators share. Layout of a field: (S, X, B, C), as in `spectral`."""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional


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


def gated(x: Tensor, weight: Tensor, bias: Tensor, is_residual: bool) -> Tensor:
    """(A x + a) · gelu(B x + b) of points (N, W), plus x if `is_residual`; weight (2W, W) stacks A and B."""
    if torch.is_grad_enabled():
        return _Gate.apply(x, weight, bias, is_residual)
    return _gated(x, weight, bias, is_residual)[0]  # `apply` takes as long as a product of few points


def _gated(x: Tensor, weight: Tensor, bias: Tensor, is_residual: bool) -> tuple[Tensor, ...]:
    (a, b), (bias_a, bias_b) = weight.chunk(2), bias.chunk(2)
    value, gate = torch.addmm(bias_a, x, a.T), torch.addmm(bias_b, x, b.T)
    passed = functional.gelu(gate)
    return torch.addcmul(x, value, passed) if is_residual else value * passed, value, gate, passed


class _Gate(torch.autograd.Function):
    """`gated` with its gradient by hand, because both halves of one product are strided views: every elementwise pass
    over them is twice as slow, and their gradients are concatenated by a copy.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, is_residual: bool) -> Tensor:
        out, *parts = _gated(x, weight, bias, is_residual)
        ctx.save_for_backward(x, weight, *parts)
        ctx.is_residual = is_residual
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, value, gate, passed = ctx.saved_tensors
        a, b = weight.chunk(2)
        by_value, by_gate = gradient * passed, gradient * value
        torch.ops.aten.gelu_backward.grad_input(by_gate, gate, grad_input=by_gate)
        by_x = torch.addmm(gradient, by_value, a) if ctx.is_residual else by_value @ a
        by_x.addmm_(by_gate, b)
        by_weight, by_bias = torch.empty_like(weight), weight.new_empty(len(weight))
        for part, half in zip((by_value, by_gate), (slice(len(a)), slice(len(a), None)), strict=True):
            torch.mm(part.T, x, out=by_weight[half])
            torch.sum(part, 0, out=by_bias[half])
        return by_x, by_weight, by_bias, None


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
        is_residual = not (self.training and self.dropout.p)
        points = functional.gelu(x).flatten(0, -2)
        for layer in self.hidden:
            passed = gated(points, layer.weight, layer.bias, is_residual)
            points = passed if is_residual else points + self.dropout(passed)
        return points.view(x.shape)
