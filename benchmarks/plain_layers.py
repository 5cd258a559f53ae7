"""The layers of the operators written plainly, with rfft, einsum and autograd: what the fast ones must equal.

The tests compare numbers and gradients with them, `benchmarks/speed.py` the time. `plain` replaces the fast layers.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from dno.fourier_layer import FourierLayers
from dno.layers import PointwiseNetwork
from dno.spectral import SpectralConvolution, wave_numbers


def spectral_convolution(layer: SpectralConvolution, x: Tensor) -> Tensor:
    """K x by zero-padding, rfft in s, fft in x, one complex product per kept mode, and back: (S, X, B, C)."""
    transform, width = layer.transform, x.shape[-1]
    points, space, modes_t, length = x.shape[0], x.shape[1], transform.modes_t, transform.length
    waves = [k % space for k in wave_numbers(space, transform.modes_x)] if space > 1 else [0]
    weight = torch.complex(layer.weight[..., :width], layer.weight[..., width:]).view(modes_t, len(waves), width, width)
    spectrum = torch.fft.fft(torch.fft.rfft(x, n=length, dim=0), dim=1)
    mixed = torch.zeros_like(spectrum)
    mixed[:modes_t, waves] = torch.einsum("tqbi,tqio->tqbo", spectrum[:modes_t][:, waves], weight)
    return torch.fft.irfft(torch.fft.ifft(mixed, dim=1), n=length, dim=0)[:points].contiguous()


def fourier_layers(self: FourierLayers, x: Tensor, rows: int = 1) -> Tensor:
    """x + dropout(gelu(K x + Σ_k W_k x[n-k] + b)) of the rows that see `reach` earlier ones, layer by layer."""
    x = x.unflatten(2, (rows, -1))  # (S, X, R, B, C)
    for layer in self:
        seen = x[:, :, layer.reach :]
        z = spectral_convolution(layer.spectral, seen.flatten(2, 3)).view(seen.shape)
        for k, tap in enumerate(layer.taps):
            z = z + tap(x[:, :, layer.reach - k : x.shape[2] - k])
        x = seen + layer.dropout(functional.gelu(z))
    return x.flatten(2, 3)


def pointwise_network(self: PointwiseNetwork, x: Tensor) -> Tensor:
    """The gates x + dropout((A x + a) · gelu(B x + b)), after a gelu."""
    x = functional.gelu(x)
    for layer in self.hidden:
        value, gate = layer(x).chunk(2, -1)
        x = x + self.dropout(value * functional.gelu(gate))
    return x


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Within it, every operator computes with the plain layers, on the same parameters."""
    replaced: list[tuple[type[nn.Module], object]] = [
        (FourierLayers, fourier_layers),
        (PointwiseNetwork, pointwise_network),
    ]
    with contextlib.ExitStack() as stack:
        for layer, forward in replaced:
            stack.enter_context(mock.patch.object(layer, "forward", forward))
        yield
