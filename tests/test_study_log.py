"""The W&B run of a study, of a real search that was logged offline."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from offline_runs import OfflineRun, offline_folders, read_offline_run
from small_search import SMALL, make_data

FIGURES = {"model_comparison", "trajectories", "convergence_analysis", "parameter_importance", "heatmap"}
STUDY = "method_of_steps_mackey_random"

pytestmark = pytest.mark.slow


@dataclass
class Search:
    """A search of three trials that was logged offline."""

    folder: Path

    def run(self) -> subprocess.CompletedProcess:
        """The command; the second time it finds the study complete, and logs it once more."""
        flags = [*SMALL, "--search_type", "random", "--n_trials", "3", "--wandb_mode", "offline"]
        places = ["--data_root", self.folder / "data", "--results_dir", self.folder / "results"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        script = [sys.executable, Path(__file__).with_name("small_search.py"), *flags, *places]
        return subprocess.run([*map(str, script)], capture_output=True, text=True, env=environment, check=False)

    def studies(self) -> list[tuple[Path, OfflineRun]]:
        """The runs of the study, with their folders, oldest first."""
        runs = [(folder, read_offline_run(folder)) for folder in offline_folders(self.folder / "results")]
        return [(folder, run) for folder, run in runs if run.job_type == "study"]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    folder = tmp_path_factory.mktemp("study_log")
    make_data(folder / "data")
    searched = Search(folder)
    done = searched.run()
    assert done.returncode == 0, done.stderr
    return searched


def test_study_run_carries_the_figures_of_the_report(search: Search) -> None:
    ((folder, run),) = search.studies()
    images = {key.removeprefix("report/"): row[key] for row in run.history for key in row if key.startswith("report/")}
    assert set(images) == FIGURES
    for name, image in images.items():
        assert image["_type"] == "image-file" and image["caption"].endswith(".")
        assert np.std(imread(folder / "files" / image["path"])) > 0.02, name
    assert "method_of_steps" in images["model_comparison"]["caption"]


def test_study_run_holds_every_trial_its_course_and_the_best(search: Search) -> None:
    ((folder, run),) = search.studies()
    assert (run.name, run.group, run.tags) == (STUDY, STUDY, ["study", "method_of_steps", "mackey", "random"])
    paths = (search.folder / "results").glob("method_of_steps_*/final_results.json")
    errors = {path.parent.name: json.loads(path.read_text())["metrics"]["val_rel_error"] for path in paths}
    (path,) = (folder / "files" / "media" / "table").glob("trials*.json")
    table = json.loads(path.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["rank"] for row in rows] == [1, 2, 3] and {row["status"] for row in rows} == {"complete"}
    assert {row["run_folder"]: row["val_rel_error"] for row in rows} == errors
    assert all(row["learning_rate"] > 0 and row["test_rel_error"] > 0 and row["n_parameters"] > 0 for row in rows)
    course = [row["search/lowest_val_rel_error"] for row in run.history if "search/lowest_val_rel_error" in row]
    assert len(course) == 3 and course == sorted(course, reverse=True) and course[-1] == min(errors.values())
    assert run.steps["search/val_rel_error"] == "trial"
    assert run.summary["best_val_rel_error"] == min(errors.values()) and run.summary["n_complete"] == 3
    assert run.summary["rerun"].endswith(rows[0]["run_folder"])


def test_drawing_that_fails_costs_one_line_and_the_rest_is_logged(search: Search) -> None:
    for folder in (search.folder / "results").glob("method_of_steps_*"):
        shutil.rmtree(folder)  # nothing is left to draw
    done = search.run()
    assert done.returncode == 0
    assert len(re.findall(f"no figures of study {STUDY}", done.stderr)) == 1 and "Traceback" not in done.stderr
    _, again = search.studies()[-1]
    assert again.summary["n_complete"] == 3 and not any(
        key.startswith("report/") for row in again.history for key in row
    )
