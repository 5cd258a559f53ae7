"""Random substreams: the same everywhere, and independent of each other."""

import numpy as np
import pytest

from data.randomness import generator

STORED = [107060, 921817, 580612, 253910]


def test_generator_repeats_itself_and_never_changes() -> None:
    first = generator(0, "mackey/train", 7, 1).standard_normal(3)
    assert np.array_equal(first, generator(0, "mackey/train", 7, 1).standard_normal(3))
    # Stored numbers: datasets made from a seed must stay what they were.
    np.testing.assert_array_equal(generator(0, "mackey/train", 0).integers(0, 10**6, 4), STORED)


def test_generator_differs_in_every_argument() -> None:
    keys = [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1), (2**32, "a", 0, 0)]
    keys += [(0, "a", 2**32, 0), (0, "a", 0, 2**32), (2**33, "a", 0, 0)]
    draws = np.stack([generator(*key).standard_normal(2000) for key in keys])
    correlation = np.corrcoef(draws) - np.eye(len(keys))
    assert np.abs(correlation).max() < 0.1  # 4.5 standard deviations of independent draws


@pytest.mark.parametrize("arguments", [(-1, "a", 0), (0, "a", -1), (0, "a", 0, -1), (2**64, "a", 0)])
def test_generator_refuses_numbers_that_no_key_holds(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="expected a whole number from 0"):
        generator(*arguments)
