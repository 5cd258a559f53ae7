"""Imports without garbage collection: nothing of before is kept for ever, and the state of before comes back."""

import gc
import weakref

import pytest

from search.environment import uncollected


class Circle:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _thawed():
    yield
    gc.unfreeze()


def test_a_block_is_not_collected_and_what_it_leaves_is_passed_over():
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()
        kept = weakref.ref(Circle())
    assert gc.isenabled()
    gc.collect()
    assert kept() is not None


def test_garbage_between_two_blocks_is_not_kept():
    with uncollected():
        pass
    garbage = weakref.ref(Circle())
    with uncollected():
        pass
    assert garbage() is None
