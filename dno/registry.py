"""The operators by name: building one, its defaults for a family's traits, and which choices can act on a family."""

import dataclasses
from collections.abc import Mapping

from dno.memory_kernel import MemoryKernel
from dno.method_of_steps import MethodOfSteps
from dno.operator import Operator, OperatorSpec
from dno.spectral import available_modes_t, available_modes_x
from dno.stacked_history import StackedHistory

OPERATORS: dict[str, type[Operator]] = {
    "stacked_history": StackedHistory,
    "method_of_steps": MethodOfSteps,
    "memory_kernel": MemoryKernel,
}
MODELS = tuple(OPERATORS)

POSITIVE_INTEGERS = frozenset(
    {"width", "n_layers", "fourier_modes_t", "fourier_modes_x", "sweeps", "sub_windows", "rows", "n_kernels"}
)


def _operator(name: str) -> type[Operator]:
    if name not in OPERATORS:
        raise ValueError(f"model: expected one of {', '.join(MODELS)}, got {name!r}")
    return OPERATORS[name]


def default_hyperparameters(name: str, spec: OperatorSpec) -> dict[str, object]:
    """Every hyperparameter of the operator with its default for a family of these traits and this grid."""
    operator = _operator(name)
    defaults = dataclasses.asdict(operator.Hyperparameters())
    traits = spec.traits
    # Solutions of positive scalar equations span orders of magnitude; in space, ringing may dip below zero.
    defaults["log_state"] = "positive" in traits and "spatial" not in traits
    if "per_capita" in defaults:
        defaults["per_capita"] = "positive" in traits and not defaults["log_state"]
    defaults["homogeneous"] = "homogeneous" in traits
    defaults |= operator.trait_defaults(spec)
    for axis, available in _available_modes(name, spec).items():
        if axis in defaults:
            defaults[axis] = max(1, min(defaults[axis], available))
    return defaults


def _available_modes(name: str, spec: OperatorSpec) -> dict[str, int]:
    time = spec.points_per_delay + 1 if name == "memory_kernel" else available_modes_t(spec.points_per_delay)
    return {"fourier_modes_t": time, "fourier_modes_x": available_modes_x(spec.n_space)}


def objection(name: str, parameter: str, value: object, spec: OperatorSpec) -> str | None:
    """Why this value of a hyperparameter cannot act on a family of this spec; None where it can."""
    if parameter == "fourier_modes_x" and spec.n_space == 1:
        return "a scalar family has no space axis"
    available = _available_modes(name, spec).get(parameter)
    if available is not None and isinstance(value, int) and value > available:
        return f"the grid carries {available} modes"
    if parameter == "sub_windows" and isinstance(value, int) and value > spec.points_per_delay // 2:
        return f"{spec.points_per_delay} points per delay allow at most {spec.points_per_delay // 2} sub-windows"
    if parameter == "log_state" and value is True and "positive" not in spec.traits:
        return "only a positive family has a logarithm"
    return None


def build_operator(name: str, hyperparameters: Mapping[str, object], spec: OperatorSpec) -> Operator:
    """A fresh operator; hyperparameters that are not given keep their defaults for this family."""
    operator, values = _operator(name), check_hyperparameters(name, hyperparameters, spec)
    built = operator(spec, operator.Hyperparameters(**values))
    built.hyperparameters = values
    return built


def check_hyperparameters(name: str, hyperparameters: Mapping[str, object], spec: OperatorSpec) -> dict[str, object]:
    """These hyperparameters completed by the defaults. Raises ValueError for what the operator does not take."""
    defaults = default_hyperparameters(name, spec)
    unknown = sorted(set(hyperparameters) - set(defaults))
    if unknown:
        raise ValueError(f"{name} has no hyperparameter {unknown[0]!r}; it takes {', '.join(sorted(defaults))}")
    values = defaults | dict(hyperparameters)
    for key, value in values.items():
        _check(name, key, value, defaults[key])
        problem = objection(name, key, value, spec) if key in hyperparameters and key != "fourier_modes_x" else None
        if problem:
            raise ValueError(f"{name}: {key}={value!r} cannot be used: {problem}")
    return values


def _check(name: str, key: str, value: object, default: object) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if key in POSITIVE_INTEGERS and not (whole and value >= 1):
        raise ValueError(f"{name}: {key} must be a positive integer, got {value!r}")
    if key == "dropout" and not (isinstance(value, int | float) and 0 <= value < 1):
        raise ValueError(f"{name}: dropout must lie in [0, 1), got {value!r}")
    if isinstance(default, bool) and not isinstance(value, bool):
        raise ValueError(f"{name}: {key} must be True or False, got {value!r}")
