"""Polynomials on elements of the unit interval: Chebyshev–Lobatto nodes, integrals, derivatives, tails.

Functions of a delay interval are stored by their values at n nodes of each of E elements, (E, n, …).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np

TAIL_LENGTH = 4


@cache
def nodes(n: int) -> np.ndarray:
    """Returns the n Chebyshev–Lobatto points of [0, 1], ascending, both ends included."""
    return np.sin(0.5 * np.pi * np.arange(n) / (n - 1)) ** 2


@cache
def coefficient_matrix(n: int) -> np.ndarray:
    """Returns the (n, n) matrix that takes values at the nodes to Chebyshev coefficients, lowest degree first."""
    vandermonde = np.cos(np.pi * np.outer(np.arange(n), np.arange(n)[::-1]) / (n - 1))  # (degree, node)
    ends = np.ones(n)
    ends[[0, -1]] = 0.5
    return 2 / (n - 1) * ends[:, None] * vandermonde * ends


@cache
def integration_matrix(n: int) -> np.ndarray:
    """Returns I, (n, n), with (I f)(ξ) = ∫₀^ξ f over [0, 1]: exact for polynomials of degree n − 1."""
    degrees = np.arange(n + 1)
    angles = np.pi * np.arange(n)[::-1] / (n - 1)
    chebyshev = np.cos(np.outer(angles, degrees))  # T_k at the nodes
    primitive = np.zeros((n, n))  # of T_k on [−1, 1], zero at −1
    for k in range(n):
        if k == 0:
            column = chebyshev[:, 1]
        elif k == 1:
            column = chebyshev[:, 2] / 4
        else:
            column = chebyshev[:, k + 1] / (2 * (k + 1)) - chebyshev[:, k - 1] / (2 * (k - 1))
        primitive[:, k] = column - column[0]
    return 0.5 * primitive @ coefficient_matrix(n)


@cache
def differentiation_matrix(n: int) -> np.ndarray:
    """Returns the (n, n) matrix of the derivative over [0, 1]."""
    x, weights = nodes(n), _barycentric_weights(n)
    difference = x[:, None] - x + np.eye(n)
    matrix = weights / weights[:, None] / difference
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, -matrix.sum(axis=1))  # constants have the derivative zero, to the last bit
    return matrix


def _barycentric_weights(n: int) -> np.ndarray:
    weights = (-1.0) ** np.arange(n)
    weights[[0, -1]] *= 0.5
    return weights


def interpolation_matrix(n: int, places: np.ndarray) -> np.ndarray:
    """Returns the (len(places), n) matrix that evaluates a polynomial at places in [0, 1] (barycentric formula)."""
    difference = np.asarray(places)[:, None] - nodes(n)
    hits = difference == 0
    difference[hits] = 1
    terms = _barycentric_weights(n) / difference
    terms[hits.any(axis=1)] = 0
    terms[hits] = 1
    return terms / terms.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Element:
    """One piece [left, left + length] of a delay interval; arrays over its nodes are (n, B, C), time in delays."""

    left: float
    length: float
    n: int

    @property
    def places(self) -> np.ndarray:
        """The nodes within the delay interval, (n,)."""
        return self.left + self.length * nodes(self.n)

    @property
    def elapsed(self) -> np.ndarray:
        """Time since the left end of the element, (n, 1, 1)."""
        return (self.length * nodes(self.n))[:, None, None]

    @cached_property
    def _integration(self) -> np.ndarray:
        return self.length * integration_matrix(self.n)

    def integrate(self, values: np.ndarray) -> np.ndarray:
        """Returns the integral from the left end to every node."""
        return _apply(self._integration, values)

    def differentiate(self, values: np.ndarray) -> np.ndarray:
        """Returns the derivative at every node."""
        return _apply(differentiation_matrix(self.n) / self.length, values)


def _apply(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    return (matrix @ values.reshape(len(values), -1)).reshape(len(matrix), *values.shape[1:])


@dataclass(frozen=True)
class Mesh:
    """Elements between `edges`, which rise from 0 to 1, with n nodes each; every delay interval carries the same."""

    edges: tuple[float, ...]
    n: int

    @classmethod
    def uniform(cls, n: int, n_elements: int) -> "Mesh":
        """Returns elements of equal length."""
        return cls(tuple(np.linspace(0, 1, n_elements + 1)), n)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __iter__(self) -> Iterator[Element]:
        for left, right in zip(self.edges, self.edges[1:], strict=False):
            yield Element(left, right - left, self.n)

    @property
    def lengths(self) -> np.ndarray:
        """The lengths of the elements, (E,)."""
        return np.diff(self.edges)

    @property
    def places(self) -> np.ndarray:
        """All nodes within the delay interval, (E · n,)."""
        return np.concatenate([element.places for element in self])

    def last_coefficients(self, values: np.ndarray) -> np.ndarray:
        """Returns the last Chebyshev coefficients of each element, (…, TAIL_LENGTH, B, C), from (…, n, B, C)."""
        flat = values.reshape(*values.shape[:-2], -1)
        return (coefficient_matrix(self.n)[-TAIL_LENGTH:] @ flat).reshape(*values.shape[:-3], -1, *values.shape[-2:])

    def sampling_matrix(self, places: np.ndarray) -> np.ndarray:
        """Returns the (len(places), E · n) matrix that evaluates values at the nodes at places in [0, 1]."""
        return _sampling_matrix(self, tuple(np.asarray(places, dtype=float).tolist()))

    def split(self, is_split: np.ndarray) -> "Mesh":
        """Returns the mesh with the elements where `is_split` (E,) cut in two."""
        middles = [0.5 * (a + b) for a, b, cut in zip(self.edges, self.edges[1:], is_split, strict=False) if cut]
        return Mesh(tuple(sorted({*self.edges, *middles})), self.n)


@lru_cache(maxsize=256)
def _sampling_matrix(mesh: Mesh, places: tuple[float, ...]) -> np.ndarray:
    places = np.array(places)
    owner = np.clip(np.searchsorted(mesh.edges, places) - 1, 0, len(mesh) - 1)
    matrix = np.zeros((len(places), len(mesh), mesh.n))
    for index in np.unique(owner):
        mine = owner == index
        local = (places[mine] - mesh.edges[index]) / mesh.lengths[index]
        matrix[mine, index] = interpolation_matrix(mesh.n, local)
    return matrix.reshape(len(places), len(mesh) * mesh.n)
