"""Spectral convolutions as real matrix products on a truncated Fourier basis.

A window of one delay is not periodic: it is embedded in a period PERIOD times as long, of which only its own M + 1
points are ever evaluated, so the padding costs nothing. The space axis is periodic as it stands. Frequencies
0 ... m - 1 are kept. The numbers equal those of rfft on the zero-padded window, restricted to the same modes.

Layout of a field: (S, X, B, C), points in the delay interval, points in space (1 for scalar families), samples,
channels. Parameters are real, so that fused optimizers and clipping take them.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

PERIOD = 1.5  # 1.25 to 2 measured alike; 1 makes the two ends of the window neighbours and is worse


def padded_length(n_intervals: int) -> int:
    """Points N' of the extended period of a window with `n_intervals` cells."""
    return round(PERIOD * n_intervals)


def available_modes_t(n_intervals: int) -> int:
    """How many frequencies (0 included) a window of one delay carries in its extended period."""
    return padded_length(n_intervals) // 2 + 1


def available_modes_x(n_space: int) -> int:
    """How many frequencies (0 included) a periodic axis of `n_space` points carries."""
    return n_space // 2 + 1


def time_basis(n_points: int, modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Forward (2m, S) and inverse (S, 2m) real matrices of the truncated transform in s.

    Rows of the forward matrix: cos for all frequencies, then -sin. θ = 2π k n / N' from (k n mod N') in float64.
    """
    length = padded_length(n_points - 1)
    k, n = np.arange(modes)[:, None], np.arange(n_points)[None, :]
    angle = 2 * np.pi * ((k * n) % length) / length
    forward = np.concatenate([np.cos(angle), -np.sin(angle)])
    weight = np.where((k == 0) | (2 * k == length), 1.0, 2.0) / length
    inverse = np.concatenate([weight * np.cos(angle), -weight * np.sin(angle)]).T
    return forward, inverse


def space_basis(n_space: int, modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Forward (2Q, 2X) and inverse (2X, 2Q) real forms of the complex transform in x, wave numbers |k| < m.

    Both act on stacked (real, imaginary) parts. The Nyquist wave number of an even grid is kept once.
    """
    low = -(modes - 1) if 2 * (modes - 1) < n_space else -(modes - 1) + 1
    k, n = np.arange(low, modes)[:, None], np.arange(n_space)[None, :]
    angle = 2 * np.pi * ((k * n) % n_space) / n_space
    cos, sin = np.cos(angle), np.sin(angle)
    forward = np.block([[cos, sin], [-sin, cos]])
    inverse = np.block([[cos.T, -sin.T], [sin.T, cos.T]]) / n_space
    return forward, inverse


class SpectralConvolution(nn.Module):
    """Convolution in s (and in x when X > 1) with a kernel learned mode by mode: (S, X, B, C) -> (S, X, B, C).

    Li et al. (2021), "Fourier Neural Operator for Parametric Partial Differential Equations", eq. 4.
    """

    def __init__(self, n_points: int, n_space: int, modes_t: int, modes_x: int, width: int) -> None:
        super().__init__()
        self.n_space, self.width = n_space, width
        forward, inverse = time_basis(n_points, modes_t)
        self._constant("time_forward", forward)
        self._constant("time_inverse", inverse)
        wave_numbers = 1
        if n_space > 1:
            forward, inverse = space_basis(n_space, modes_x)
            self._constant("space_forward", forward)
            self._constant("space_inverse", inverse)
            wave_numbers = forward.shape[0] // 2
        scale = 1 / math.sqrt(2 * width)
        # [Wr | Wi] of every mode side by side, so that one batched product serves both parts.
        self.weight = nn.Parameter(scale * torch.randn(modes_t * wave_numbers, width, 2 * width))

    def _constant(self, name: str, matrix: np.ndarray) -> None:
        self.register_buffer(name, torch.tensor(matrix, dtype=torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        points, space, batch, width = x.shape
        modes = self.time_forward.shape[0] // 2
        spectrum = self.time_forward @ x.reshape(points, -1)  # (2m, X B C)
        if space > 1:
            spectrum = spectrum.view(2, modes, space, batch * width).transpose(0, 1)  # (m, 2, X, B C)
            spectrum = self.space_forward @ spectrum.reshape(modes, 2 * space, batch * width)  # (m, 2Q, B C)
            waves = spectrum.shape[1] // 2
            spectrum = spectrum.view(modes, 2, waves, batch, width).permute(0, 2, 1, 3, 4)  # (m, Q, 2, B, C)
            spectrum = spectrum.reshape(modes * waves, 2 * batch, width)
        else:
            waves = 1
            spectrum = spectrum.view(2, modes, batch, width).transpose(0, 1).reshape(modes, 2 * batch, width)
        product = torch.bmm(spectrum, self.weight).view(-1, 2, batch, 2, width)
        real = product[:, 0, :, 0] - product[:, 1, :, 1]  # (m Q, B, C)
        imaginary = product[:, 0, :, 1] + product[:, 1, :, 0]
        if space > 1:
            mixed = torch.stack([real, imaginary], 1).view(modes, waves, 2, batch * width)
            mixed = mixed.transpose(1, 2).reshape(modes, 2 * waves, batch * width)
            mixed = self.space_inverse @ mixed  # (m, 2X, B C)
            mixed = mixed.view(modes, 2, space * batch * width).transpose(0, 1)
        else:
            mixed = torch.stack([real, imaginary])  # (2, m, B, C)
        return (self.time_inverse @ mixed.reshape(2 * modes, -1)).view(points, space, batch, width)


class SpaceFilter(nn.Module):
    """Learned periodic filters in x of a field's state, frequencies below `modes`: (S, X, B, 1) -> (S, X, B, C).

    A filter is a full-width circular convolution; its transform is learned, real and imaginary part per frequency.
    """

    def __init__(self, n_space: int, modes: int, width: int) -> None:
        super().__init__()
        k, n = np.arange(modes)[:, None], np.arange(n_space)[None, :]
        angle = 2 * np.pi * ((k * n) % n_space) / n_space
        weight = np.where((k == 0) | (2 * k == n_space), 1.0, 2.0) / n_space
        basis = np.concatenate([weight * np.cos(angle), -weight * np.sin(angle)]).T  # (X, 2m)
        self.register_buffer("basis", torch.tensor(basis, dtype=torch.get_default_dtype()), persistent=False)
        shift = (np.arange(n_space)[:, None] - np.arange(n_space)[None, :]) % n_space  # output x, input x'
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        self.spectrum = nn.Parameter(0.3 * torch.randn(2 * modes, width))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.basis @ self.spectrum  # (X, C)
        matrix = kernel[self.shift]  # (X out, X in, C)
        n_space, _, width = matrix.shape
        matrix = matrix.permute(1, 0, 2).reshape(n_space, n_space * width)
        field = x.squeeze(-1).transpose(1, 2)  # (S, B, X)
        filtered = (field @ matrix).view(*field.shape, width)  # (S, B, X, C)
        return filtered.transpose(1, 2)
