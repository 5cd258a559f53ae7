"""What is searched: `SEARCH_SPACES[model][parameter]`, edited by hand, and its checking.

An entry is one of

    (low, high, 'log')       a number between low and high, drawn evenly on a logarithmic scale
    (low, high, 'uniform')   a number between low and high, drawn evenly
    (low, high, 'int')       a whole number from low to high, both included
    [a, b, c]                one of these choices: numbers, strings, True, False or None

One more line here is all it takes to search another hyperparameter; `python hyperparameter_search.py --dry_run` shows
the names that each model takes. Grid, random and Bayesian search all read the same entries.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

SEARCH_SPACES = {
    'stacked_history': {
        'learning_rate': (1e-5, 1e-2, 'log'),
        'batch_size': [16, 32, 64, 128],
        'fourier_modes_x': [4, 6, 8, 16, 32, 64],  # along space; left out on families without space
        'fourier_modes_t': [4, 8, 12, 16, 32, 64],  # along time within one delay
        'width': [32, 64, 128, 256],
        'n_layers': [2, 3, 4, 5, 6],
        'dropout': (0.0, 0.3, 'uniform'),
        'weight_decay': (1e-6, 1e-3, 'log'),
        'rows': [2, 4, 8],  # how many past delay intervals it sees
        'sweeps': [8, 12, 16],  # Picard iterations
        'sub_windows': [1, 2, 4, 8],  # pieces of one delay that are iterated one after the other
    },
    'method_of_steps': {
        'learning_rate': (1e-5, 1e-2, 'log'),
        'batch_size': [16, 32, 64, 128],
        'fourier_modes_x': [4, 6, 8, 16, 32, 64],
        'fourier_modes_t': [4, 8, 12, 16, 32, 64],
        'width': [32, 64, 128, 256],
        'n_layers': [2, 3, 4, 5, 6],
        'dropout': (0.0, 0.3, 'uniform'),
        'weight_decay': (1e-6, 1e-3, 'log'),
        'sweeps': [8, 12, 16],  # Picard iterations
        'sub_windows': [1, 2, 4, 8],  # pieces of one delay that are iterated one after the other
    },
    'memory_kernel': {
        'learning_rate': (1e-5, 1e-2, 'log'),
        'batch_size': [16, 32, 64, 128],
        'fourier_modes_x': [4, 6, 8, 16, 32, 64],
        'fourier_modes_t': [4, 8, 12, 16, 32, 64],  # frequencies of each kernel
        'width': [32, 64, 128, 256],
        'n_layers': [2, 3, 4, 5, 6],
        'dropout': (0.0, 0.3, 'uniform'),
        'weight_decay': (1e-6, 1e-3, 'log'),
        'n_kernels': [4, 8, 16],
    },
}  # fmt: skip

SCALES = ("log", "uniform", "int")
FORMS = "(low, high, 'log' | 'uniform' | 'int') or a list of choices"
COUNTS = frozenset(
    {"batch_size", "width", "n_layers", "fourier_modes_x", "fourier_modes_t"}
    | {"rows", "sweeps", "sub_windows", "n_kernels"}
)  # whole numbers from 1
LARGEST_COUNT = 1_000_000
POSITIVE = frozenset({"learning_rate"})
MOST_WHOLE_NUMBERS = 10_000  # a longer 'int' range is judged by its two ends
NOT_NEGATIVE = frozenset({"weight_decay", "dropout"})

Scalar = bool | int | float | str | None


class SearchSpaceError(ValueError):
    """A line of `SEARCH_SPACES` that cannot be used; the message names it and says how to write it."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included. Whole numbers where `scale` is "int"."""

    low: float
    high: float
    scale: str

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} ({self.scale})"


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Scalar, ...]

    def __str__(self) -> str:
        return f"[{', '.join(repr(value) for value in self.values)}]"


Entry = Range | Choice
Space = dict[str, Entry]


def parse_space(model: str, spaces: Mapping[str, object] | None = None) -> Space:
    """The checked entries of one model, of `SEARCH_SPACES` unless others are given. Raises SearchSpaceError."""
    spaces = SEARCH_SPACES if spaces is None else spaces
    if not isinstance(spaces, Mapping):
        comma = "; remove the trailing comma after its closing brace" if isinstance(spaces, tuple) else ""
        raise SearchSpaceError(f"SEARCH_SPACES: expected a dict of models, got {type(spaces).__name__}{comma}")
    if model not in spaces:
        known = ", ".join(map(repr, spaces))
        raise SearchSpaceError(f"SEARCH_SPACES: has no {model!r}, only {known}; add an entry for it")
    lines = spaces[model]
    if not isinstance(lines, Mapping):
        comma = "; remove the trailing comma after its closing brace" if isinstance(lines, tuple) else ""
        raise SearchSpaceError(
            f"SEARCH_SPACES[{model!r}]: expected a dict {{parameter: entry}}, got {_show(lines)}{comma}"
        )
    if not lines:
        raise SearchSpaceError(
            f"SEARCH_SPACES[{model!r}]: expected at least one parameter, got an empty dict; add a line"
        )
    return {name: _parse_entry(model, name, value) for name, value in lines.items()}


def check_names(model: str, space: Mapping[str, Entry], valid_names: Iterable[str]) -> None:
    """Raises SearchSpaceError for a parameter that nothing takes, with the closest valid name and all of them."""
    valid = sorted(valid_names)
    for name in space:
        if name in valid:
            continue
        close = difflib.get_close_matches(name, valid, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise SearchSpaceError(
            f"SEARCH_SPACES[{model!r}][{name!r}]: {model} has no such hyperparameter; {hint}it takes {', '.join(valid)}"
        )


def restrict(space: Mapping[str, Entry], objection: Callable[[str, object], str | None]) -> tuple[Space, list[str]]:
    """The space without what cannot act, and one line for everything that was taken out.

    `objection(parameter, value)` says why a value cannot be used, or None. A parameter without usable values is left
    out; one with a single usable value keeps it as its only choice.
    """
    restricted, dropped = {}, []
    for name, entry in space.items():
        kept, lines = _restrict_entry(name, entry, objection)
        dropped += lines
        if kept is not None:
            restricted[name] = kept
    return restricted, dropped


def grid_values(entry: Entry, n: int) -> list[Scalar]:
    """All choices, or at most `n` values of a range, evenly spaced on its scale, both ends included (n >= 2)."""
    if isinstance(entry, Choice):
        return list(entry.values)
    if n < 2:
        raise ValueError(f"a range in a grid needs at least 2 values, got {n=}")
    fractions = [i / (n - 1) for i in range(1, n - 1)]
    if entry.scale == "log":
        start, length = math.log(entry.low), math.log(entry.high) - math.log(entry.low)
        inner = [math.exp(start + length * fraction) for fraction in fractions]
    else:
        inner = [entry.low + (entry.high - entry.low) * fraction for fraction in fractions]
    rounded = [round(value) if entry.scale == "int" else float(f"{value:.6g}") for value in inner]
    inside = [value for value in rounded if entry.low < value < entry.high]
    return list(dict.fromkeys([entry.low, *inside, entry.high]))


def size(space: Mapping[str, Entry], n: int) -> int:
    """How many cells the full grid has, with at most `n` values for every range."""
    return math.prod(len(grid_values(entry, n)) for entry in space.values())


def _restrict_entry(
    name: str, entry: Entry, objection: Callable[[str, object], str | None]
) -> tuple[Entry | None, list[str]]:
    if isinstance(entry, Range) and (entry.scale != "int" or entry.high - entry.low > MOST_WHOLE_NUMBERS):
        reasons = [objection(name, entry.low), objection(name, entry.high)]
        if all(reasons):
            return None, [f"{name}: {reasons[0]}"]
        if any(reasons):
            end = "low" if reasons[0] else "high"
            raise SearchSpaceError(
                f"{name}: {end} = {getattr(entry, end):g} cannot be used: {reasons[0] or reasons[1]}"
            )
        return entry, []
    values = list(range(entry.low, entry.high + 1)) if isinstance(entry, Range) else list(entry.values)
    reasons = {value: objection(name, value) for value in values}
    kept = [value for value in values if not reasons[value]]
    if len(kept) == len(values):
        return entry, []
    if not kept:
        return None, [f"{name}: {reasons[values[0]]}"]
    out = [value for value in values if reasons[value]]
    removed = f"{out[0]} to {out[-1]}" if isinstance(entry, Range) else ", ".join(map(repr, out))
    lines = [f"{name}: without {removed}: {reasons[out[0]]}"]
    if len(kept) == 1:
        return Choice((kept[0],)), [f"{lines[0]}; fixed at {kept[0]!r}"]
    if isinstance(entry, Range) and kept == list(range(kept[0], kept[-1] + 1)):
        return Range(kept[0], kept[-1], "int"), lines
    return Choice(tuple(kept)), lines


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)


def _parse_entry(model: str, name: object, raw: object) -> Entry:
    """One line of the search space."""
    if not isinstance(name, str) or not name:
        raise SearchSpaceError(
            f"SEARCH_SPACES[{model!r}][{_show(name)}]: expected a parameter's name in quotes, got {type(name).__name__}"
        )
    where = f"SEARCH_SPACES[{model!r}][{name!r}]"
    if isinstance(raw, list):
        entry = _parse_choices(where, raw)
    elif isinstance(raw, tuple):
        entry = _parse_range(where, raw)
    else:
        fix = f"write [{_show(raw)}] for a fixed value" if isinstance(raw, Scalar) else "write a list"
        raise SearchSpaceError(f"{where}: expected {FORMS}, got {type(raw).__name__} {_show(raw)}; {fix}")
    _check_values(where, name, entry)
    return entry


def _parse_range(where: str, raw: tuple[object, ...]) -> Range:
    if len(raw) == 1:
        inner = _show(raw[0])
        raise SearchSpaceError(
            f"{where}: expected {FORMS}, got the one-element tuple {_show(raw)}; "
            f"remove the trailing comma that made it, and write {inner}"
        )
    if len(raw) != 3:
        fix = (
            f"write ({_show(raw[0])}, {_show(raw[1])}, 'uniform') or 'log'"
            if len(raw) == 2
            else "write a list of choices"
        )
        raise SearchSpaceError(f"{where}: expected (low, high, scale), got {len(raw)} elements {_show(raw)}; {fix}")
    low, high, scale = raw
    if not isinstance(scale, str) or scale not in SCALES:
        close = difflib.get_close_matches(scale, SCALES, n=1) if isinstance(scale, str) else []
        fix = f"write {close[0]!r}" if close else "choices are written in square brackets"
        raise SearchSpaceError(f"{where}: expected the scale 'log', 'uniform' or 'int', got {_show(scale)}; {fix}")
    for end, value in (("low", low), ("high", high)):
        whole = scale == "int"
        if not _is_number(value) or (whole and not isinstance(value, int)):
            kind = "a whole number" if whole else "a finite number"
            hint = "write it without quotes" if isinstance(value, str) else f"write {kind}"
            raise SearchSpaceError(f"{where}: expected {kind} as {end}, got {_show(value)}; {hint}")
    if low >= high:
        fix = f"swap them: ({high!r}, {low!r}, {scale!r})" if low > high else f"write [{low!r}] for a fixed value"
        raise SearchSpaceError(f"{where}: expected low < high, got {low=}, {high=}; {fix}")
    if scale == "log" and low <= 0:
        raise SearchSpaceError(f"{where}: expected low > 0 for a 'log' range, got {low=}; raise it or write 'uniform'")
    return Range(low, high, scale) if scale == "int" else Range(float(low), float(high), scale)


def _parse_choices(where: str, raw: list[object]) -> Choice:
    if not raw:
        raise SearchSpaceError(
            f"{where}: expected at least one choice, got an empty list; delete the line or add a value"
        )
    for value in raw:
        if not isinstance(value, Scalar):
            raise SearchSpaceError(
                f"{where}: expected numbers, strings, True, False or None as choices, got {type(value).__name__} "
                f"{_show(value)}; write one flat list"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise SearchSpaceError(f"{where}: expected finite choices, got {value!r}; remove it")
    for i, value in enumerate(raw):
        if value in raw[:i]:
            raise SearchSpaceError(f"{where}: expected different choices, got {value!r} twice; remove one")
    return Choice(tuple(raw))


def _check_values(where: str, name: str, entry: Entry) -> None:
    """Refuses what no model could be built with: counts below 1, learning rates that are not positive."""
    if isinstance(entry, Range) and name in COUNTS and entry.scale != "int":
        low, high = math.ceil(entry.low), math.floor(entry.high)
        raise SearchSpaceError(
            f"{where}: expected whole numbers, got a {entry.scale!r} range; write ({low}, {high}, 'int')"
        )
    for value in (entry.low, entry.high) if isinstance(entry, Range) else entry.values:
        if name in COUNTS and not (_is_number(value) and isinstance(value, int) and value >= 1):
            raise SearchSpaceError(f"{where}: expected whole numbers from 1, got {value!r}; write 1 or more")
        if name in COUNTS and value > LARGEST_COUNT:
            raise SearchSpaceError(f"{where}: expected at most {LARGEST_COUNT}, got {value!r}; write a smaller one")
        if name in POSITIVE and not (_is_number(value) and value > 0):
            raise SearchSpaceError(f"{where}: expected positive numbers, got {value!r}; write one above 0")
        if name in NOT_NEGATIVE and not (_is_number(value) and value >= 0):
            raise SearchSpaceError(f"{where}: expected numbers from 0, got {value!r}; write 0 or more")
        if name == "dropout" and value >= 1:
            raise SearchSpaceError(f"{where}: expected numbers below 1, got {value!r}; write a share such as 0.1")
