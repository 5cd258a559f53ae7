"""The search space: the seed's ranges are all there, and every malformed line is refused in one line that says why."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from hyperparameter_config import (
    SEARCH_SPACES,
    Choice,
    Range,
    SearchSpaceError,
    check_names,
    grid_values,
    parse_space,
    restrict,
    size,
)

SEED_SPACE = {
    "learning_rate": Range(1e-5, 1e-2, "log"),
    "batch_size": Choice((16, 32, 64, 128)),
    "fourier_modes_x": Choice((4, 6, 8, 16, 32, 64)),
    "fourier_modes_t": Choice((4, 8, 12, 16, 32, 64)),
    "width": Choice((32, 64, 128, 256)),
    "n_layers": Choice((2, 3, 4, 5, 6)),
    "dropout": Range(0.0, 0.3, "uniform"),
    "weight_decay": Range(1e-6, 1e-3, "log"),
}


def parse_one(entry: object, name: object = "width") -> Range | Choice:
    return parse_space("m", {"m": {name: entry}})[name]


@pytest.mark.parametrize("model", ["stacked_history", "method_of_steps", "memory_kernel"])
def test_search_spaces_hold_the_documented_ranges_for_every_model(model: str) -> None:
    space = parse_space(model)
    assert {name: space[name] for name in SEED_SPACE} == SEED_SPACE
    assert set(space) - set(SEED_SPACE), "each model adds something of its own"


@pytest.mark.parametrize("model", SEARCH_SPACES)
def test_search_spaces_hold_only_names_that_the_model_takes(model: str) -> None:
    from model_trainer import hyperparameter_names

    check_names(model, parse_space(model), hyperparameter_names(model))


def test_importing_needs_the_standard_library_alone() -> None:
    code = "import sys, hyperparameter_config; print(*{m.split('.')[0] for m in sys.modules} - sys.stdlib_module_names)"
    root = Path(__file__).parent.parent
    loaded = subprocess.run([sys.executable, "-S", "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert set(loaded.stdout.split()) <= {"hyperparameter_config", "__main__"}


@pytest.mark.parametrize(
    ("entry", "parsed"),
    [
        ((1, 10, "uniform"), Range(1.0, 10.0, "uniform")),
        ((1e-3, 1, "log"), Range(1e-3, 1.0, "log")),
        ((-2, 2, "int"), Range(-2, 2, "int")),
        (["a", None, True, 0.5], Choice(("a", None, True, 0.5))),
        ([8], Choice((8,))),
    ],
)
def test_parse_space_reads_the_four_forms(entry: object, parsed: object) -> None:
    result = parse_one(entry, "anything")
    assert result == parsed
    if isinstance(parsed, Range):
        assert type(result.low) is type(parsed.low)


@pytest.mark.parametrize(
    ("name", "entry", "fragments"),
    [
        ("p", (1,), ["one-element tuple", "trailing comma"]),
        ("p", ([16, 32],), ["one-element tuple", "trailing comma", "[16, 32]"]),
        ("p", ((0.1, 1, "log"),), ["trailing comma", "(0.1, 1, 'log')"]),
        ("p", (1e-5, 1e-2), ["2 elements", "(1e-05, 0.01, 'uniform')"]),
        ("p", (1, 2, 3, 4), ["4 elements", "list of choices"]),
        ("p", (), ["0 elements"]),
        ("p", (1, 2, "Log"), ["'Log'", "write 'log'"]),
        ("p", (1, 2, "logarithmic"), ["'logarithmic'", "expected the scale 'log', 'uniform' or 'int'"]),
        ("p", ("relu", "gelu", "tanh"), ["'tanh'", "square brackets"]),
        ("p", (1, 2, 3), ["expected the scale", "square brackets"]),
        ("p", (2, 1, "uniform"), ["low < high", "low=2, high=1", "(1, 2, 'uniform')"]),
        ("p", (1, 1, "uniform"), ["low < high", "[1]"]),
        ("p", (0, 1, "log"), ["low > 0", "low=0", "'uniform'"]),
        ("p", (-1.0, 1, "log"), ["low > 0"]),
        ("p", ("1e-5", 1e-2, "log"), ["finite number as low", "'1e-5'", "quotes"]),
        ("p", (False, 1, "uniform"), ["finite number as low", "False"]),
        ("p", (0, math.inf, "uniform"), ["finite number as high", "inf"]),
        ("p", (math.nan, 1, "uniform"), ["finite number as low", "nan"]),
        ("p", (0, None, "uniform"), ["finite number as high", "None"]),
        ("p", (1, 10**400, "int"), ["as high"]),
        ("p", (1.0, 4, "int"), ["whole number as low", "1.0"]),
        ("p", (1, 4.5, "int"), ["whole number as high", "4.5"]),
        ("p", [], ["at least one choice"]),
        ("p", [1, 2, 1], ["1 twice"]),
        ("p", [1, True], ["different choices"]),
        ("p", [[1, 2]], ["list [1, 2]", "flat list"]),
        ("p", [(1, 2, "log")], ["tuple", "flat list"]),
        ("p", [math.nan], ["finite choices", "nan"]),
        ("p", [-math.inf], ["finite choices"]),
        ("p", 8, ["got int 8", "[8]"]),
        ("p", "relu", ["got str 'relu'", "['relu']"]),
        ("p", {1, 2}, ["got set", "write a list"]),
        ("p", {"low": 1}, ["got dict"]),
        ("p", range(3), ["got range"]),
        (3, [1], ["[3]", "name in quotes"]),
        ("", [1], ["name in quotes"]),
        ("width", [-32], ["whole numbers from 1", "-32"]),
        ("width", [0, 32], ["whole numbers from 1", "got 0"]),
        ("width", [32.0], ["whole numbers from 1", "32.0"]),
        ("width", ["32"], ["whole numbers from 1", "'32'"]),
        ("width", [True], ["whole numbers from 1", "True"]),
        ("width", (32, 256, "uniform"), ["(32, 256, 'int')"]),
        ("batch_size", [0], ["whole numbers from 1"]),
        ("n_layers", (0, 4, "int"), ["whole numbers from 1", "got 0"]),
        ("fourier_modes_t", [-4], ["whole numbers from 1"]),
        ("fourier_modes_x", [0], ["whole numbers from 1"]),
        ("learning_rate", [0.0], ["positive"]),
        ("learning_rate", (-1e-3, 1e-2, "uniform"), ["positive", "-0.001"]),
        ("learning_rate", ["fast"], ["positive", "'fast'"]),
        ("weight_decay", [-1e-4], ["from 0"]),
        ("dropout", (0, 1, "uniform"), ["below 1"]),
        ("dropout", [None], ["from 0", "None"]),
    ],
)
def test_parse_space_refuses_malformed_entries_in_one_line(name: object, entry: object, fragments: list[str]) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        parse_one(entry, name)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    assert message.startswith(f"SEARCH_SPACES['m'][{name!r}]: expected")
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(
    ("spaces", "fragment"),
    [
        ({"other": {}}, "has no 'm', only 'other'"),
        ({"m": {}}, "at least one parameter"),
        ({"m": ({"p": [1]},)}, "trailing comma"),
        ({"m": [1]}, "expected a dict"),
        (({"m": {"p": [1]}},), "trailing comma"),
    ],
)
def test_parse_space_refuses_spaces_that_hold_no_parameters(spaces: object, fragment: str) -> None:
    with pytest.raises(SearchSpaceError, match=r"^SEARCH_SPACES.*: .*" + fragment):
        parse_space("m", spaces)


def test_parse_space_follows_an_edited_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEARCH_SPACES["memory_kernel"], "new_param", (0.5, 2.0, "uniform"))
    assert parse_space("memory_kernel")["new_param"] == Range(0.5, 2.0, "uniform")


def test_check_names_suggests_the_closest_name_and_lists_all() -> None:
    valid = {"width", "dropout", "learning_rate"}
    check_names("m", {"width": Choice((1,))}, valid)
    with pytest.raises(SearchSpaceError) as caught:
        check_names("m", {"widht": Choice((1,))}, valid)
    assert "SEARCH_SPACES['m']['widht']" in str(caught.value)
    assert "did you mean 'width'?" in str(caught.value)
    assert "dropout, learning_rate, width" in str(caught.value)
    with pytest.raises(SearchSpaceError) as caught:
        check_names("m", {"zzz": Choice((1,))}, valid)
    assert "did you mean" not in str(caught.value)


def above(limit: int, reason: str) -> object:
    return lambda name, value: reason if name == "modes" and value > limit else None


def test_restrict_removes_choices_one_by_one_with_their_reason() -> None:
    space = {"modes": Choice((4, 8, 16, 32)), "width": Choice((64, 128))}
    kept, dropped = restrict(space, above(8, "the grid carries 8 modes"))
    assert kept == {"modes": Choice((4, 8)), "width": Choice((64, 128))}
    assert dropped == ["modes: without 16, 32: the grid carries 8 modes"]


def test_restrict_fixes_an_entry_with_one_choice_left() -> None:
    kept, dropped = restrict({"modes": Choice((4, 8))}, above(4, "too many"))
    assert kept == {"modes": Choice((4,))}
    assert dropped == ["modes: without 8: too many; fixed at 4"]


@pytest.mark.parametrize("entry", [Choice((4, 8)), Range(1, 5, "int"), Range(0.5, 2.0, "log"), Range(1, 10**12, "int")])
def test_restrict_drops_an_entry_that_cannot_act(entry: Range | Choice) -> None:
    assert restrict({"modes": entry}, lambda name, value: "no space axis") == ({}, ["modes: no space axis"])


def test_restrict_shortens_whole_number_ranges() -> None:
    kept, dropped = restrict({"modes": Range(1, 10, "int")}, above(6, "too many"))
    assert kept == {"modes": Range(1, 6, "int")}
    assert dropped == ["modes: without 7 to 10: too many"]
    holes = restrict({"modes": Range(1, 4, "int")}, lambda name, value: "odd" if value in (2,) else None)
    assert holes[0] == {"modes": Choice((1, 3, 4))}


def test_restrict_keeps_what_nothing_speaks_against() -> None:
    space = parse_space("method_of_steps")
    assert restrict(space, lambda name, value: None) == (space, [])


def test_restrict_refuses_a_range_of_which_one_end_cannot_act() -> None:
    with pytest.raises(SearchSpaceError, match="modes: high = 10 cannot be used: too many"):
        restrict({"modes": Range(1.0, 10.0, "uniform")}, above(6, "too many"))


def test_grid_values_are_even_on_the_scale_and_hold_both_ends() -> None:
    assert grid_values(Range(1e-5, 1e-2, "log"), 4) == [1e-5, 1e-4, 1e-3, 1e-2]
    assert grid_values(Range(0.0, 0.3, "uniform"), 4) == [0.0, 0.1, 0.2, 0.3]
    assert grid_values(Range(2, 4, "int"), 5) == [2, 3, 4]
    assert grid_values(Choice((3, 1)), 2) == [3, 1]
    assert grid_values(Range(1e-300, 1e300, "log"), 3) == [1e-300, pytest.approx(1.0, rel=1e-10), 1e300]
    close = Range(1.0, 1.0 + 1e-9, "uniform")
    assert all(close.low <= value <= close.high for value in grid_values(close, 5))
    with pytest.raises(ValueError, match="at least 2"):
        grid_values(close, 1)


def test_size_counts_the_cells_of_the_grid() -> None:
    space = {"a": Choice((1, 2, 3)), "b": Range(0.0, 1.0, "uniform"), "c": Range(1, 2, "int")}
    assert size(space, 4) == 3 * 4 * 2
    assert size({}, 4) == 1


def test_entries_read_well_in_a_listing() -> None:
    assert str(Range(1e-5, 1e-2, "log")) == "1e-05 to 0.01 (log)"
    assert str(Choice((1, "a"))) == "[1, 'a']"
