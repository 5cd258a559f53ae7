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

MATRIX_MODES, MATRIX_LENGTH = 32, 128  # up to either of them a matrix product is faster than an FFT
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

    Rows of the forward matrix: cos and -sin of each frequency in turn, so that a spectrum is (m, 2, …) without a copy.
    θ = 2π k n / N' from (k n mod N') in float64.
    """
    length = padded_length(n_points - 1)
    k, n = np.arange(modes)[:, None], np.arange(n_points)[None, :]
    angle = 2 * np.pi * ((k * n) % length) / length
    forward = np.stack([np.cos(angle), -np.sin(angle)], 1).reshape(2 * modes, n_points)
    return forward, (time_weights(n_points, modes)[:, None] * forward).T


def time_weights(n_points: int, modes: int) -> np.ndarray:
    """(2m,): how often the inverse counts each row of the spectrum. 1/N' for frequency 0 and N'/2, 2/N' else."""
    length = padded_length(n_points - 1)
    k = np.arange(modes)
    return np.repeat(np.where((k == 0) | (2 * k == length), 1.0, 2.0) / length, 2)


def wave_numbers(n_space: int, modes: int) -> np.ndarray:
    """(Q,): all |k| < modes; the Nyquist wave number of an even grid is kept once."""
    return np.arange(-(modes - 1) + (2 * (modes - 1) >= n_space), modes)


def space_basis(n_space: int, modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Forward (2Q, 2X) and inverse (2X, 2Q) real forms of the complex transform in x, wave numbers |k| < m.

    In space the real parts of all points come first, then the imaginary ones; in the spectrum both parts of each wave
    number in turn.
    """
    k, n = wave_numbers(n_space, modes)[:, None], np.arange(n_space)[None, :]
    angle = 2 * np.pi * ((k * n) % n_space) / n_space
    cos, sin = np.cos(angle), np.sin(angle)
    forward = np.stack([np.hstack([cos, sin]), np.hstack([-sin, cos])], 1).reshape(-1, 2 * n_space)
    return forward, forward.T / n_space


class TruncatedTransform(nn.Module):
    """The kept frequencies of a field in s (and in x when X > 1), forth and back, and the adjoint of each.

    A field is (S, X, B, C), a spectrum (m Q, 2, B, C): real and imaginary part of every kept pair of frequencies. In s
    it is a matrix product, or an FFT where that was measured to be faster; both give the same numbers.
    """

    def __init__(self, n_points: int, n_space: int, modes_t: int, modes_x: int) -> None:
        super().__init__()
        self.n_points, self.n_space, self.modes_t, self.modes_x = n_points, n_space, modes_t, modes_x
        self.length = padded_length(n_points - 1)
        self.is_fft = modes_t > MATRIX_MODES and self.length > MATRIX_LENGTH
        if self.is_fft:
            self._constant("weights", time_weights(n_points, modes_t).reshape(-1, 2, 1))
        else:
            forward, inverse = time_basis(n_points, modes_t)
            self._constant("time_forward", forward)
            self._constant("time_inverse", inverse)
        self.n_modes = modes_t
        if n_space > 1:
            forward, inverse = space_basis(n_space, modes_x)
            self._constant("space_forward", forward)
            self._constant("space_inverse", inverse)
            self.n_modes *= forward.shape[0] // 2

    def _constant(self, name: str, matrix: np.ndarray) -> None:
        self.register_buffer(name, torch.tensor(matrix, dtype=torch.get_default_dtype()), persistent=False)

    def analyse(self, columns: Tensor, out: Tensor) -> None:
        """out = F x: (S, X B C) -> (2 m Q, B C)."""
        spectrum = out if self.n_space == 1 else columns.new_empty(2 * self.modes_t, columns.shape[1])
        self._analyse_time(columns, spectrum)
        if self.n_space > 1:
            self._map_space(self.space_forward, spectrum, out)

    def add_synthesis(self, columns: Tensor, spectrum: Tensor) -> None:
        """columns += G y: y (2 m Q, B C) onto (S, X B C)."""
        if self.n_space > 1:
            spectrum = self._map_space(self.space_inverse, spectrum)
        self._add_time(columns, spectrum, None if self.is_fft else self.time_inverse)

    def synthesis_adjoint(self, columns: Tensor, out: Tensor) -> None:
        """out = Gᵀ g: (S, X B C) -> (2 m Q, B C)."""
        spectrum = out if self.n_space == 1 else columns.new_empty(2 * self.modes_t, columns.shape[1])
        if self.is_fft:
            self._analyse_time(columns, spectrum)
            spectrum.view(self.modes_t, 2, -1).mul_(self.weights)
        else:
            torch.mm(self.time_inverse.T, columns, out=spectrum)
        if self.n_space > 1:
            self._map_space(self.space_inverse.T, spectrum, out)

    def add_analysis_adjoint(self, columns: Tensor, gradient: Tensor) -> None:
        """columns += Fᵀ g: g (2 m Q, B C) onto (S, X B C)."""
        if self.n_space > 1:
            gradient = self._map_space(self.space_forward.T, gradient)
        if self.is_fft:
            gradient = gradient.view(self.modes_t, 2, -1) / self.weights
        self._add_time(columns, gradient, None if self.is_fft else self.time_forward.T)

    def _analyse_time(self, columns: Tensor, out: Tensor) -> None:
        if not self.is_fft:
            torch.mm(self.time_forward, columns, out=out)
            return
        spectrum = torch.fft.rfft(columns, n=self.length, dim=0)[: self.modes_t]
        torch.stack([spectrum.real, spectrum.imag], 1, out=out.view(self.modes_t, 2, -1))

    def _add_time(self, columns: Tensor, spectrum: Tensor, matrix: Tensor | None) -> None:
        if matrix is not None:
            columns.addmm_(matrix, spectrum)
            return
        real, imaginary = spectrum.view(self.modes_t, 2, -1).unbind(1)
        columns += torch.fft.irfft(torch.complex(real, imaginary), n=self.length, dim=0)[: self.n_points]

    def _map_space(self, matrix: Tensor, spectrum: Tensor, out: Tensor | None = None) -> Tensor:
        """The matrix of the space axis at every frequency in s: (2 m X, B C) -> (2 m Q, B C), or back."""
        pieces = spectrum.view(self.modes_t, matrix.shape[1], -1)
        if out is not None:
            out = out.view(self.modes_t, matrix.shape[0], -1)
        return torch.bmm(matrix.expand(self.modes_t, -1, -1), pieces, out=out).view(2 * self.modes_t, -1)


class SpectralConvolution(nn.Module):
    """A kernel in s (and x), learned frequency by frequency: the transform and its weights. `FourierLayer` applies it.

    Li et al. (2021), "Fourier Neural Operator for Parametric Partial Differential Equations", eq. 4.
    """

    def __init__(self, n_points: int, n_space: int, modes_t: int, modes_x: int, width: int) -> None:
        super().__init__()
        self.transform = TruncatedTransform(n_points, n_space, modes_t, modes_x)
        scale = 1 / math.sqrt(2 * width)
        # [Wr | Wi] of every mode side by side, so that one batched product serves both parts.
        self.weight = nn.Parameter(scale * torch.randn(self.transform.n_modes, width, 2 * width))


class ChannelMixing:
    """The complex product y = x W of every mode, on spectra (n, 2 B, C) of one shape; it keeps the memory for it."""

    def __init__(self, like: Tensor, modes: int, batch: int, width: int) -> None:
        product = like.new_empty(modes, 2, batch, 2, width)  # of both parts of x with both parts of W
        self._product = product.view(modes, 2 * batch, 2 * width)
        self._of_real = product[:, 0]
        (self._rr, self._ri), (self._ir, self._ii) = (product[:, part].unbind(2) for part in (0, 1))
        mixed = like.new_empty(modes, 2, batch, width)
        self._real, self._imaginary = mixed.unbind(1)
        self._swapped, self._mixed = mixed.transpose(1, 2), mixed.view(modes, 2 * batch, width)
        self.rows = mixed.view(2 * modes, -1)  # y, or a gradient

    def forward(self, spectrum: Tensor, weight: Tensor) -> None:
        """y of x (n, 2 B, C) and of [Wr | Wi] (n, C, 2C), in `rows`."""
        torch.bmm(spectrum, weight, out=self._product)
        torch.sub(self._rr, self._ii, out=self._real)
        torch.add(self._ri, self._ir, out=self._imaginary)

    def adjoint(self, transposed: Tensor, weight: Tensor) -> Tensor:
        """The gradient by W from xᵀ (n, C, 2 B). In `rows` that by y makes room for that by x."""
        self._of_real.copy_(self._swapped)
        self._ir.copy_(self._imaginary)
        torch.neg(self._real, out=self._ii)
        by_weight = torch.bmm(transposed, self._product)
        torch.bmm(self._product, weight.mT, out=self._mixed)
        return by_weight


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
