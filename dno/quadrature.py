"""Matrices that integrate, differentiate and interpolate on equidistant points of one delay interval.

All are exact for polynomials of the given degree and use only points of the same interval, so no stencil ever
crosses a breaking point of the solution.
"""

import numpy as np

DEGREE = 7  # local polynomials on 8 neighbouring points: the error falls like (1/M)**8, below float32 for M >= 32


def interpolation_matrix(n_points: int, at: np.ndarray, degree: int = DEGREE) -> np.ndarray:
    """(len(at), n_points) float64: values at `at`, positions in units of the grid spacing, 0 to n_points - 1."""
    degree = min(degree, n_points - 1)
    at = np.asarray(at, dtype=np.float64)
    start = np.clip(np.floor(at).astype(int) - degree // 2, 0, n_points - 1 - degree)
    matrix = np.zeros((len(at), n_points))
    for i in range(degree + 1):
        weight = np.ones(len(at))
        for j in range(degree + 1):
            if j != i:
                weight *= (at - start - j) / (i - j)
        matrix[np.arange(len(at)), start + i] += weight
    return matrix


def integration_matrix(n_points: int, spacing: float, degree: int = DEGREE) -> np.ndarray:
    """(n_points, n_points) float64: (I f)_j is the integral of f from the first point to point j.

    Each cell is integrated by Gauss–Legendre nodes of the local interpolant, which is exact for its degree.
    """
    nodes, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    at = np.arange(n_points - 1)[:, None] + (nodes + 1) / 2
    cells = np.zeros((n_points, n_points))
    cells[1:] = weights / 2 @ interpolation_matrix(n_points, at.ravel(), degree).reshape(*at.shape, n_points)
    return spacing * np.cumsum(cells, axis=0)


def extrapolation_matrix(n_points: int, n_beyond: int, degree: int = 4) -> np.ndarray:
    """(n_beyond, n_points) float64: what a function gains from its last point on, there and at the points that follow.

    By the polynomial of least squares: a first guess for an iteration.
    """
    degree = min(degree, n_points - 1)
    known = np.vander(np.arange(1 - n_points, 1) / n_points, degree + 1)
    wanted = np.vander(np.arange(n_beyond) / n_points, degree + 1)
    matrix = wanted @ np.linalg.pinv(known)
    return matrix - matrix[0]


def differentiation_matrix(n_points: int, spacing: float, at: np.ndarray, degree: int = DEGREE) -> np.ndarray:
    """(len(at), n_points) float64: the derivative at positions `at` (units of the spacing, as above)."""
    degree = min(degree, n_points - 1)
    at = np.asarray(at, dtype=np.float64)
    start = np.clip(np.floor(at).astype(int) - degree // 2, 0, n_points - 1 - degree)
    matrix = np.zeros((len(at), n_points))
    for i in range(degree + 1):
        slope = np.zeros(len(at))
        for m in range(degree + 1):
            if m == i:
                continue
            term = np.full(len(at), 1.0 / (i - m))
            for j in range(degree + 1):
                if j not in (i, m):
                    term *= (at - start - j) / (i - j)
            slope += term
        matrix[np.arange(len(at)), start + i] += slope / spacing
    return matrix
