"""Delay differential equations with known solutions: closed forms, published values, and an independent solver."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

from data import FAMILIES
from data.families import Family, Parameter
from data.forms import second_derivative
from data.histories import RandomHistory

REFERENCES = Path(__file__).parent / "references"


@dataclass(frozen=True)
class Problem:
    """An equation, a history φ(t) on [−τ, 0], and the solution at `times`, (T, C)."""

    name: str
    family: Family
    history: Callable[[np.ndarray], np.ndarray]
    tau: float
    params: dict[str, float]
    times: np.ndarray
    solution: np.ndarray


def custom(name: str, right_hand_side: Callable, channels: int = 1, **ranges: tuple[float, float]) -> Family:
    """A family of a few lines, without a special form; `ranges` are those of its parameters."""
    return Family(
        name=name,
        equation=name,
        parameters=tuple(Parameter(key, low, high) for key, (low, high) in ranges.items()),
        tau=(0.5, 1.5),
        right_hand_side=right_hand_side,
        history=RandomHistory(is_positive=False, channels=channels),
        horizon=6,
        horizon_unit="delays",
        points_per_delay=16,
        channels=channels,
    )


IKEDA = custom("ikeda", lambda x, xd, _, p: -p["a"] * x + p["b"] * np.sin(xd), a=(0.5, 1.5), b=(1.0, 6.0))
PREDATOR = custom(
    "predator",  # two channels: prey and predator, which lives on the prey of a delay ago
    lambda x, xd, _, p: np.stack(
        [x[..., 0] * (1 - x[..., 0] - p["a"][..., 0] * x[..., 1]), x[..., 1] * (xd[..., 0] - p["d"][..., 0])], axis=-1
    ),
    channels=2,
    a=(0.5, 1.0),
    d=(0.3, 0.6),
)
NEUTRAL_LOGISTIC = custom(
    "neutral_logistic", lambda x, xd, sd, p: p["r"] * x * (1 - xd - p["c"] * sd), r=(0.5, 1.5), c=(0.1, 0.3)
)
LINEAR_WAVES = custom(
    "linear_waves",
    lambda u, ud, _, p: p["D"] * second_derivative(u) + p["a"] * u + p["b"] * ud,
    channels=20,
    D=(0.01, 0.01),
    a=(1.0, 2.0),
    b=(-0.5, -0.5),
)


def piecewise_polynomials(b: float, c: float, history: np.polynomial.Polynomial, count: int) -> list:
    """The solution of x′ = b x(t−1) + c x′(t−1) on [k, k+1] as a polynomial in t − k; `history` is one in t + 1."""
    pieces = [history]
    for _ in range(count):
        last = pieces[-1]
        pieces.append((b * last + c * last.deriv()).integ(k=[last(1.0)]))
    return pieces[1:]


def closed_forms() -> list[Problem]:
    """Problems whose solutions are formulas."""
    linear, x = FAMILIES["neutral"], np.arange(20) / 20
    t = np.arange(1, 101) / 10
    problems = []

    def add(name: str, family: Family, history: Callable, tau: float, params: dict, times: np.ndarray, values) -> None:
        values = np.asarray(values, dtype=float).reshape(len(times), -1)
        problems.append(Problem(name, family, history, tau, params, times, values))

    for name, b, c, coefficients in (
        ("pure delay", -1.0, 0.0, [1.0]),
        ("neutral polynomial, a jump of x' at every integer", -1.0, 0.5, [1.0]),
        ("neutral piecewise linear", 0.0, 0.5, [-1.0, 1.0]),
    ):
        history = np.polynomial.Polynomial(coefficients)
        pieces = piecewise_polynomials(b, c, history, 10)
        values = [pieces[k](time - k) for time in t for k in [int(np.ceil(time)) - 1]]
        add(name, linear, lambda t, phi=history: phi(t + 1), 1.0, {"a": 0.0, "b": b, "c": c}, t, values)
    for tau in (0.4, 1.0, 3.0):
        rate, b, c = -0.3, 0.4, 0.5
        a = rate - (b + c * rate) * np.exp(-rate * tau)
        values = np.exp(rate * t)
        add(f"exponential, tau {tau}", linear, lambda t: np.exp(-0.3 * t), tau, {"a": a, "b": b, "c": c}, t, values)
    w, c = 1.7, 0.4
    b = (c * w * np.cos(w) - w) / np.sin(w)
    a = -b * np.cos(w) - c * w * np.sin(w)
    add("periodic", linear, lambda t: np.cos(1.7 * t), 1.0, {"a": a, "b": b, "c": c}, t, np.cos(w * t))
    quarter = {"a": 0.0, "b": -np.pi / 2, "c": 0.0}
    add("linear centre", linear, lambda t: np.cos(np.pi * t / 2), 1.0, quarter, t, np.cos(np.pi * t / 2))
    r, start, s = 1.8, 0.4, np.arange(1, 41) / 20
    k, u = r * (1 - start), s - 1
    first = start * np.exp(k * s)
    second = start * np.exp(k + r * u - start * np.expm1(k * u) / (1 - start))
    logistic, values = FAMILIES["delayed_logistic"], np.where(s <= 1, first, second)
    add("Hutchinson", logistic, lambda t: np.full(t.shape, 0.4), 1.0, {"r": r, "K": 1.0}, s, values)
    mackey, params = FAMILIES["mackey"], {"beta": 0.2, "gamma": 0.1, "n": 10.0}
    inflow = 0.2 * 1.2 / (1 + 1.2**10) / 0.1
    early = inflow + (1.2 - inflow) * np.exp(-0.1 * 1.7 * t)
    add("Mackey-Glass, first delay", mackey, lambda t: np.full(t.shape, 1.2), 17.0, params, 1.7 * t, early)
    add("Mackey-Glass, equilibrium", mackey, lambda t: np.ones(t.shape), 20.0, params, 5 * t, np.ones(t.shape))
    growth = -0.2 + 0.01 * (4 * np.pi) ** 2 + 0.5 * np.exp(0.2)

    def mode(t: np.ndarray) -> np.ndarray:
        return np.exp(-0.2 * t)[:, None] * np.cos(4 * np.pi * x)

    early = t[:30]  # the uniform mode grows like e^{1.7 t}, from rounding
    add("linear wave", LINEAR_WAVES, mode, 1.0, {"D": 0.01, "a": growth, "b": -0.5}, early, mode(early))
    return problems


def references() -> list[Problem]:
    """Problems solved elsewhere, to 20 digits or by two solvers that agree; `references/solutions.json`."""
    problems = []
    for index, case in enumerate(json.loads((REFERENCES / "solutions.json").read_text())["cases"]):

        def history(t: np.ndarray, case: dict = case) -> np.ndarray:
            s, x, spatial = t / case["tau"], np.arange(20) / 20, case["family"] == "reaction_diffusion"
            values = np.full((len(t), 20) if spatial else len(t), float(case["offset"]))
            for a, w, p, *wave in case["terms"]:
                term = a * np.sin(w * s + p)
                values = values + (term[:, None] * np.cos(2 * np.pi * wave[0] * x + wave[1]) if wave else term)
            return values

        family, times = FAMILIES[case["family"]], np.array(case["times"])
        values = np.array(case["values"], dtype=float).reshape(len(times), -1)
        name = f"{family.name} {index}: {case['source']}"
        problems.append(Problem(name, family, history, case["tau"], case["params"], times, values))
    times = np.array([14.0, 50, 100, 140, 500])
    values = [
        0.87596649067694467,
        0.512203045755468143,
        0.828187747810583913,
        0.773659232433597434,
        1.01044311170014235,
    ]
    params = {"beta": 0.2, "gamma": 0.1, "n": 10.0}
    a1 = Problem("DDETST A1", FAMILIES["mackey"], lambda t: np.full(t.shape, 0.5), 14.0, params, times, values)
    times = np.array([1.0, 2, 5, 10, 20, 40])
    values = [0.507639489652928013, 0.592758480444367429, 0.520443544805502348]
    values += [1.32661100161510239, 0.757960025338984311, 0.804413836197129532]
    params = {"r": np.pi / np.sqrt(3) + 1 / 20, "c": np.sqrt(3) / (2 * np.pi) - 1 / 25}
    e1 = Problem("DDETST E1, neutral", NEUTRAL_LOGISTIC, lambda t: 2 + t, 1.0, params, times, values)
    return problems + [replace(each, solution=np.array(each.solution)[:, None]) for each in (a1, e1)]


def dop853(
    family: Family,
    history: Callable[[np.ndarray], np.ndarray],
    tau: float,
    params: dict[str, float],
    times: np.ndarray,
) -> np.ndarray:
    """The solution (T, C) of a retarded equation by scipy's DOP853, one delay interval after the other."""
    parts, result = [], np.empty((len(times), family.channels))
    arrays = {name: np.array([value]) for name, value in params.items()}

    def delayed(t: float) -> np.ndarray:
        k = len(parts)
        return np.reshape(history(np.array([t - tau])), -1) if k == 0 else parts[-1].sol(t - tau)

    start = np.reshape(history(np.zeros(1)), -1)
    for k in range(int(np.ceil(times.max() / tau))):
        span = (k * tau, (k + 1) * tau)
        scale = {"rtol": 1e-12, "atol": 1e-13, "method": "DOP853", "dense_output": True, "max_step": tau / 10}
        part = solve_ivp(lambda t, x: family.right_hand_side(x, delayed(t), None, arrays), span, start, **scale)
        mine = (times > span[0]) & (times <= span[1])
        if mine.any():
            result[mine] = part.sol(times[mine]).T
        parts.append(part)
        start = part.y[:, -1]
    return result


def relative_error(x: np.ndarray, reference: np.ndarray) -> float:
    """‖x − reference‖/‖reference‖."""
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))
