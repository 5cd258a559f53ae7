"""How one element of a delay interval is solved: the general form, and faster ones for four equations.

Time is scaled by the delay, s = t/τ. Arrays over the nodes of an element are (n, B, C), start values (B, C), the delay
and every parameter (B, 1). The delayed value is read at the same node of the previous interval: nothing is
interpolated. A trajectory whose solution an element cannot hold comes back as nan, and wants shorter elements.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from data.chebyshev import Element, integration_matrix

Parameters = Mapping[str, np.ndarray]
PICARD_SWEEPS = 48
PICARD_TOLERANCE = 3e-14  # of the largest value; the sweep after it changes less than rounding does


@dataclass(frozen=True)
class Delayed:
    """The previous interval at the nodes of an element: values and, where the form asks for it, derivative in s."""

    values: np.ndarray
    slopes: np.ndarray | None = None


@dataclass(frozen=True)
class Form:
    """A way to solve an equation, in x itself or, where `is_logarithmic`, in log x.

    `advance(element, start, delayed, tau, params)` returns the element's values and its slopes (None unless
    `keeps_slopes`). `meshes` are the (nodes, elements) of the two resolutions that whole batches are solved with.
    """

    advance: Callable[[Element, np.ndarray, Delayed, np.ndarray, Parameters], tuple[np.ndarray, np.ndarray | None]]
    meshes: tuple[tuple[int, int], tuple[int, int]]
    is_logarithmic: bool = False
    keeps_slopes: bool = False

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Returns the variable that is solved for."""
        return np.log(x) if self.is_logarithmic else x

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Returns x."""
        return np.exp(values) if self.is_logarithmic else values


def fixed_point(sweep: Callable[[np.ndarray], np.ndarray], guess: np.ndarray) -> np.ndarray:
    """Returns x = sweep(x), (n, B, C), found by iteration; nan for the trajectories where it does not converge.

    Each trajectory stops by its own measure, so that it does not depend on the others of its batch.
    """
    x, is_open = guess, np.ones(guess.shape[1], dtype=bool)
    for _ in range(PICARD_SWEEPS):
        new = sweep(x)
        change = np.abs(new - x).max(axis=(0, 2))
        x = np.where(is_open[:, None], new, x)
        is_open &= ~(change <= PICARD_TOLERANCE * np.abs(new).max(axis=(0, 2)))
        if not is_open.any():
            return x
    return np.where(is_open[:, None], np.nan, x)


def general(right_hand_side: Callable) -> Form:
    """Returns Picard's iteration x ← x₀ + τ ∫ f(x, x_d, x_d′) for any equation, retarded or neutral."""

    def advance(
        element: Element, start: np.ndarray, delayed: Delayed, tau: np.ndarray, params: Parameters
    ) -> tuple[np.ndarray, np.ndarray]:
        def slope(x: np.ndarray) -> np.ndarray:
            return tau * np.broadcast_to(right_hand_side(x, delayed.values, delayed.slopes / tau, params), x.shape)

        def sweep(x: np.ndarray) -> np.ndarray:
            return start + element.integrate(slope(x))

        x = fixed_point(sweep, np.broadcast_to(start, delayed.values.shape))
        return x, slope(x)

    return Form(advance, meshes=((24, 2), (24, 4)), keeps_slopes=True)


def _relax(element: Element, start: np.ndarray, rate: np.ndarray, inflow: np.ndarray) -> np.ndarray:
    """Returns the solution of x′ = rate x + inflow: x = e^{rate s} (x₀ + ∫ e^{−rate s} inflow)."""
    growth = np.exp(rate * element.elapsed)
    return growth * (start + element.integrate(inflow / growth))


def mackey(
    element: Element, start: np.ndarray, delayed: Delayed, tau: np.ndarray, params: Parameters
) -> tuple[np.ndarray, None]:
    """x′ = τ (β x_d/(1 + x_dⁿ) − γ x): linear in x, hence a quadrature."""
    production = params["beta"] * delayed.values / (1 + delayed.values ** params["n"])
    return _relax(element, start, -tau * params["gamma"], tau * production), None


def delayed_logistic(
    element: Element, start: np.ndarray, delayed: Delayed, tau: np.ndarray, params: Parameters
) -> tuple[np.ndarray, None]:
    """y′ = τ r (1 − e^{y_d}/K) with y = log x: a quadrature, and positive by construction."""
    return start + element.integrate(tau * params["r"] * (1 - np.exp(delayed.values) / params["K"])), None


def neutral(
    element: Element, start: np.ndarray, delayed: Delayed, tau: np.ndarray, params: Parameters
) -> tuple[np.ndarray, None]:
    """z′ = τ (a z + (a c + b) x_d) with z = x − c x_d: no delayed derivative is needed."""
    a, b, c = params["a"], params["b"], params["c"]
    z = _relax(element, start - c * delayed.values[0], tau * a, tau * (a * c + b) * delayed.values)
    return z + c * delayed.values, None


@cache
def fourier_basis(n_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the real orthonormal Fourier basis of a periodic grid on [0, 1), columns of (X, X), and k² of each."""
    places = np.arange(n_points) / n_points
    numbers = (np.arange(n_points) + 1) // 2
    angles = 2 * np.pi * np.outer(places, numbers)
    basis = np.where(np.arange(n_points) % 2, np.cos(angles), np.sin(angles))  # 1, cos 1, sin 1, cos 2, …
    basis[:, 0] = 1
    return basis / np.linalg.norm(basis, axis=0), (2 * np.pi * numbers) ** 2.0


def second_derivative(u: np.ndarray) -> np.ndarray:
    """Returns u_xx along the last axis, a periodic grid on [0, 1): the Fourier derivative, Nyquist's mode included."""
    basis, squares = fourier_basis(u.shape[-1])
    return u @ ((basis * -squares) @ basis.T)


@cache
def _diagonal_integration(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns V, μ, V⁻¹ of the integration matrix without its first node, half of each conjugate pair (V doubled)."""
    eigenvalues, vectors = np.linalg.eig(integration_matrix(n)[1:, 1:])
    inverse = np.linalg.inv(vectors)
    upper = eigenvalues.imag >= 0
    weights = np.where(eigenvalues.imag[upper] > 0, 2, 1)
    return vectors[:, upper] * weights, eigenvalues[upper], inverse[upper]


def reaction_diffusion(
    element: Element, start: np.ndarray, delayed: Delayed, tau: np.ndarray, params: Parameters
) -> tuple[np.ndarray, None]:
    """u′ = τ (D u_xx + r u (1 − u_d)): diffusion and mean growth solved implicitly, their remainder by iteration.

    In Fourier modes v′ = λ v + g with λ = m − τ D k², m the mean of τ r (1 − u_d), and g the modes of
    (τ r (1 − u_d) − m) u. Collocation: v = v₀ + h I (λ v + g), where I is diagonalised once for all.
    """
    vectors, eigenvalues, inverse = _diagonal_integration(element.n)
    basis, squares = fourier_basis(start.shape[-1])
    growth = tau * params["r"] * (1 - delayed.values)
    mean = growth.mean(axis=(0, 2))[:, None]
    remainder = growth - mean
    rate = mean - tau * params["D"] * squares  # (B, C)
    response = 1 / (1 - element.length * eigenvalues[:, None, None] * rate)  # (J, B, C)
    shape = (element.n - 1, *start.shape)
    back = np.concatenate([vectors.real, -vectors.imag], axis=1)
    into = np.concatenate([inverse.real, inverse.imag])
    modes = start @ basis
    first = element.length * integration_matrix(element.n)[1:, :1]

    def sweep(u: np.ndarray) -> np.ndarray:
        g = (remainder * u) @ basis
        known = element.integrate(g)[1:] + modes + (first * (rate * modes).reshape(1, -1)).reshape(shape)
        split = (into @ known.reshape(len(known), -1)).reshape(2, len(eigenvalues), *start.shape)
        solved = (split[0] + 1j * split[1]) * response
        v = back @ np.concatenate([solved.real, solved.imag]).reshape(back.shape[1], -1)
        return np.concatenate([start[None], v.reshape(shape) @ basis.T])

    return fixed_point(sweep, np.broadcast_to(start, delayed.values.shape)), None
