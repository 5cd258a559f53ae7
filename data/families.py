"""The families: each equation as data. A new one is a definition of a few lines, appended to FAMILIES."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from data import forms
from data.histories import RandomHistory

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Parameter:
    """A parameter of an equation and the range that it is drawn from; `low == high` is a constant."""

    name: str
    low: float
    high: float
    scale: str = "uniform"  # or "log"

    def draw(self, generator: np.random.Generator) -> float:
        """Returns a random value."""
        if self.scale == "log":
            return float(np.exp(generator.uniform(np.log(self.low), np.log(self.high))))
        return float(generator.uniform(self.low, self.high))


@dataclass(frozen=True)
class Family:
    """A delay differential equation x′ = f(x, x(t−τ), x′(t−τ)) with one constant delay, and how it is sampled.

    `right_hand_side(x, x_delayed, slope_delayed, params)` takes arrays (…, C) and params as arrays that broadcast
    against them; `slope_delayed` is x′(t−τ), time in the equation's units. The grid is t = jτ/points_per_delay up to
    `horizon`, in units of time or in delays. `accept(history, solution)` says which of N draws to keep, from their
    values (N, M+1, C) and (N, T, C) over twice the horizon. `scaled(params, tau)` returns (N, Q): the numbers that the
    solution depends on once time is scaled by the delay.
    """

    name: str
    equation: str
    parameters: tuple[Parameter, ...]
    tau: tuple[float, float]
    right_hand_side: Callable[[np.ndarray, np.ndarray, np.ndarray, Values], np.ndarray]
    history: RandomHistory
    horizon: float
    points_per_delay: int
    horizon_unit: str = "time"  # or "delays"
    traits: frozenset[str] = frozenset()  # of "positive", "homogeneous", "neutral", "spatial"
    channels: int = 1
    special_form: forms.Form | None = None
    accept: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    scaled: Callable[[Values, np.ndarray], np.ndarray] | None = None

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the parameters, in the order of the columns of a dataset's `params`."""
        return tuple(parameter.name for parameter in self.parameters)


MACKEY = Family(
    name="mackey",
    equation="x'(t) = beta x(t-tau) / (1 + x(t-tau)^n) - gamma x(t)",
    right_hand_side=lambda x, xd, _, p: p["beta"] * xd / (1 + xd ** p["n"]) - p["gamma"] * x,
    parameters=(Parameter("beta", 0.2, 0.2), Parameter("gamma", 0.1, 0.1), Parameter("n", 10, 10)),
    tau=(12, 24),
    history=RandomHistory(is_positive=True, offset=(0.5, 1.3), amplitude=0.35),
    horizon=240,
    points_per_delay=32,
    traits=frozenset({"positive"}),
    special_form=forms.Form(forms.mackey, meshes=((36, 1), (64, 1))),
    scaled=lambda p, tau: np.stack([tau * p["beta"], tau * p["gamma"], p["n"]], axis=-1),
)

DELAYED_LOGISTIC = Family(
    name="delayed_logistic",
    equation="x'(t) = r x(t) (1 - x(t-tau) / K)",
    right_hand_side=lambda x, xd, _, p: p["r"] * x * (1 - xd / p["K"]),
    parameters=(Parameter("r", 1, 2), Parameter("K", 0.5, 2)),
    tau=(0.8, 1.5),
    history=RandomHistory(is_positive=True, offset=(0.5, 1.3), amplitude=0.35),
    horizon=20,
    points_per_delay=32,
    traits=frozenset({"positive"}),
    special_form=forms.Form(forms.delayed_logistic, meshes=((24, 1), (32, 1)), is_logarithmic=True),
    scaled=lambda p, tau: np.stack([tau * p["r"]], axis=-1),
)

NEUTRAL = Family(
    name="neutral",
    equation="x'(t) = a x(t) + b x(t-tau) + c x'(t-tau)",
    right_hand_side=lambda x, xd, slope_d, p: p["a"] * x + p["b"] * xd + p["c"] * slope_d,
    parameters=(Parameter("a", -0.5, 0.1), Parameter("b", -1, -0.5), Parameter("c", 0.3, 0.8)),
    tau=(0.5, 1.5),
    history=RandomHistory(is_positive=False),
    horizon=10,
    horizon_unit="delays",
    points_per_delay=50,
    traits=frozenset({"homogeneous", "neutral"}),
    special_form=forms.Form(forms.neutral, meshes=((22, 1), (32, 1))),
    accept=lambda history, solution: np.abs(solution).max(axis=(1, 2)) <= 10 * np.abs(history).max(axis=(1, 2)),
    scaled=lambda p, tau: np.stack([tau * p["a"], tau * p["b"], p["c"]], axis=-1),
)

REACTION_DIFFUSION = Family(
    name="reaction_diffusion",
    equation="u_t(x, t) = D u_xx(x, t) + r u(x, t) (1 - u(x, t-tau)), x periodic on [0, 1)",
    right_hand_side=lambda u, ud, _, p: p["D"] * forms.second_derivative(u) + p["r"] * u * (1 - ud),
    parameters=(Parameter("D", 3e-4, 3e-3, "log"), Parameter("r", 1.1, 1.6)),
    tau=(1, 1.6),
    history=RandomHistory(is_positive=True, offset=(0.5, 1.3), amplitude=0.7, channels=20, wave_numbers=3),
    horizon=10,
    horizon_unit="delays",
    points_per_delay=50,
    traits=frozenset({"positive", "spatial"}),
    channels=20,
    special_form=forms.Form(forms.reaction_diffusion, meshes=((14, 2), (18, 2)), iterates=True),
    accept=lambda history, solution: solution.min(axis=(1, 2)) >= -0.05,
    scaled=lambda p, tau: np.stack([tau * p["D"], tau * p["r"]], axis=-1),
)

FAMILIES = {family.name: family for family in (MACKEY, DELAYED_LOGISTIC, NEUTRAL, REACTION_DIFFUSION)}
