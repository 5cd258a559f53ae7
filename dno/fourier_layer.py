"""The layer x + gelu(K x + Σ_k W_k x[n-k] + b) with its gradient written by hand.

K is a spectral convolution, W_0 a pointwise map, W_k maps of earlier rows (the stacked history's causal kernel). By
hand it takes no copies: matrix products accumulate in place, and slices of the spectrum need no zero-filled gradients.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from dno.spectral import SpectralConvolution, TruncatedTransform, mix_channels, mix_channels_adjoint


class _Layer(torch.autograd.Function):
    """gelu(K x + Σ_k W_k x[n-k] + b), plus x if `is_residual`.

    The field (S, X, R B, C) holds R rows of B samples. Read as one list of points (S X R B, C), a row earlier is B
    places earlier, so W_k acts on one contiguous piece; what leaks from one place's last rows into the next place's
    first ones is overwritten.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        transform: TruncatedTransform,
        rows: int,
        is_residual: bool,
        *taps: Tensor,
    ) -> Tensor:
        points = x.view(-1, x.shape[-1])
        batch = x.shape[2] // rows
        if len(taps) == 1:
            z = torch.addmm(bias, points, taps[0].T)
        else:
            z = bias.expand_as(points).contiguous()
            for k in range(len(taps) - 1, 0, -1):
                z[k * batch :].addmm_(points[: -k * batch], taps[k].T)
                z.view(-1, rows, batch, z.shape[1])[:, :k] = bias
            z.addmm_(points, taps[0].T)
        z = z.view(x.shape)
        spectrum = transform.analyse(x)
        transform.add_synthesis(z, mix_channels(spectrum, weight))
        ctx.save_for_backward(x, weight, spectrum, z, *taps)
        ctx.transform, ctx.rows, ctx.is_residual = transform, rows, is_residual
        out = functional.gelu(z)
        return out.add_(x) if is_residual else out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, spectrum, z, *taps = ctx.saved_tensors
        gradient = gradient.contiguous()
        by_z = torch.ops.aten.gelu_backward(gradient, z)
        by_spectrum, by_weight = mix_channels_adjoint(ctx.transform.synthesis_adjoint(by_z), spectrum, weight)
        points, by_points = x.view(-1, x.shape[-1]), by_z.view(-1, x.shape[-1])
        by_bias = by_points.sum(0)
        by_x = by_points @ taps[0]
        by_taps = [by_points.T @ points]
        batch = x.shape[2] // ctx.rows
        for k in range(1, len(taps)):
            by_points.view(-1, ctx.rows, batch, x.shape[-1])[:, :k] = 0
            by_taps.append(by_points[k * batch :].T @ points[: -k * batch])
            by_x[: -k * batch].addmm_(by_points[k * batch :], taps[k])
        by_x = by_x.view(x.shape)
        ctx.transform.add_analysis_adjoint(by_x, by_spectrum)
        if ctx.is_residual:
            by_x += gradient
        return by_x, by_weight, by_bias, None, None, None, *by_taps


class FourierLayer(nn.Module):
    """x + dropout(gelu(K x + Σ_k W_k x[n-k] + b)), k <= `reach`, of a field (S, X, R B, C) of R rows of B samples."""

    def __init__(
        self, n_points: int, n_space: int, modes_t: int, modes_x: int, width: int, dropout: float, reach: int = 0
    ) -> None:
        super().__init__()
        self.spectral = SpectralConvolution(n_points, n_space, modes_t, modes_x, width)
        self.taps = nn.ModuleList(nn.Linear(width, width, bias=k == 0) for k in range(1 + reach))
        with torch.no_grad():
            for tap in self.taps[1:]:
                tap.weight.mul_(0.5)
        self.reach, self.dropout = reach, nn.Dropout(dropout)

    def forward(self, x: Tensor, rows: int = 1) -> Tensor:
        taps = [tap.weight for tap in itertools.islice(self.taps, rows)]  # a slice would build a module
        is_residual = not (self.training and self.dropout.p)
        mixed = _Layer.apply(
            x.contiguous(), self.spectral.weight, self.taps[0].bias, self.spectral.transform, rows, is_residual, *taps
        )
        return mixed if is_residual else x + self.dropout(mixed)
