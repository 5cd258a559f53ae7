"""The W&B run of a study, of a real search that was logged offline."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from offline_runs import OfflineRun, offline_folders, read_offline_run
from optuna.trial import FrozenTrial, TrialState
from run_folders import make_results
from small_search import SMALL, make_data

from report.figures import save_study
from report.loading import load
from search.study_log import course

FIGURES = {"model_comparison", "trajectories", "convergence_analysis", "parameter_importance", "heatmap"}
SECONDS_LATE = 5.0  # the searching process looks every second
STUDY = "method_of_steps_mackey_random"

slow = pytest.mark.slow


def ended(number: int, slot: int, state: TrialState, error: float | None = None, **more: object) -> FrozenTrial:
    """A trial that ended in the minute of its number."""
    metrics = {} if error is None else {"val_rel_error": error, "test_rel_error": 2 * error}
    end = datetime(2026, 1, 1, 12, number)
    return FrozenTrial(
        number=number, trial_id=number, state=state, value=error if state == TrialState.COMPLETE else None,
        datetime_start=end, datetime_complete=end, params={}, distributions={}, system_attrs={}, intermediate_values={},
        user_attrs={"slot": slot, "metrics": metrics} | more,
    )  # fmt: skip


def test_course_has_a_row_for_each_end_and_never_changes() -> None:
    trials = [
        ended(0, 0, TrialState.COMPLETE, 0.3),
        ended(1, 1, TrialState.PRUNED, 0.9),
        ended(2, 2, TrialState.FAIL, end="killed"),  # the slot is tried again
        ended(3, 3, TrialState.FAIL, end="failed"),
        ended(4, 1, TrialState.COMPLETE, 0.2),  # paused before, went on
        ended(5, 2, TrialState.COMPLETE, 0.4),
    ]
    rows = course(trials)
    assert [row["trial"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["search/lowest_val_rel_error"] for row in rows] == [0.3, 0.3, 0.3, 0.2, 0.2]
    assert [row.get("search/test_rel_error") for row in rows] == [0.6, None, None, 0.4, 0.8]
    assert [(row["search/complete"], row["search/pruned"], row["search/failed"]) for row in rows] == [
        (1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 0, 1), (3, 0, 1),
    ]  # fmt: skip
    for n in range(len(trials)):
        assert course(trials[:n]) == rows[: len(course(trials[:n]))]


@dataclass
class Search:
    """Searches of one study that were logged offline."""

    folder: Path

    def run(self, n_trials: int, n_workers: int = 1) -> subprocess.CompletedProcess:
        """The command. Where the study is complete, it logs it once more."""
        flags = [*SMALL, "--search_type", "random", "--n_trials", n_trials, "--wandb_mode", "offline"]
        places = ["--data_root", self.folder / "data", "--results_dir", self.folder / "results"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        script = [sys.executable, Path(__file__).with_name("small_search.py"), *flags, *places]
        script += ["--n_workers", n_workers]
        return subprocess.run([*map(str, script)], capture_output=True, text=True, env=environment, check=False)

    def studies(self) -> list[tuple[Path, OfflineRun]]:
        """The runs of the study, with their folders, oldest first."""
        runs = [(folder, read_offline_run(folder)) for folder in offline_folders(self.folder / "results")]
        return [(folder, run) for folder, run in runs if run.job_type == "study"]

    def ends(self) -> list[float]:
        """When the trials wrote their results, in seconds since 1970."""
        return sorted(path.stat().st_mtime for path in (self.folder / "results").glob("*/final_results.json"))


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """Two trials, one after the other; then the study goes on to four, with two workers."""
    folder = tmp_path_factory.mktemp("study_log")
    make_data(folder / "data")
    searched = Search(folder)
    for n_trials, n_workers in ((2, 1), (4, 2)):
        done = searched.run(n_trials, n_workers)
        assert done.returncode == 0, done.stderr
    return searched


def rows_of(run: OfflineRun) -> list[dict[str, object]]:
    return [row for row in run.history if "trial" in row]


@slow
def test_study_run_is_live_and_goes_on_as_the_same_run(search: Search) -> None:
    (first_folder, first), (second_folder, second) = search.studies()
    assert first_folder.name.rpartition("-")[2] == second_folder.name.rpartition("-")[2]  # the id
    assert [row["trial"] for row in rows_of(first)] == [1, 2] and [row["trial"] for row in rows_of(second)] == [
        1,
        2,
        3,
        4,
    ]
    ends = search.ends()
    assert ends[0] < rows_of(first)[0]["_timestamp"] < ends[1]  # before the next trial ended
    last = next(row["_timestamp"] for row in second.history if "trials" in row)
    for row, end in zip(rows_of(second)[2:], ends[2:], strict=True):
        assert end < row["_timestamp"] < min(end + SECONDS_LATE, last)


@slow
def test_study_run_carries_the_figures_of_the_report(search: Search) -> None:
    folder, run = search.studies()[-1]
    images = {key.removeprefix("report/"): row[key] for row in run.history for key in row if key.startswith("report/")}
    assert set(images) == FIGURES - {"heatmap"}  # four trials are too few for a landscape
    for name, image in images.items():
        assert image["_type"] == "image-file" and image["caption"].endswith(".")
        assert np.std(imread(folder / "files" / image["path"])) > 0.02, name
    assert "method_of_steps" in images["model_comparison"]["caption"]


def test_figures_of_a_study_are_saved_with_their_captions(tmp_path: Path) -> None:
    make_results(tmp_path / "results", models=["memory_kernel"], families=["mackey"], trials=8)
    study = next(iter(load(tmp_path / "results").runs["study"]))
    saved = save_study(tmp_path / "results", study, tmp_path)
    assert set(saved) == FIGURES
    assert all(path.is_file() and caption.endswith(".") for path, caption in saved.values())


def test_figures_that_cannot_be_written_are_named_without_a_traceback(tmp_path: Path, capfd) -> None:
    make_results(tmp_path / "results", models=["memory_kernel"], families=["mackey"], trials=2)
    study = next(iter(load(tmp_path / "results").runs["study"]))
    with pytest.raises(RuntimeError, match="nowhere"):
        save_study(tmp_path / "results", study, tmp_path / "nowhere")
    assert capfd.readouterr().err == ""


@slow
def test_study_run_holds_every_trial_its_course_and_the_best(search: Search) -> None:
    folder, run = search.studies()[-1]
    assert (run.name, run.group, run.tags) == (STUDY, STUDY, ["study", "method_of_steps", "mackey", "random"])
    paths = (search.folder / "results").glob("method_of_steps_*/final_results.json")
    errors = {path.parent.name: json.loads(path.read_text())["metrics"]["val_rel_error"] for path in paths}
    (path,) = (folder / "files" / "media" / "table").glob("trials*.json")
    table = json.loads(path.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4] and {row["status"] for row in rows} == {"complete"}
    assert {row["run_folder"]: row["val_rel_error"] for row in rows} == errors
    assert all(row["learning_rate"] > 0 and row["test_rel_error"] > 0 and row["n_parameters"] > 0 for row in rows)
    lowest = [row["search/lowest_val_rel_error"] for row in rows_of(run)]
    assert lowest == sorted(lowest, reverse=True) and lowest[-1] == min(errors.values())
    assert {row["search/val_rel_error"] for row in rows_of(run)} == set(errors.values())
    assert [row["search/complete"] for row in rows_of(run)] == [1, 2, 3, 4]
    assert run.steps["search/val_rel_error"] == run.steps["search/pruned"] == "trial"
    assert run.summary["best_val_rel_error"] == min(errors.values()) and run.summary["n_complete"] == 4
    assert run.summary["rerun"].endswith(rows[0]["run_folder"])


@slow
def test_drawing_that_fails_costs_one_line_and_the_rest_is_logged(search: Search) -> None:
    for folder in (search.folder / "results").glob("method_of_steps_*"):
        shutil.rmtree(folder)  # nothing is left to draw
    done = search.run(4)
    assert done.returncode == 0
    assert len(re.findall(f"no figures of study {STUDY}", done.stderr)) == 1 and "Traceback" not in done.stderr
    _, again = search.studies()[-1]
    assert again.summary["n_complete"] == 4 and not any(
        key.startswith("report/") for row in again.history for key in row
    )
