"""Searches with several objectives on the page: as the search's own leaderboard has them."""

import json

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.study import StudyDirection

from advanced_visualizations import main
from report.front import directions
from report.metrics import HIGHER_IS_BETTER, base_name, objective_columns
from report.tables import pareto_front
from search import leaderboard
from search.objectives import OBJECTIVES
from tests.run_folders import hyperparameters, make_run, run_config

ASKED = ["rel_error", "rollout_error", "n_parameters"]
POINTS = [(0.1, 0.3, 9), (0.2, 0.1, 9), (0.2, 0.4, 9), (0.1, 0.3, 9), (0.9, 0.9, 1)]  # the third one is beaten
ON_FRONT = [0, 3, 1, 4]  # best by the first objective first


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The runs' folder and names: a study of three objectives and its confirmation, and one of a single objective."""
    folder, generator, names = tmp_path_factory.mktemp("front") / "results", np.random.default_rng(0), []
    values = hyperparameters(generator, spatial=False)
    again = {"role": "confirmation", "origin": 2, "objectives": ASKED}
    for slot, point in enumerate([*POINTS, (0.0, 0.0, 0)]):
        changes = {"objectives": ASKED} if slot < len(POINTS) else again
        path = make_run(folder, run_config("memory_kernel", "mackey", slot, values, **changes), "complete", generator)
        content = json.loads((path / "final_results.json").read_text())
        columns = ("val_rel_error", "val_rollout_error", "n_parameters")
        content["metrics"] |= dict(zip(columns, point, strict=True))
        (path / "final_results.json").write_text(json.dumps(content))
        names.append(path.name)
    make_run(folder, run_config("memory_kernel", "neutral", 0, values), "complete", generator)
    return folder, names


def test_page_and_summary_name_objectives_and_the_trials_on_the_front(results, tmp_path):
    folder, names = results
    assert main(["--results_dir", str(folder), "--output_dir", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    section = page.partition("<section id=front")[2].partition("</section>")[0]
    assert "memory kernel on mackey: 4 of 5 complete trials on the front" in section and "neutral" not in section
    assert "--objectives rel_error,rollout_error,n_parameters" in section and "<a href='#front'>" in page
    assert directions(objective_columns(",".join(ASKED))) in section
    (plot,) = tmp_path.glob("interactive_pareto_memory_kernel_mackey*.html")
    assert f"href='{plot.name}'" in section
    places = [section.find(f"<td class=''>{name}</td>") for name in names]
    assert [n for n, place in enumerate(places) if place >= 0] == sorted(ON_FRONT)
    assert sorted(ON_FRONT, key=lambda n: places[n]) == ON_FRONT
    studies = json.loads((tmp_path / "visualization_report.json").read_text())["studies"]
    said = {study["family"]: (study["objectives"], study["front"]) for study in studies}
    assert said == {
        "mackey": (["val_rel_error", "val_rollout_error", "n_parameters"], [names[n] for n in ON_FRONT]),
        "neutral": ([], []),
    }


def test_front_is_that_of_the_leaderboard():
    generator, columns = np.random.default_rng(0), ["val_rel_error", "val_valid_time", "n_parameters"]
    for _ in range(20):
        points = pd.DataFrame(generator.integers(0, 5, (30, 3)).astype(float), columns=columns)
        trials = [optuna.create_trial(values=list(point)) for point in points.to_numpy()]
        ways = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
        expected = sorted(tuple(trial.values) for trial in leaderboard.pareto_front(trials, ways))
        assert sorted(map(tuple, pareto_front(points, columns).to_numpy())) == expected
    assert pareto_front(points.assign(n_parameters=np.nan), columns).empty


def test_objectives_are_read_and_directed_as_the_search_does():
    for objective in OBJECTIVES.values():
        assert objective_columns(objective.name) == [objective.key]
        assert (base_name(objective.key) in HIGHER_IS_BETTER) == (objective.direction == "maximize")
    assert directions(["n_parameters", "val_valid_time"]) == (
        "minimises parameters and maximises validation valid time (delays)."
    )
