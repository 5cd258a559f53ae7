"""Tables about configurations: repeated runs joined, the best of each operator and family, the slugs of names."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from report.loading import PAUSED, metric_columns, parameter_columns
from report.metrics import COSTS, HIGHER_IS_BETTER, Metric, base_name

CONFIGURATION = ["study", "configuration"]
STATUSES = ("complete", "paused", "pruned", "failed", "interrupted", "unfinished")
COUNTED_ROLES = ("confirmation", "trial")  # the first of which there are runs


def configurations(runs: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """One row per configuration with a complete run: confirmed ones first, each kind best first.

    `ranking`, `value` and every metric are means over its confirmations (fresh seeds) where there are any, else those
    of its trial; `spread` is the standard deviation of `value` (nan for a single one), `n_runs` their count. `run` is
    its own trial where that is there, else the best of the runs counted, by `ranking`. A rerun repeats a seed, so it
    counts where nothing else is left only.
    """
    complete = runs[runs["status"] == "complete"].reindex(columns=_with_metric(runs, metric))
    rows = [_configuration(group, metric) for _, group in complete.groupby(CONFIGURATION, sort=True)]
    if not rows:
        return complete.assign(ranking=[], value=[], spread=[], n_runs=[], confirmed=[])
    return (
        pd.DataFrame(rows)
        .sort_values("ranking", ascending=not metric.higher_is_better, kind="stable", na_position="last")
        .sort_values("confirmed", ascending=False, kind="stable")
        .reset_index(drop=True)
    )


def best_by_operator(table: pd.DataFrame) -> pd.DataFrame:
    """The best row of each (family, model) of `configurations`: among confirmed ones where there are any."""
    if table.empty:
        return table
    picked = []
    for _, group in table.dropna(subset="ranking").groupby(["family", "model"], sort=True):
        confirmed = group[group["confirmed"]]
        picked.append((confirmed if len(confirmed) else group).iloc[0])
    return pd.DataFrame(picked, columns=table.columns).reset_index(drop=True)


def best_by_family(table: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The best row of each family of `configurations`, chosen by `ranking` among the operators' best."""
    operators = best_by_operator(table)
    if operators.empty:
        return operators
    ordered = operators.sort_values("ranking", ascending=not metric.higher_is_better, kind="stable", na_position="last")
    return ordered.groupby("family", sort=True).head(1).sort_values("family").reset_index(drop=True)


def endings(runs: pd.DataFrame) -> pd.Series:
    """How each run ended, one of STATUSES: its status, but `paused` where it was pruned at a rung and may go on."""
    return runs["status"].mask(runs["reason"] == PAUSED, "paused")


def counts(runs: pd.DataFrame) -> pd.DataFrame:
    """Of each (study, model, family): its runs by `endings`; complete confirmations apart, as `confirmed`."""
    keys = ["study", "model", "family"]
    is_again = (runs["role"] == "confirmation") & (runs["status"] == "complete")
    every = runs.groupby(keys).size().index
    trials = runs[~is_again].assign(status=endings(runs)).groupby([*keys, "status"]).size().unstack(fill_value=0)
    table = trials.reindex(index=every, columns=STATUSES, fill_value=0)
    return table.assign(confirmed=runs[is_again].groupby(keys).size().reindex(every, fill_value=0)).reset_index()


def pareto_front(trials: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    """The rows that no other one beats: as good in every objective, better in one. Best by the first one first.

    Rows that lack one of the objectives are left out.
    """
    there = trials.reindex(columns=list(dict.fromkeys([*trials.columns, *objectives])))
    there = there[np.isfinite(there[list(objectives)].astype(float)).all(axis=1)]
    signs = [-1.0 if base_name(name) in HIGHER_IS_BETTER else 1.0 for name in objectives]
    points = there[list(objectives)].to_numpy(dtype=float) * signs
    is_beaten = [((points <= point).all(axis=1) & (points < point).any(axis=1)).any() for point in points]
    front = there[~np.array(is_beaten, dtype=bool)]
    return front.sort_values(objectives[0], ascending=signs[0] > 0, kind="stable")


def varying_parameters(runs: pd.DataFrame) -> list[str]:
    """The `param_…` columns that take at least two values in these runs."""
    return [name for name in parameter_columns(runs) if runs[name].dropna().map(repr).nunique() > 1]


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A file name for every name: letters, digits, `_` and `-`; different names never share one."""
    taken: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:80] or "unnamed"
        slug, n = stem, 2
        while slug.lower() in (other.lower() for other in taken.values()):
            slug, n = f"{stem}-{n}", n + 1
        taken[name] = slug
    return taken


def rerun_command(path: str) -> str:
    """The command that trains this run's configuration again."""
    return f"python hyperparameter_search.py --rerun {_quoted(path)}"


def _quoted(path: str) -> str:
    import shlex

    return shlex.quote(path)


def _with_metric(runs: pd.DataFrame, metric: Metric) -> list[str]:
    return list(dict.fromkeys([*runs.columns, metric.column, metric.ranking]))


def _configuration(group: pd.DataFrame, metric: Metric) -> dict[str, object]:
    confirmations, trials = (group[group["role"] == role] for role in COUNTED_ROLES)
    counted = next((rows for rows in (confirmations, trials) if len(rows)), group)
    named = (trials if len(trials) else counted).sort_values(
        metric.ranking, ascending=not metric.higher_is_better, kind="stable", na_position="last"
    )
    values = counted[metric.column].astype(float)
    row = named.iloc[0].to_dict()
    row |= {name: counted[name].astype(float).mean() for name in metric_columns(group)}
    row["ranking"] = counted[metric.ranking].astype(float).mean()
    row["value"] = values.mean()
    row["spread"] = values.std(ddof=1)
    row["n_runs"] = len(counted)
    row["confirmed"] = bool(len(confirmations)) and metric.column not in COSTS  # which fresh seeds confirm nothing of
    return row
