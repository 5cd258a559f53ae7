"""How one element of a delay interval is solved: the general form, and faster ones for four equations.

Time is scaled by the delay, s = t/τ. Arrays over the nodes of an element are (n, B, C), start values (B, C), the delay
and every parameter (B, 1). The delayed value is read at the same node of the previous interval: nothing is
interpolated. A trajectory whose solution an element cannot hold comes back as nan, and wants shorter elements.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from data.chebyshev import Element

Parameters = Mapping[str, np.ndarray]
PICARD_SWEEPS = 48
PICARD_TOLERANCE = 2e-13  # of the largest value: convergence is superlinear, so that less is left
WATCHED_SWEEPS, WATCHED_NODES = 2, 3  # every so many, for to watch them all costs a third of a sweep
MOST_FACTORS = 32


@dataclass(frozen=True)
class Given:
    """What is known at the nodes of an element: the delayed values, their slopes in s where the form keeps them, and,
    from a coarser mesh, perhaps a guess of the solution.
    """

    delayed: np.ndarray
    slopes: np.ndarray | None = None
    guess: np.ndarray | None = None
    tolerance: float = PICARD_TOLERANCE

    def first_guess(self, start: np.ndarray) -> np.ndarray:
        """Returns what an iteration begins with: the guess, or the start value of trajectories that have none."""
        if self.guess is None:
            return np.broadcast_to(start, self.delayed.shape)
        is_known = np.isfinite(self.guess.sum(axis=0)).all(axis=1)[:, None]
        if is_known.all():
            return self.guess
        return np.where(is_known, self.guess, start)


Solver = Callable[[np.ndarray, Given], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class Form:
    """A way to solve an equation, in x itself or, where `is_logarithmic`, in log x.

    `solver(element, tau, params)` prepares what every interval shares, and returns a function of (start, given): the
    element's values and its slopes (None unless `keeps_slopes`). `meshes` are the (nodes, elements) of the two
    resolutions that whole batches are solved with.
    """

    solver: Callable[[Element, np.ndarray, Parameters], Solver]
    meshes: tuple[tuple[int, int], tuple[int, int]]
    is_logarithmic: bool = False
    keeps_slopes: bool = False
    iterates: bool = False  # from a guess, where there is one
    tolerance: float = PICARD_TOLERANCE  # of iterations, where there are any

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Returns the variable that is solved for."""
        return np.log(x) if self.is_logarithmic else x

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Returns x."""
        return np.exp(values) if self.is_logarithmic else values


def fixed_point(sweep: Callable[[np.ndarray], np.ndarray], guess: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns x = sweep(x), (n, B, C), found by iteration; nan for the trajectories where it does not converge.

    Each trajectory stops by its own measure, so that it does not depend on the others of its batch.
    """
    x, found = guess, np.full_like(guess, np.nan)
    is_open, watched = np.ones(guess.shape[1], dtype=bool), slice(None, None, -WATCHED_NODES)  # the end among them
    for count in range(1, PICARD_SWEEPS + 1):
        new = sweep(x)
        if count % WATCHED_SWEEPS == 0:
            now = new[watched]
            # Of the end, which all that follows starts from; where that is next to nothing, of the whole element.
            most = np.maximum(tolerance * _largest(now[:1]), PICARD_TOLERANCE * _largest(now))
            is_closing = is_open & (_largest(now - x[watched]) <= most)
            if is_closing.all():
                return new
            (closing,) = is_closing.nonzero()
            found[:, closing] = new[:, closing]
            is_open[closing] = False
            if not is_open.any():
                return found
        x = new
    return found


def _largest(values: np.ndarray) -> np.ndarray:
    return np.maximum.reduce(np.maximum.reduce(np.abs(values)), axis=-1)


def general(right_hand_side: Callable) -> Form:
    """Returns Picard's iteration x ← x₀ + τ ∫ f(x, x_d, x_d′) for any equation, retarded or neutral."""

    def solver(element: Element, tau: np.ndarray, params: Parameters) -> Solver:
        def advance(start: np.ndarray, given: Given) -> tuple[np.ndarray, np.ndarray]:
            def slope(x: np.ndarray) -> np.ndarray:
                return tau * np.broadcast_to(right_hand_side(x, given.delayed, given.slopes / tau, params), x.shape)

            def sweep(x: np.ndarray) -> np.ndarray:
                return start + element.integrate(slope(x))

            x = fixed_point(sweep, given.first_guess(start), given.tolerance)
            return x, slope(x)

        return advance

    return Form(solver, meshes=((24, 2), (24, 4)), keeps_slopes=True, iterates=True)


def _relaxation(
    element: Element, growth: np.ndarray, decay: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Returns the solver of x′ = λ(s) x + inflow: (x₀, inflow) → growth · (x₀ + ∫ decay · inflow), growth = e^{∫ λ} and
    decay = 1/growth.

    It overwrites the inflow.
    """

    def relax(start: np.ndarray, inflow: np.ndarray) -> np.ndarray:
        inflow *= decay
        result = element.integrate(inflow)
        result += start
        result *= growth
        return result

    return relax


def raised(exponent: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns x -> x ** exponent, (n, B, C) and (B, 1): by products where an exponent is a small whole number."""
    is_whole = ((exponent >= 1) & (exponent <= MOST_FACTORS) & (exponent == np.floor(exponent)))[:, 0]
    if not is_whole.any():
        return lambda x: x**exponent
    if is_whole.all() and np.ptp(exponent) == 0:
        return partial(_product, factors=int(exponent[0, 0]))

    def mixed(x: np.ndarray) -> np.ndarray:
        result = np.empty_like(x)
        if not is_whole.all():
            result[:, ~is_whole] = x[:, ~is_whole] ** exponent[~is_whole]
        for value in np.unique(exponent[is_whole]):
            mine = exponent[:, 0] == value
            result[:, mine] = _product(x[:, mine], int(value))
        return result

    return mixed


def _product(x: np.ndarray, factors: int) -> np.ndarray:
    result = x.copy() if factors % 2 else None
    while factors := factors // 2:
        x = x * x
        if factors % 2:
            result = x if result is None else result * x
    return result


def mackey(element: Element, tau: np.ndarray, params: Parameters) -> Solver:
    """x′ = τ (β x_d/(1 + x_dⁿ) − γ x): linear in x, hence a quadrature."""
    loss_by_now, rate = tau * params["gamma"] * element.elapsed, tau * params["beta"]
    relax = _relaxation(element, np.exp(-loss_by_now), np.exp(loss_by_now))
    to_the_n = raised(params["n"])

    def advance(start: np.ndarray, given: Given) -> tuple[np.ndarray, None]:
        inflow = rate * given.delayed
        loss = to_the_n(given.delayed)
        loss += 1
        inflow /= loss
        return relax(start, inflow), None

    return advance


def delayed_logistic(element: Element, tau: np.ndarray, params: Parameters) -> Solver:
    """y′ = τ r (1 − e^{y_d}/K) with y = log x: a quadrature, and positive by construction."""
    rate, share = tau * params["r"], tau * params["r"] / params["K"]

    def advance(start: np.ndarray, given: Given) -> tuple[np.ndarray, None]:
        slope = np.exp(given.delayed)
        slope *= -share
        slope += rate
        result = element.integrate(slope)
        result += start
        return result, None

    return advance


def neutral(element: Element, tau: np.ndarray, params: Parameters) -> Solver:
    """z′ = τ (a z + (a c + b) x_d) with z = x − c x_d: no delayed derivative is needed."""
    a, b, c = params["a"], params["b"], params["c"]
    growth, gain = np.exp(tau * a * element.elapsed), tau * (a * c + b)
    relax = _relaxation(element, growth, 1 / growth)

    def advance(start: np.ndarray, given: Given) -> tuple[np.ndarray, None]:
        x = relax(start - c * given.delayed[0], gain * given.delayed)
        x += c * given.delayed
        return x, None

    return advance


@cache
def fourier_basis(n_points: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the real orthonormal Fourier basis of a periodic grid on [0, 1), columns of (X, X), and each (2πk)²."""
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


def reaction_diffusion(element: Element, tau: np.ndarray, params: Parameters) -> Solver:
    """u′ = τ (D u_xx + r u (1 − u_d)): diffusion and the mean growth at every time are exact, the rest is iterated.

    In Fourier modes v′ = λ(s) v + g, with λ = m − τ D k², m(s) the mean over x of τ r (1 − u_d), and g the modes of
    (τ r (1 − u_d) − m) u. Without a guess the iteration begins with half of that growth, diffusion, and the other half
    (Strang 1968), the halves to third order: seven sweeps fewer than from the start value.
    """
    rate = tau * params["r"]

    @cache
    def prepared(n_points: int) -> tuple[np.ndarray, ...]:
        basis, squares = fourier_basis(n_points)
        diffusion = np.exp(-tau * params["D"] * squares * element.elapsed)
        return basis, np.ascontiguousarray(basis.T), diffusion, 1 / diffusion, np.full((n_points, 1), 1 / n_points)

    def advance(start: np.ndarray, given: Given) -> tuple[np.ndarray, None]:
        basis, inverse, diffusion, its_inverse, averaging = prepared(start.shape[-1])
        growth = given.delayed * -rate
        growth += rate
        mean = growth @ averaging
        growth -= mean
        of_mean = np.exp(element.integrate(mean))
        of_modes = of_mean * diffusion
        modes, relax = start @ basis, _relaxation(element, of_modes, its_inverse / of_mean)

        def sweep(u: np.ndarray) -> np.ndarray:
            return relax(modes, (growth * u) @ basis) @ inverse

        if given.guess is None:
            z = 0.5 * element.integrate(growth)
            half = 1 + z * (1 + z * (0.5 + z / 6))
            given = replace(given, guess=half * (((half * start) @ basis * of_modes) @ inverse))
        return fixed_point(sweep, given.first_guess(start), given.tolerance), None

    return advance
