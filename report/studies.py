"""Optuna studies rebuilt in memory from run folders, for Optuna's own plots and importance evaluators."""

import contextlib
import json
import math
from collections.abc import Iterator
from datetime import datetime

import optuna
import pandas as pd
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from report.loading import PARAMETER
from report.metrics import Metric
from report.tables import rerun_command, varying_parameters

LOG_RATIO = 20  # a positive parameter that spans more than this is shown on a logarithmic scale
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna without its progress messages."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def escaped(name: str) -> str:
    """The name without angle brackets: plotly reads titles and legends as markup."""
    return name.replace("<", "‹").replace(">", "›")


def is_numeric(values: pd.Series) -> bool:
    """Whether every value present is a finite number (True and False are choices, not numbers)."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.dropna())


def is_log(values: pd.Series) -> bool:
    """Whether a numeric parameter is shown on a logarithmic scale."""
    if not is_numeric(values):
        return False
    low, high = values.dropna().min(), values.dropna().max()
    return bool(low > 0 and high / low > LOG_RATIO)


def distribution(values: pd.Series) -> BaseDistribution:
    """The smallest Optuna distribution that holds these values."""
    present = values.dropna()
    if not is_numeric(present):
        return CategoricalDistribution(sorted({choice(value) for value in present}, key=str))
    low, high = present.min(), present.max()
    if all(float(value).is_integer() for value in present):
        return IntDistribution(int(low), int(high), log=is_log(present))
    return FloatDistribution(float(low), float(high), log=is_log(present))


def choice(value: object) -> bool | int | float | str | None:
    """A value as Optuna's choices allow it."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def rebuild(runs: pd.DataFrame, epochs: pd.DataFrame, metric: Metric, name: str) -> optuna.Study:
    """The trials of one study as an in-memory Optuna study whose objective is `metric.ranking`.

    Parameters that took one value only are left out; so are confirmations and unfinished runs.
    """
    runs = runs[(runs["study"] == name) & (runs["role"] == "trial") & runs["status"].isin(STATES)]
    parameters = varying_parameters(runs)
    distributions = {column: distribution(runs[column]) for column in parameters}
    by_run = dict(tuple(epochs[epochs["run"].isin(runs["run"])].groupby("run")))
    with quiet():
        study = optuna.create_study(
            direction="maximize" if metric.higher_is_better else "minimize",
            study_name=escaped(name),
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
        for number, (_, run) in enumerate(runs.sort_values(["created", "run"]).iterrows()):
            study.add_trial(_trial(number, run, by_run.get(run["run"]), distributions, metric))
    return study


def _trial(
    number: int,
    run: pd.Series,
    epochs: pd.DataFrame | None,
    distributions: dict[str, BaseDistribution],
    metric: Metric,
) -> FrozenTrial:
    value = run.get(metric.ranking)
    state = STATES[run["status"]]
    if state == TrialState.COMPLETE and (value is None or not math.isfinite(value)):
        state = TrialState.FAIL
    present = {column: choice(run[column]) for column in distributions if _is_present(run[column])}
    present = {
        column: int(v) if isinstance(distributions[column], IntDistribution) else v for column, v in present.items()
    }
    start = _moment(run["created"])
    intermediate = {} if epochs is None else epochs.dropna(subset="val_rel_error").set_index("epoch")["val_rel_error"]
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=float(value) if state == TrialState.COMPLETE else None,
        datetime_start=start,
        datetime_complete=start + pd.Timedelta(seconds=_seconds(run)),
        params={column.removeprefix(PARAMETER): value for column, value in present.items()},
        distributions={column.removeprefix(PARAMETER): distributions[column] for column in present},
        user_attrs={"run": run["run"], "command": rerun_command(run["path"])},
        system_attrs={},
        intermediate_values={int(epoch): float(error) for epoch, error in dict(intermediate).items()},
    )


def _is_present(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _seconds(run: pd.Series) -> float:
    seconds = run["seconds_total"]
    return float(seconds) if math.isfinite(seconds) else 0.0


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return datetime(1970, 1, 1)
