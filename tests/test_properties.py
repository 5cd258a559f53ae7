"""What holds of every input, tried on inputs that nobody chose: search spaces, the solver, masks, and readers.

The suite tries a few, the same each time; `DNO_EXAMPLES=1000 python -m pytest tests/test_properties.py` many others.
"""

import ast
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dno
from data import FAMILIES, solve
from dno import metrics
from experiment_tracker import FinalResults, RecordError, RunConfig
from hyperparameter_config import Choice, Range, SearchSpaceError, grid_values, parse_space
from search.sampling import snap
from tests.faults import fuzz
from tests.runs import CONFIG, RESULTS
from tests.test_operators import NEUTRAL, PLAIN, SCALAR, SPATIAL, built

EXAMPLES = int(os.environ.get("DNO_EXAMPLES", "0"))


def few(n: int) -> settings:
    """n examples in the suite, more where the environment asks for them."""
    held_back = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=EXAMPLES or n,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=held_back,
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads wait for each other longer than such small operators compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(10**9), 10**9), FLOATS, st.text(max_size=8))
CHOICES = st.lists(SCALARS, min_size=1, max_size=6, unique_by=lambda value: value)
WHOLE = st.tuples(st.integers(-1000, 1000), st.integers(1, 1000)).map(lambda pair: (pair[0], sum(pair), "int"))
EVEN = st.tuples(FLOATS, FLOATS).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: (*pair, "uniform"))
LOG = st.tuples(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300)).filter(lambda pair: pair[0] < pair[1])
ENTRIES = st.one_of(CHOICES, WHOLE, EVEN, LOG.map(lambda pair: (*pair, "log")))
NAMES = st.text("abcdefgh_", min_size=12, max_size=14)  # long enough to be none of those with rules of their own
ANYTHING = st.recursive(
    st.one_of(SCALARS, st.floats(), st.integers(), st.binary(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(st.text(max_size=4), inner)
    ),
    max_leaves=8,
)


def written(entry: Range | Choice) -> object:
    """The entry as a person writes it."""
    return list(entry.values) if isinstance(entry, Choice) else (entry.low, entry.high, entry.scale)


@few(40)
@given(st.dictionaries(NAMES, ENTRIES, min_size=1, max_size=4))
def test_a_search_space_that_is_parsed_written_and_parsed_again_is_the_same(lines: dict[str, object]) -> None:
    space = parse_space("m", {"m": lines})
    again = ast.literal_eval(repr({name: written(entry) for name, entry in space.items()}))
    assert parse_space("m", {"m": again}) == space
    assert repr(parse_space("m", {"m": again})) == repr(space)  # True is not 1
    for name, entry in space.items():
        values = grid_values(entry, 4)
        if isinstance(entry, Range):
            assert values == sorted(set(values)) and (values[0], values[-1]) == (entry.low, entry.high)
            assert 2 <= len(values) <= 4
        assert snap({name: values[-1]}, {name: entry}) == ({name: values[-1]}, [])
    moved, _ = snap({}, space)
    assert all(
        moved[name] in entry.values if isinstance(entry, Choice) else entry.low <= moved[name] <= entry.high
        for name, entry in space.items()
    )


@few(100)
@given(
    st.one_of(ANYTHING, st.dictionaries(st.one_of(NAMES, st.text(max_size=9), st.sampled_from(["width"])), ANYTHING))
)
def test_anything_as_a_search_space_is_parsed_or_refused_in_one_line(lines: object) -> None:
    try:
        space = parse_space("m", {"m": lines})
    except SearchSpaceError as error:
        assert len(str(error).splitlines()) == 1 and "SEARCH_SPACES" in str(error)
    else:
        assert set(space) == set(lines)


@few(8)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(0, 2**32 - 1))
def test_the_solver_at_two_resolutions_and_on_any_times_gives_the_same(name: str, seed: int) -> None:
    family, random = FAMILIES[name], np.random.default_rng(seed)
    history, tau = family.history.draw(random, is_rough=False), float(random.uniform(*family.tau))
    params = {parameter.name: parameter.draw(random) for parameter in family.parameters}
    times = np.sort(random.uniform(0, 4 * tau, 30))
    x = solve(family, lambda t: history(t / tau), tau, params, times)
    form = family.special_form
    finer = replace(form, meshes=tuple((nodes + 5, 2 * elements) for nodes, elements in form.meshes))
    fine = solve(replace(family, special_form=finer), lambda t: history(t / tau), tau, params, times)
    assert np.linalg.norm(fine - x) <= 1e-9 * np.linalg.norm(x)
    some = np.sort(random.choice(30, 7, replace=False))
    assert np.allclose(
        solve(family, lambda t: history(t / tau), tau, params, times[some]), x[some], rtol=1e-11, atol=1e-13
    )


@few(8)
@given(
    st.sampled_from(dno.MODELS),
    st.sampled_from([SCALAR, NEUTRAL, SPATIAL, PLAIN]),
    st.integers(0, 2**32 - 1),
    st.floats(-1e6, 1e6),
)
def test_what_is_masked_or_beside_changes_no_prediction_and_no_statistic(
    model: str, spec: dno.OperatorSpec, seed: int, garbage: float
) -> None:
    torch.manual_seed(seed)
    operator = built(model, spec)
    size, horizon = 1 + seed % 5, 1 + seed % 37
    history = torch.rand(size, spec.points_per_delay + 1, spec.channels, dtype=torch.float64) + 0.5
    tau, params = torch.rand(size).double() + 0.5, torch.randn(size, len(spec.parameter_names)).double()
    with torch.no_grad():
        together = operator(history, tau, params, horizon + 20)
        alone = operator(history[-1:], tau[-1:], params[-1:], horizon)
    assert torch.allclose(together[-1:, :horizon], alone, rtol=1e-9)

    solution = torch.rand(size, 64, spec.channels, dtype=torch.float64) + 0.5
    mask = torch.arange(64) < torch.randint(20, 65, (size, 1))
    padded = torch.where(mask[..., None], solution, torch.full_like(solution, garbage))
    states = []
    for values in (solution, padded):
        operator.fit_normalisation(history, values, mask, tau, params)
        states.append({name: value.clone() for name, value in operator.named_buffers()})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())

    prediction = torch.rand(size, 64, spec.channels, dtype=torch.float64)
    for error in (metrics.relative_error, metrics.centred_error):
        assert torch.equal(error(prediction, solution, mask), error(prediction, padded, mask))
        assert torch.equal(
            error(prediction, solution, mask), error(torch.where(mask[..., None], prediction, garbage), solution, mask)
        )


EDITS = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "repeat"]), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, place, extra in edits:
        at = int(place * len(content))
        if kind == "flip":
            content = (
                content[:at]
                + bytes(a ^ b for a, b in zip(content[at : at + 8], extra, strict=False))
                + content[at + 8 :]
            )
        elif kind == "cut":
            content = content[:at] + content[at + len(extra) * 8 :]
        elif kind == "insert":
            content = content[:at] + extra + content[at:]
        else:
            content = content[:at] + content[max(0, at - 64) :]
    return content


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """The files that the fuzzers begin with, by reader."""
    found = {}
    for reader in fuzz.READERS:
        folder = tmp_path_factory.mktemp(reader)
        fuzz.seeds(reader, folder)
        found[reader] = [path.read_bytes() for path in sorted(folder.iterdir())]
    return found


@pytest.mark.parametrize("reader", fuzz.READERS)
def test_every_good_file_is_read(reader: str, good_files: dict[str, list[bytes]], tmp_path: Path) -> None:
    for content in good_files[reader]:
        assert fuzz.TARGETS[reader](content, tmp_path)


@few(60)
@given(st.sampled_from(fuzz.READERS), st.integers(0, 9), EDITS, st.booleans())
def test_a_reader_of_edited_files_raises_nothing_but_its_own_error(
    good_files: dict[str, list[bytes]],
    tmp_path: Path,
    reader: str,
    number: int,
    edits: list[tuple[str, float, bytes]],
    is_sealed: bool,
) -> None:
    content = edited(good_files[reader][number % len(good_files[reader])], edits)
    fuzz.TARGETS[reader](fuzz.sealed(content) if is_sealed else content, tmp_path)


@few(60)
@given(st.sampled_from([CONFIG, RESULTS]), st.dictionaries(st.text(max_size=5), ANYTHING, max_size=2), st.data())
def test_a_record_with_any_values_is_read_or_refused_in_one_line(
    record: RunConfig | FinalResults, extra: dict[str, object], data: st.DataObject
) -> None:
    fields = json.loads(record.to_json())
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(fields)), ANYTHING, max_size=2))
    text = json.dumps(fields | changed | extra, default=str)
    try:
        again = type(record).from_json(text)
    except RecordError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert type(record).from_json(again.to_json()) == again or "NaN" in text or "nan" in repr(again)
