"""The best configurations trained again with fresh seeds: the winner of many noisy trials is partly luck."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import optuna
from optuna.trial import TrialState

from search.interruption import Interruption
from search.leaderboard import leaderboard_rows
from search.plan import StudyPlan
from search.slots import finished_trials
from search.trials import Bench, open_bench

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


def confirm(
    bench: Bench,
    interruption: Interruption,
    run_slots: Callable[[Bench, Interruption], float],
    studies: list[optuna.Study],
) -> tuple[dict[int, list[tuple[float, float]]], float]:
    """Trains the best `--confirm_top` again; returns (validation, test) errors by slot, and idle seconds of workers.

    Appends to `studies`.
    """
    options, plan = bench.options, bench.plan
    parameters = {t.user_attrs["slot"]: dict(t.params) for t in finished_trials(bench.study)}
    confirmed, idle = {}, 0.0
    for row in leaderboard_rows(bench.study, plan)[: options.confirm_top]:
        again = confirmation_plan(plan, row.slot, parameters[row.slot], options.confirm_seeds)
        again_bench = open_bench(again, options, bench.wandb_settings, bench.data)
        studies.append(again_bench.study)
        idle += run_slots(again_bench, interruption)
        trials = [t for t in finished_trials(again_bench.study, again.n_slots) if t.state == TrialState.COMPLETE]
        metrics = [trial.user_attrs["metrics"] for trial in trials]
        pairs = [(m.get("val_rel_error", math.nan), m.get("test_rel_error", math.nan)) for m in metrics]
        if pairs:
            confirmed[row.slot] = pairs
        if interruption.is_requested:
            break
    return confirmed, idle
