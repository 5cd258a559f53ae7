"""The matrix form of the spectral layers against rfft, and the quadrature matrices against calculus."""

import numpy as np
import pytest
import torch

from dno.quadrature import differentiation_matrix, integration_matrix, interpolation_matrix
from dno.spectral import SpaceFilter, SpectralConvolution, available_modes_t, padded_length


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize(("points", "space", "modes_t", "modes_x"), [(33, 1, 12, 1), (51, 20, 8, 6), (51, 20, 38, 11)])
def test_spectral_convolution_equals_the_fft_form(points, space, modes_t, modes_x):
    torch.manual_seed(0)
    width = 5
    layer = SpectralConvolution(points, space, modes_t, modes_x, width)
    x = torch.randn(points, space, 3, width)
    length = padded_length(points - 1)
    padded = torch.cat([x, torch.zeros(length - points, space, 3, width)])
    spectrum = torch.fft.fft(torch.fft.rfft(padded, dim=0), dim=1)
    waves = [k % space for k in range(-(modes_x - 1) + (2 * (modes_x - 1) >= space), modes_x)] if space > 1 else [0]
    weight = torch.complex(layer.weight[..., :width], layer.weight[..., width:]).view(modes_t, len(waves), width, width)
    kept = torch.zeros_like(spectrum)
    kept[:modes_t, waves] = torch.einsum("tqbi,tqio->tqbo", spectrum[:modes_t][:, waves], weight)
    expected = torch.fft.irfft(torch.fft.ifft(kept, dim=1), n=length, dim=0)[:points]
    assert torch.allclose(layer(x), expected, atol=1e-13 * expected.abs().max().item())


def test_spectral_convolution_in_single_precision_stays_within_a_millionth():
    torch.manual_seed(0)
    layer = SpectralConvolution(33, 1, available_modes_t(32), 1, 8)
    x = torch.randn(33, 1, 4, 8)
    double = layer(x)
    assert (layer.float()(x.float()) - double).abs().max() <= 1e-6 * double.abs().max()


def test_space_filter_commutes_with_shifts_and_represents_the_second_derivative():
    torch.manual_seed(0)
    space, modes = 20, 11
    layer = SpaceFilter(space, modes, 3)
    x = torch.randn(2, space, 4, 1)
    assert torch.allclose(layer(x.roll(3, 1)), layer(x).roll(3, 1), atol=1e-12)
    with torch.no_grad():
        layer.spectrum.zero_()
        layer.spectrum[:modes] = (-((2 * torch.pi * torch.arange(modes)) ** 2))[:, None]
    grid = torch.arange(space) / space
    wave = torch.cos(2 * torch.pi * 3 * grid)[None, :, None, None]
    assert torch.allclose(layer(wave)[..., :1], -((6 * torch.pi) ** 2) * wave, atol=1e-9)


@pytest.mark.parametrize("degree", [3, 7])
def test_quadrature_is_exact_for_polynomials_of_its_degree(degree):
    points, spacing = 17, 1 / 16
    s = np.linspace(0, 1, points)
    at = np.array([0.0, 0.5, 7.25, 15.9, 16.0])
    polynomial = np.polynomial.Polynomial(np.random.default_rng(0).normal(size=degree + 1))
    assert np.allclose(interpolation_matrix(points, at, degree) @ polynomial(s), polynomial(at * spacing), atol=1e-12)
    integral = polynomial.integ()
    expected = integral(s) - integral(0)
    assert np.allclose(integration_matrix(points, spacing, degree) @ polynomial(s), expected, atol=1e-13)
    derivative = differentiation_matrix(points, spacing, at, degree) @ polynomial(s)
    assert np.allclose(derivative, polynomial.deriv()(at * spacing), atol=1e-10)


def test_integration_error_falls_with_the_eighth_power_of_the_spacing():
    def error(points: int) -> float:
        s = np.linspace(0, 1, points)
        return np.abs(integration_matrix(points, 1 / (points - 1)) @ np.cos(9 * s) - np.sin(9 * s) / 9).max()

    orders = [np.log2(error(points) / error(2 * points - 1)) for points in (33, 65)]
    assert min(orders) > 7.5
