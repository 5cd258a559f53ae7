"""A journal that was damaged and moved away: the study goes on from its run folders, and no finished trial is lost."""

import json
from pathlib import Path

import pytest

from experiment_tracker import read_runs
from tests.bad_inputs import Place, call
from tests.faults.checks import problems
from tests.test_hyperparameter_search import errors_by_slot

NAME = "method_of_steps_cosine_{}"


def search(place: Place, n_trials: int, *flags: object) -> str:
    answer = call(place.search("--n_trials", n_trials, "--max_epochs", 3, *flags))
    assert answer.code == 0, answer
    return answer.out


def lose_journal(place: Place) -> None:
    (place.results / "studies.journal").rename(place.root / "moved away")


@pytest.mark.parametrize("strategy", ["bayesian", "grid", "promote"])
def test_finished_trials_are_taken_over_and_the_rest_is_as_if_nothing_had_happened(
    place: Place, strategy: str, caplog: pytest.LogCaptureFixture
) -> None:
    n = "--max_combinations" if strategy == "grid" else "--n_trials"
    common = ["--search_type", strategy]
    if strategy == "promote":
        common, strategy = ["--search_type", "bayesian", "--pruner", "promote", "--max_epochs", 9], "bayesian"
    flags = [*common, "--confirm_top", 1, "--confirm_seeds", 1]
    before = search(place, 3, n, 3, *flags)
    folders = {path: path.stat().st_mtime_ns for path in place.results.glob("*/final_results.json")}
    lose_journal(place)
    again = search(place, 3, n, 3, *flags)
    assert "3 finished trials were taken over" in caplog.text and "1 finished trials were taken over" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in place.results.glob("*/final_results.json")} == folders
    table = [text.split("\ntime:")[0] for text in (before, again)]
    assert table[0] == table[1]
    search(place, 4, n, 4, *common)
    for n_trials in (3, 4):
        search(place, n_trials, n, n_trials, *common, "--results_dir", place.root / "whole")
    confirmed = [r.path for r in read_runs(place.results)[0] if r.config.role == "confirmation"]
    assert len(confirmed) == 1
    for path in confirmed:
        path.rename(place.root / path.name)
    assert errors_by_slot(place.results) == errors_by_slot(place.root / "whole")
    assert problems(place.results, NAME.format(strategy), 4) == []


def test_trials_that_were_changed_or_trained_differently_are_not_taken_over(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    search(place, 3)
    lose_journal(place)
    runs = {run.config.slot: run.path for run in read_runs(place.results)[0]}
    with open(runs[1] / "metrics.csv", "a") as file:
        file.write("4,1,,,,,\n")
    (runs[2] / "artifacts" / "best_model.pt").unlink()
    search(place, 3, "--patience", 7)
    assert "taken over" not in caplog.text.replace("is not taken over", "")
    lose_journal(place)
    caplog.clear()
    search(place, 3)
    assert "1 finished trials were taken over" in caplog.text
    assert "metrics.csv: changed since written" in caplog.text
    assert "artifacts/best_model.pt: missing" in caplog.text
    slots = [run.config.slot for run in read_runs(place.results)[0]]
    assert sorted(slots) == [0, 0, 1, 1, 1, 2, 2, 2]


def test_a_study_of_another_name_takes_over_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    search(place, 1)
    search(place, 1, "--study", "another")
    assert "taken over" not in caplog.text
    names = [json.loads(path.read_text())["study"] for path in place.results.glob("*/config.json")]
    assert sorted(names) == ["another", NAME.format("random")]


def test_a_damaged_journal_says_what_to_do(place: Place) -> None:
    search(place, 1)
    journal = place.results / "studies.journal"
    journal.write_bytes(journal.read_bytes().replace(b"\n", b"\n#", 1))
    answer = call(place.search())
    assert answer.code == 2 and "line 2 is no record" in answer.err
    assert "move it away: finished trials are taken over" in answer.err
    lose_journal(place)
    search(place, 1)
    assert len(list(Path(place.results).glob("*/config.json"))) == 1
