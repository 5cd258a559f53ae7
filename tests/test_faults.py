"""The quick forms of the fault harness; `python -m tests.faults --help` lists the long ones."""

from pathlib import Path

import pytest

from tests.faults import integrity, kills, tiny


@pytest.mark.slow
def test_search_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    data_root, results = tiny.make_data(tmp_path / "data"), tmp_path / "results"
    results.mkdir()
    report = kills.Episode(3, results, data_root).run(4)
    assert report.problems == []
    assert sum(report.kills.values()) == 4


def test_no_flipped_bit_and_no_cut_is_silently_wrong() -> None:
    for tally in integrity.run(flips=40, cuts=15):
        assert tally.wrong == 0, tally
        assert tally.refused >= 15, tally
