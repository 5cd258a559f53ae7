"""The best configurations trained again with fresh seeds: the winner of many noisy trials is partly luck."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import optuna
from optuna.trial import TrialState

from search.interruption import Interruption
from search.leaderboard import Repetition, leaderboard_rows
from search.plan import StudyPlan
from search.slots import finished_trials
from search.trials import Bench, open_benches

logger = logging.getLogger(__name__)


def confirmation_name(plan: StudyPlan, slot: int) -> str:
    """The study of the trainings with fresh seeds of this slot's configuration."""
    return f"{plan.name}_confirmation_{slot}"


def confirmation_plan(plan: StudyPlan, slot: int, parameters: dict[str, object], n_seeds: int) -> StudyPlan:
    """A study of one configuration, one slot for each seed: it survives kills like any other, and more seeds go on."""
    return replace(
        plan,
        name=confirmation_name(plan, slot),
        parent=plan.name,
        origin=slot,
        cells=(parameters,) * n_seeds,
        n_slots=n_seeds,
        first=(),
    )


def confirm(bench: Bench, interruption: Interruption, run_slots: Callable[[list[Bench], Interruption], float]) -> float:
    """Trains the best `--confirm_top` again, all of them side by side; returns the idle seconds of workers."""
    options, plan = bench.options, bench.plan
    parameters = {t.user_attrs["slot"]: dict(t.params) for t in finished_trials(bench.study)}
    best = leaderboard_rows(bench.study, plan)[: options.confirm_top]
    plans = [confirmation_plan(plan, row.slot, parameters[row.slot], options.confirm_seeds) for row in best]
    return run_slots(open_benches(plans, options, bench.wandb_settings, bench.data), interruption) if plans else 0.0


def confirmations(bench: Bench) -> dict[int, optuna.Study]:
    """By slot, the studies of trainings with fresh seeds: of this search and of earlier ones of the study."""
    storage = bench.study._storage
    slots = [trial.user_attrs["slot"] for trial in finished_trials(bench.study)]
    there = set(optuna.get_all_study_names(storage))
    names = {slot: name for slot in slots if (name := confirmation_name(bench.plan, slot)) in there}
    return {slot: optuna.load_study(study_name=name, storage=storage) for slot, name in names.items()}


def repetitions(studies: Mapping[int, optuna.Study]) -> dict[int, tuple[Repetition, ...]]:
    """The complete trainings with fresh seeds by slot."""
    found = {}
    for slot, study in studies.items():
        complete = [trial for trial in finished_trials(study) if trial.state == TrialState.COMPLETE]
        metrics = [trial.user_attrs["metrics"] for trial in complete]
        if complete:
            found[slot] = tuple(
                Repetition(trial.values[0], m.get("val_rel_error", math.nan), m.get("test_rel_error", math.nan))
                for trial, m in zip(complete, metrics, strict=True)
            )
    return found
