"""Whether a study has found enough: its target is reached, or its best result has stopped improving."""

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from search.command_line import Options
from search.slots import finished_trials

FLAT = 0.01  # relative gain below which a search counts as flat


def enough(study: optuna.Study, options: Options) -> str | None:
    """Why no further trial is needed, in one line, or None. Judged by the first objective."""
    if options.target_error is None and options.stop_when_flat is None:
        return None
    sign = -1.0 if study.directions[0] == StudyDirection.MAXIMIZE else 1.0
    # In the order in which they ended, so that workers and repeated slots do not matter.
    trials = sorted(finished_trials(study), key=lambda trial: trial.datetime_complete)
    values = [sign * t.values[0] if t.state == TrialState.COMPLETE else float("inf") for t in trials]
    if not values or min(values) == float("inf"):
        return None
    name, best = options.objectives[0], min(values)
    if options.target_error is not None and best <= sign * options.target_error:
        return f"{name} {sign * best:.4g} reaches --target_error {options.target_error:g}"
    flat = options.stop_when_flat
    if flat is not None and len(values) > flat:
        before = min(values[:-flat])
        if before < float("inf") and before - best < FLAT * abs(before):
            return f"the last {flat} trials gained less than {FLAT:.0%} (--stop_when_flat)"
    return None
