"""The fast layers against their plain forms (rfft, einsum, autograd), and the quadrature matrices against calculus."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch

from benchmarks.plain_layers import plain
from dno import spectral
from dno.fourier_layer import FourierLayer, FourierLayers
from dno.layers import PointwiseNetwork
from dno.quadrature import (
    differentiation_matrix,
    extrapolation_matrix,
    integration_matrix,
    interpolation_matrix,
)
from dno.spectral import ChannelMixing, SpaceFilter, TruncatedTransform, available_modes_t


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


def fourier_layers(
    shape: tuple[int, int, int, int], reach: tuple[int, ...] = (0,), width: int = 5, dropout: float = 0.0
) -> FourierLayers:
    torch.manual_seed(0)
    return FourierLayers(FourierLayer(*shape, width, dropout, r) for r in reach)


def values_and_gradients(layers: FourierLayers, x: torch.Tensor, rows: int = 1) -> list[torch.Tensor]:
    torch.manual_seed(1)  # the same places are dropped
    out = layers(x, rows)
    torch.manual_seed(2)
    return [out, *torch.autograd.grad(out, [x, *layers.parameters()], torch.randn_like(out))]


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-12 * other.abs().max()


@SHAPES
@pytest.mark.parametrize(("rows", "reach"), [(1, (0,)), (1, (0, 0, 0)), (3, (2,)), (5, (2, 0, 1)), (4, (3, 0))])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_fourier_layers_and_their_gradients_equal_the_rfft_form(shape, rows, reach, dropout):
    layers = fourier_layers(shape, reach, dropout=dropout)
    x = torch.randn(shape[0], shape[1], 2 * rows, 5, requires_grad=True)
    for field in (x, (2 * x).detach().requires_grad_()):  # the second one in the memory of the first
        fast = values_and_gradients(layers, field, rows)
        with plain():
            assert_equal(fast, values_and_gradients(layers, field, rows))


def test_layers_that_are_called_again_before_a_gradient_is_asked_for_give_the_same_ones():
    layers = fourier_layers((33, 1, 12, 1), (1, 0))
    one, other = (torch.randn(33, 1, 6, 5, requires_grad=True) for _ in range(2))
    parameters = list(layers.parameters())
    expected = [values_and_gradients(layers, x, 2) for x in (one, other)]
    outs = [layers(x, 2) for x in (one, other)]
    with torch.no_grad():
        assert torch.equal(layers(other, 2), outs[1])
    with torch.inference_mode():
        assert torch.equal(layers(one, 2), outs[0])
    torch.manual_seed(2)
    upstream = torch.randn_like(outs[0])
    for x, out, (values, *gradients) in zip((one, other), outs, expected, strict=True):
        assert torch.equal(out, values)
        assert_equal(torch.autograd.grad(out, [x, *parameters], upstream), gradients)
    assert torch.equal(outs[0], expected[0][0])  # later calls do not write where a result lies


def test_a_second_gradient_is_either_right_or_refused():
    layers = fourier_layers((33, 1, 12, 1), (0, 0))
    x = torch.randn(33, 1, 2, 5, requires_grad=True)
    out = layers(x)
    first = torch.autograd.grad(out.sum(), x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(out.sum(), x, retain_graph=True)[0], first)
    layers(2 * x)
    with pytest.raises(RuntimeError, match="computed something else"):
        torch.autograd.grad(out.sum(), x)


def test_layers_that_have_trained_can_be_copied():
    layers = fourier_layers((17, 1, 5, 1), (0, 0))
    x = torch.randn(17, 1, 2, 5, requires_grad=True)
    expected = values_and_gradients(layers, x)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(layers)))
    for one, other in zip(values_and_gradients(copied, x), expected, strict=True):
        assert torch.equal(one, other)
    assert copied._passes is not layers._passes


def test_memory_of_layers_is_freed_without_a_collection():
    layers = fourier_layers((17, 1, 5, 1), (0, 0))
    x = torch.randn(17, 1, 2, 5, requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        out = layers(x)
        passes = weakref.ref(out.grad_fn.passes)
        del out
        assert passes() is None
        values_and_gradients(layers, x)
        whole = weakref.ref(layers)
        del layers
        assert whole() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("shape", [(5, 1, 3, 1), (5, 4, 2, 3)])
def test_fourier_layers_and_gate_pass_gradcheck(shape):
    layers = fourier_layers(shape, (1, 0), width=2)
    x = torch.randn(shape[0], shape[1], 4, 2, requires_grad=True)
    assert torch.autograd.gradcheck(lambda field: layers(field, 2), (x,))
    network = PointwiseNetwork(3, 3)
    assert torch.autograd.gradcheck(network, (torch.randn(4, 3, requires_grad=True),))


def test_both_forms_of_the_transform_give_the_same_numbers(monkeypatch):
    field, spectrum = torch.randn(97, 6), torch.randn(80, 6)
    found = []
    for longest_matrix in (0, 10**9):
        monkeypatch.setattr(spectral, "MATRIX_MODES", longest_matrix)
        monkeypatch.setattr(spectral, "MATRIX_LENGTH", longest_matrix)
        transform = TruncatedTransform(97, 1, 40, 1)
        assert transform.is_fft == (longest_matrix == 0)
        synthesis, adjoint = torch.ones_like(field), torch.ones_like(field)
        transform.add_synthesis(synthesis, spectrum)
        transform.add_analysis_adjoint(adjoint, spectrum)
        analysed, by_spectrum = torch.empty_like(spectrum), torch.empty_like(spectrum)
        transform.analyse(field, analysed)
        transform.synthesis_adjoint(field, by_spectrum)
        found.append([analysed, by_spectrum, synthesis, adjoint])
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


def test_channel_mixing_is_the_complex_product():
    mixing = ChannelMixing(torch.empty(0), 3, 2, 4)
    x, weight = torch.randn(3, 2, 2, 4), torch.randn(3, 4, 2, 4)
    mixing.forward(x.view(3, 4, 4), weight.view(3, 4, 8))
    expected = torch.complex(x[:, 0], x[:, 1]) @ torch.complex(weight[:, :, 0], weight[:, :, 1])
    found = mixing.rows.view(3, 2, 2, 4)
    assert torch.allclose(torch.complex(found[:, 0], found[:, 1]), expected, rtol=1e-12)


def test_fourier_layers_in_single_precision_stays_within_a_millionth():
    layers = fourier_layers((33, 1, available_modes_t(32), 1), width=8)
    x = torch.randn(33, 1, 4, 8)
    double = layers(x)
    assert (layers.float()(x.float()) - double).abs().max() <= 1e-6 * double.abs().max()


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
