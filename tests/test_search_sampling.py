"""Grid cells, the default configuration, and seeded samplers."""

import math
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import NopPruner
from optuna.trial import TrialState, create_trial

from experiment_tracker import EpochRecord
from hyperparameter_config import Choice, Range, parse_space
from search.reports import Reports
from search.sampling import derived_seed, grid_cells, grid_size, new_configuration, pruner, sampler, snap, suggest
from search.slots import latest_results

SPACE = {
    "learning_rate": Range(1e-5, 1e-2, "log"),
    "width": Choice((32, 64, 128, 256)),
    "n_layers": Range(1, 9, "int"),
    "dropout": Range(0.0, 0.3, "uniform"),
    "schedule": Choice(("one_cycle", "plateau")),
}


def draws(search_type: str, slots: list[int], study: optuna.Study) -> list[dict[str, object]]:
    configurations = []
    for slot in slots:
        study.sampler = sampler(search_type, 7, slot)
        trial = study.ask()
        configurations.append(suggest(trial, SPACE))
        study.tell(trial, configurations[-1]["dropout"])
    return configurations


def test_grid_cells_are_different_and_every_value_occurs_equally_often() -> None:
    cells = grid_cells(SPACE, 48, seed=0)
    assert len({tuple(cell.values()) for cell in cells}) == 48
    for name, n_values in (("learning_rate", 4), ("width", 4), ("n_layers", 4), ("dropout", 4), ("schedule", 2)):
        counts = Counter(cell[name] for cell in cells)
        assert len(counts) == n_values
        assert max(counts.values()) - min(counts.values()) <= 3  # 1, and 2 cells that were drawn before


def test_grid_cells_of_a_larger_limit_begin_with_those_of_a_smaller_one() -> None:
    assert grid_cells(SPACE, 60, seed=3)[:25] == grid_cells(SPACE, 25, seed=3)
    assert grid_cells(SPACE, 25, seed=4) != grid_cells(SPACE, 25, seed=3)


def test_grid_cells_hold_the_whole_grid_when_the_limit_allows() -> None:
    space = {"width": Choice((8, 16, 32)), "dropout": Range(0.0, 0.3, "uniform"), "log_state": Choice((True, False))}
    cells = grid_cells(space, 1000, seed=0)
    assert len(cells) == grid_size(space) == 24
    assert len({tuple(cell.values()) for cell in cells}) == 24
    assert {cell["dropout"] for cell in cells} == {0.0, 0.1, 0.2, 0.3}


def test_grid_cells_of_the_given_spaces_are_fast_and_lie_inside() -> None:
    space = parse_space("method_of_steps")
    for cell in grid_cells(space, 50, seed=0):
        study = optuna.create_study()
        study.enqueue_trial(cell)
        assert suggest(study.ask(), space) == cell  # a value outside would be drawn anew


def test_snap_moves_what_lies_outside_and_says_so() -> None:
    defaults = {"learning_rate": 0.1, "width": 48, "n_layers": 3, "dropout": 0.0, "schedule": "one_cycle", "other": 1}
    snapped, changes = snap(defaults, SPACE)
    assert snapped == {"learning_rate": 0.01, "width": 32, "n_layers": 3, "dropout": 0.0, "schedule": "one_cycle"}
    assert [line.split(":")[0] for line in changes] == ["learning_rate", "width"]


def test_snap_tells_true_from_one() -> None:
    assert snap({"flag": True}, {"flag": Choice((1, 2, True))})[0]["flag"] is True
    assert snap({"flag": 1}, {"flag": Choice((True, False, 1))})[0] == {"flag": 1}


@pytest.mark.parametrize("search_type", ["random", "bayesian"])
def test_sampler_draws_the_same_when_a_study_is_resumed(search_type: str) -> None:
    whole = draws(search_type, list(range(14)), optuna.create_study())
    interrupted = optuna.create_study()
    first = draws(search_type, list(range(8)), interrupted)
    resumed = optuna.create_study()
    resumed.add_trials(interrupted.trials)
    assert first + draws(search_type, list(range(8, 14)), resumed) == whole
    assert len({tuple(configuration.items()) for configuration in whole}) == 14


@pytest.mark.parametrize("kind", ["gp", "cmaes", "random"])
def test_other_samplers_draw_the_same_when_resumed_and_stay_inside(kind: str) -> None:
    space = {"learning_rate": Range(1e-5, 1e-2, "log"), "width": Choice((32, 64)), "dropout": Range(0, 0.3, "uniform")}

    def drawn(slots: range, study: optuna.Study) -> list[dict[str, object]]:
        found = []
        for slot in slots:
            study.sampler = sampler("bayesian", 7, slot, kind)
            trial = study.ask()
            found.append(suggest(trial, space))
            study.tell(trial, abs(found[-1]["dropout"] - 0.1))
        return found

    interrupted = optuna.create_study()
    first = drawn(range(5), interrupted)
    resumed = optuna.create_study()
    resumed.add_trials(interrupted.trials)
    assert first + drawn(range(5, 8), resumed) == drawn(range(8), optuna.create_study())
    assert len({tuple(configuration.values()) for configuration in first}) == 5


def test_a_slot_that_was_tried_again_changes_no_later_draw() -> None:
    space = {"learning_rate": Range(1e-4, 1e-1, "log"), "dropout": Range(0.0, 0.5, "uniform")}
    entries = {"learning_rate": FloatDistribution(1e-4, 1e-1, log=True), "dropout": FloatDistribution(0.0, 0.5)}
    found = []
    for order in ([0, 1, 2, 3, 4, 5], [0, 1, 3, 4, 5, 2]):  # slot 2 was killed at first
        study = optuna.create_study()
        for slot in order:
            params = {"learning_rate": 1e-4 * (slot + 1), "dropout": 0.05 * slot}
            attributes = {"slot": slot}
            study.add_trial(
                create_trial(params=params, distributions=entries, value=abs(slot - 3.3), user_attrs=attributes)
            )
        draw = partial(sampler, "bayesian", 1, 6, "tpe")
        found.append(new_configuration(study, latest_results(study), space, draw))
    assert found[0] == found[1]


def test_workers_keep_away_from_where_others_train_at_the_moment() -> None:
    space, entries = {"dropout": Range(0.0, 1.0, "uniform")}, {"dropout": FloatDistribution(0.0, 1.0)}
    study, best = optuna.create_study(), 2 / 7
    for slot in range(8):
        params, attributes = {"dropout": slot / 7}, {"slot": slot}
        value = abs(slot / 7 - best)
        study.add_trial(create_trial(params=params, distributions=entries, value=value, user_attrs=attributes))

    def near_best() -> int:
        draws = [partial(sampler, "bayesian", seed, 12, "tpe") for seed in range(5)]
        drawn = [new_configuration(study, latest_results(study), space, draw)["dropout"] for draw in draws]
        return sum(abs(value - best) < 0.1 for value in drawn)

    assert near_best() == 5
    for slot in range(8, 12):
        study.enqueue_trial({"dropout": 0.25}, user_attrs={"slot": slot})
        study.ask().suggest_float("dropout", 0.0, 1.0)
    assert near_best() == 0


@pytest.mark.parametrize("search_type", ["random", "bayesian"])
def test_a_discrete_space_is_searched_without_repetition(search_type: str) -> None:
    space = {"width": Choice((8, 16, 32)), "log_state": Choice((True, False)), "n_layers": Range(1, 2, "int")}
    study, seen = optuna.create_study(), []
    for slot in range(13):
        draw = partial(sampler, search_type, 3, slot, "tpe")
        study.enqueue_trial(new_configuration(study, study.trials, space, draw), user_attrs={"slot": slot})
        trial = study.ask()
        seen.append(tuple(suggest(trial, space).values()))
        study.tell(trial, float(len(seen)))
    assert len(set(seen[:12])) == 12  # all cells there are; then one must come again
    assert seen[12] in seen[:12]


def test_a_sampler_that_repeats_itself_is_given_what_is_untried() -> None:
    space, study = {"width": Choice((8, 16, 32)), "n_layers": Range(1, 2, "int")}, optuna.create_study()
    for slot in range(6):
        values = new_configuration(study, study.trials, space, lambda attempt: optuna.samplers.RandomSampler(seed=0))
        study.enqueue_trial(values, user_attrs={"slot": slot})
        trial = study.ask()
        suggest(trial, space)
        study.tell(trial, 1.0)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 6


def test_what_another_worker_is_about_to_train_counts_as_taken() -> None:
    space, study = {"width": Choice((8, 16))}, optuna.create_study()
    study.enqueue_trial({"width": 8}, user_attrs={"slot": 0})
    study.ask()  # running, and has asked for no value yet
    fixed = lambda attempt: optuna.samplers.RandomSampler(seed=attempt)  # noqa: E731
    assert new_configuration(study, [], space, fixed) == {"width": 16}


@pytest.mark.parametrize(("kind", "stops"), [("hyperband", True), ("median", True), ("none", False)])
def test_pruners_stop_the_worst_trials_or_none(kind: str, stops: bool) -> None:
    study, stopped = optuna.create_study(pruner=pruner(90, kind)), 0
    for value in range(40):
        trial = study.ask()
        for epoch in range(1, 90):
            trial.report(float(value), epoch)
            if trial.should_prune():
                stopped += 1
                break
        study.tell(trial, float(value))
    assert (stopped > 10) == stops
    assert stops or stopped == 0


def test_derived_seed_differs_by_purpose_index_and_seed() -> None:
    seeds = {derived_seed(s, p, i) for s in range(10) for p in ("training", "sampler") for i in range(50)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**31


def test_pruner_judges_no_trial_before_ten_epochs() -> None:
    assert isinstance(pruner(10), optuna.pruners.NopPruner)
    study = optuna.create_study(pruner=pruner(90))
    stopped = []
    for value in range(60):
        trial = study.ask()
        for epoch in range(1, 91):
            trial.report(float(value), epoch)
            if trial.should_prune():
                stopped.append(epoch)
                break
        study.tell(trial, state=optuna.trial.TrialState.PRUNED if stopped else None, values=None if stopped else value)
    assert min(stopped) == 10
    assert len(stopped) > 30


def test_every_other_bayesian_trial_changes_one_parameter_of_the_best() -> None:
    space = {"rate": Range(1e-5, 1e-2, "log"), "width": Choice((32, 64, 128)), "layers": Choice((2, 3, 4, 5))}
    study, seen = optuna.create_study(), []
    for slot in range(20):
        trial = study.ask()
        study.sampler = sampler("bayesian", 0, slot)
        best = dict(study.best_trial.params) if slot else {}
        values = suggest(trial, space)
        if slot % 2:
            changed = [name for name in space if values[name] != best[name]]
            assert len(changed) == 1
            for name in set(changed) & {"width", "layers"}:
                choices = space[name].values
                assert abs(choices.index(values[name]) - choices.index(best[name])) == 1
        assert values not in seen
        seen.append(values)
        study.tell(trial, abs(math.log10(values["rate"]) + 3) + values["layers"] / 5 + 32 / values["width"])


def test_a_killed_attempt_is_no_rival_of_the_one_that_goes_on(tmp_path: Path) -> None:
    """Judged as one that was never killed: restored epochs in turn, under the number of the slot."""

    def judged(killed_after: int | None) -> list[bool]:
        study = optuna.create_study(study_name="one", pruner=pruner(90))
        plan = SimpleNamespace(is_reported=lambda: True, max_epochs=90)
        records = [EpochRecord(epoch, 1.0, 0.5 - 0.1 * (epoch == 10)) for epoch in range(1, 41)]

        def attempt() -> Reports:
            study.enqueue_trial({}, user_attrs={"slot": 0})
            return Reports(study.ask(), plan, is_remote=False)

        reports, found = attempt(), []
        for record in records:
            if record.epoch - 1 == killed_after:
                study.tell(reports._trial, state=TrialState.FAIL)
                reports = attempt()
                reports.restore(records[:killed_after])
            found.append(reports.add(record))
        return found

    assert judged(None) == judged(12) == judged(10)


def test_restored_epochs_are_told_at_once_where_nothing_judges_them() -> None:
    study = optuna.create_study(pruner=NopPruner())
    study.enqueue_trial({}, user_attrs={"slot": 0})
    trial, plan = study.ask(), SimpleNamespace(is_reported=lambda: True, max_epochs=90)
    reports = Reports(trial, plan, is_remote=False)
    records = [EpochRecord(epoch, 1.0, 0.5) for epoch in range(1, 4)]
    reports.restore(records[:2])
    assert study.trials[0].intermediate_values == {}
    assert not reports.add(records[2])
    assert study.trials[0].intermediate_values == {1: 0.5, 2: 0.5, 3: 0.5}
