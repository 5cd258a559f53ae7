"""Fixtures that several test modules share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import dno
import hyperparameter_config
from tests import bad_inputs, small_search
from tests.cosine_family import LinearWindows
from tests.faults.tiny import SPACES


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small datasets of mackey, one folder for each module."""
    return small_search.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def small_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search spaces whose trials take a second."""
    for model, space in small_search.SMALL_SPACES.items():
        monkeypatch.setitem(hyperparameter_config.SEARCH_SPACES, model, space)


@pytest.fixture
def linear_operator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The model "linear", and one thread: so that a training repeats bit for bit."""
    monkeypatch.setitem(dno.OPERATORS, "linear", LinearWindows)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cosine_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny datasets of the cosine family, one folder for each module."""
    return bad_inputs.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def place(tmp_path: Path, cosine_root: Path, monkeypatch: pytest.MonkeyPatch) -> bad_inputs.Place:
    """Where a bad input is tried: data, results and a model that are fine."""
    for model, space in SPACES.items():
        monkeypatch.setitem(hyperparameter_config.SEARCH_SPACES, model, space)
    monkeypatch.chdir(tmp_path)
    return bad_inputs.make_place(tmp_path, cosine_root)
