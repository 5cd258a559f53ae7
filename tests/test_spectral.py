"""The fast layers against their plain forms (rfft, einsum, autograd), and the quadrature matrices against calculus."""

import numpy as np
import pytest
import torch

from benchmarks.plain_layers import plain
from dno import spectral
from dno.fourier_layer import FourierLayer
from dno.layers import PointwiseNetwork
from dno.quadrature import (
    differentiation_matrix,
    extrapolation_matrix,
    integration_matrix,
    interpolation_matrix,
)
from dno.spectral import SpaceFilter, TruncatedTransform, available_modes_t


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


# Points, space, modes in both: scalar and spatial families, all modes of a grid, and one that is long enough for FFT.
SHAPES = pytest.mark.parametrize(
    "shape", [(33, 1, 12, 1), (51, 20, 8, 6), (51, 20, 38, 11), (17, 5, 3, 2), (97, 1, 40, 1)]
)


def fourier_layer(shape: tuple[int, int, int, int], width: int = 5, **options: object) -> FourierLayer:
    torch.manual_seed(0)
    return FourierLayer(*shape, width, **({"dropout": 0.0} | options))


@SHAPES
@pytest.mark.parametrize(("rows", "reach", "dropout"), [(1, 0, 0.0), (4, 2, 0.0), (2, 3, 0.0), (1, 0, 0.5)])
def test_fourier_layer_and_its_gradients_equal_the_rfft_form(shape, rows, reach, dropout):
    layer = fourier_layer(shape, reach=reach, dropout=dropout)
    x = torch.randn(shape[0], shape[1], 2 * rows, 5, requires_grad=True)
    upstream = torch.randn_like(x)

    def values_and_gradients() -> list[torch.Tensor]:
        torch.manual_seed(1)  # the same places are dropped
        out = layer(x, rows)
        return [out, *torch.autograd.grad(out, [x, *layer.parameters()], upstream, allow_unused=True)]

    fast = values_and_gradients()
    with plain():
        reference = values_and_gradients()
    for value, expected in zip(fast, reference, strict=True):
        if expected is None:
            assert value is None  # a tap that reaches beyond the first row
        else:
            assert (value - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("shape", [(5, 1, 3, 1), (5, 4, 2, 3)])
def test_fourier_layer_and_gate_pass_gradcheck(shape):
    layer = fourier_layer(shape, width=2, reach=1)
    x = torch.randn(shape[0], shape[1], 4, 2, requires_grad=True)
    assert torch.autograd.gradcheck(lambda field: layer(field, 2), (x,))
    network = PointwiseNetwork(3, 3)
    assert torch.autograd.gradcheck(network, (torch.randn(4, 3, requires_grad=True),))


def test_both_forms_of_the_transform_give_the_same_numbers(monkeypatch):
    field = torch.randn(97, 1, 3, 2)
    spectrum = torch.randn(40, 2, 3, 2)
    found = []
    for longest_matrix in (0, 10**9):
        monkeypatch.setattr(spectral, "MATRIX_MODES", longest_matrix)
        monkeypatch.setattr(spectral, "MATRIX_LENGTH", longest_matrix)
        transform = TruncatedTransform(97, 1, 40, 1)
        assert transform.is_fft == (longest_matrix == 0)
        synthesis, adjoint = torch.ones_like(field), torch.ones_like(field)
        transform.add_synthesis(synthesis, spectrum)
        transform.add_analysis_adjoint(adjoint, spectrum)
        found.append([transform.analyse(field), transform.synthesis_adjoint(field), synthesis, adjoint])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-12 * one.abs().max().item())


@pytest.mark.parametrize("network", [PointwiseNetwork(6, 3), PointwiseNetwork(6, 3, dropout=0.5)])
def test_pointwise_network_and_its_gradients_equal_the_plain_form(network):
    network = network.double()
    x = torch.randn(7, 2, 6, requires_grad=True)

    def values_and_gradients() -> list[torch.Tensor]:
        torch.manual_seed(1)
        out = network(x)
        return [out, *torch.autograd.grad(out.square().sum(), [x, *network.parameters()])]

    fast = values_and_gradients()
    with plain():
        reference = values_and_gradients()
    assert all(torch.allclose(one, other, rtol=1e-12) for one, other in zip(fast, reference, strict=True))
    torch.manual_seed(1)
    with torch.inference_mode():
        assert torch.equal(network(x), fast[0])


def test_fourier_layer_in_single_precision_stays_within_a_millionth():
    layer = fourier_layer((33, 1, available_modes_t(32), 1), width=8)
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


@pytest.mark.parametrize(("n_points", "n_beyond", "degree"), [(9, 7, 4), (5, 9, 4), (3, 4, 2), (2, 2, 1)])
def test_extrapolation_continues_a_polynomial_by_what_it_gains(n_points, n_beyond, degree):
    polynomial = np.polynomial.Polynomial(np.arange(1.0, degree + 2))
    known, beyond = np.arange(1 - n_points, 1) / 10, np.arange(n_beyond) / 10
    found = extrapolation_matrix(n_points, n_beyond) @ polynomial(known)
    assert np.allclose(found, polynomial(beyond) - polynomial(0), rtol=1e-9, atol=1e-9)


def test_integration_error_falls_with_the_eighth_power_of_the_spacing():
    def error(points: int) -> float:
        s = np.linspace(0, 1, points)
        return np.abs(integration_matrix(points, 1 / (points - 1)) @ np.cos(9 * s) - np.sin(9 * s) / 9).max()

    orders = [np.log2(error(points) / error(2 * points - 1)) for points in (33, 65)]
    assert min(orders) > 7.5
