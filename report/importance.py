"""parameter_importance: which hyperparameters mattered, by three measures that mislead in different ways."""

import math
from collections.abc import Mapping

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from optuna.importance import FanovaImportanceEvaluator, MeanDecreaseImpurityImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from report import style
from report.loading import PARAMETER
from report.metrics import Metric
from report.studies import is_numeric, quiet
from report.style import Layout
from report.tables import varying_parameters

FEWEST_TRIALS = 5
FEW_TRIALS = 20  # below it all measures are noisy
MOST_SHOWN = 8
MOST_STACKED = 3  # studies whose panels a narrow figure stacks in full; of more, shorter ones lie in pairs
MOST_SHOWN_STACKED = 5
TITLE_WIDTHS = {1: 80, 2: 40, 3: 26}  # letters by columns, so that titles side by side never meet
COLUMNS = ("parameter", "spearman", "mdi", "fanova", "n")


def importance(runs: pd.DataFrame, study: optuna.Study, metric: Metric) -> pd.DataFrame:
    """One row per varied hyperparameter of a rebuilt study, most important first.

    `spearman` is the signed rank correlation with the objective (nan for choices without order). `mdi` shares
    sum to 1; `fanova` shares are those of single hyperparameters and sum to at most 1. `n` counts complete trials; the
    table is empty with fewer than 5 of them, and where their values are all equal. The forests see the logarithm of a
    positive objective, so that one bad trial does not decide alone.
    """
    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    mine = runs[runs["run"].isin([trial.user_attrs["run"] for trial in finished])]
    columns = sorted(varying_parameters(mine))  # Optuna 5.0 labels MDI shares wrongly unless names come sorted
    columns = [column for column in columns if mine[column].notna().all() and _fits_forest(mine[column])]
    are_equal = len({trial.value for trial in finished}) < 2
    if len(finished) < FEWEST_TRIALS or not columns or are_equal:
        return pd.DataFrame(columns=list(COLUMNS))
    names = [column.removeprefix(PARAMETER) for column in columns]
    target = _log_value if all(trial.value > 0 for trial in finished) else _value
    with quiet():
        mdi = MeanDecreaseImpurityImportanceEvaluator(seed=0).evaluate(study, names, target=target)
        fanova = FanovaImportanceEvaluator(seed=0).evaluate(study, names, target=target)
    rows = [
        (name, _spearman(mine[column], mine[metric.ranking]), float(mdi[name]), float(fanova[name]), len(finished))
        for name, column in zip(names, columns, strict=True)
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    order = (table["mdi"] + table["fanova"]).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def draw_importance(
    tables: Mapping[str, pd.DataFrame],
    finished: Mapping[str, int],
    models: Mapping[str, str],
    titles: Mapping[str, str],
    metric: Metric,
    layout: Layout,
) -> Figure:
    """A panel per study: signed rank correlation as bars, the two forests' shares as markers.

    Families are rows and operators columns where every pair has been searched once and the layout has the width.
    """
    known = {study: table for study, table in tables.items() if len(table)}
    tables = known or dict(list(tables.items())[:1])  # what a study lacks is said in a remark
    models = {study: models[study] for study in tables}
    columns, most = _arrangement(models, layout)
    rows = math.ceil(len(tables) / columns)
    tallest = min(max((len(table) for table in tables.values()), default=0), most)
    figure = layout.figure(max(1.3, layout.choose(wide=0.8, narrow=0.66) + 0.15 * tallest) * rows + 0.55)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, (study, table) in zip(panels.flat, tables.items(), strict=False):
        # A narrow panel is shorter than its title, which goes on over the names at its left.
        width = layout.choose(wide=TITLE_WIDTHS[columns], narrow=TITLE_WIDTHS[3])
        title = style.wrapped(f"{titles[study]} (n={finished[study]})", width)
        axes.set_title(title, loc=layout.choose(wide="left", narrow="right"), fontsize=7)
        _panel(axes, table.head(most), finished[study], style.colour(models[study], models.values()))
    for column in layout.choose(wide=panels.T, narrow=panels.T[:0]):  # in a narrow figure the legend says it alone
        lowest = [axes for axes in column if axes.axison and axes.has_data()][-1:]
        for axes in lowest:
            axes.set_xlabel("correlation, share")
    for axes in panels.flat[len(tables) :]:
        axes.set_axis_off()
    side = "right" if metric.higher_is_better else "left"
    handles = [
        Patch(facecolor=style.GREY, alpha=0.6, label=f"rank correlation ({side}: a larger value is better)"),
        Line2D([], [], marker="o", color="black", ls="", ms=3, label="MDI share"),
        Line2D([], [], marker="D", mfc="white", mec="black", ls="", ms=4, label="fANOVA share"),
    ]
    if tallest:
        figure.legend(handles=handles, loc="outside lower center", ncols=layout.choose(wide=3, narrow=1))
    return figure


def _arrangement(models: Mapping[str, str], layout: Layout) -> tuple[int, int]:
    """Panels side by side, and hyperparameters shown in each, for the operators of the studies."""
    n, n_models = len(models), len(set(models.values()))
    if layout.is_narrow:
        return (1, MOST_SHOWN) if n <= MOST_STACKED else (2, MOST_SHOWN_STACKED)
    is_grid = n_models <= 3 and n > n_models and n % n_models == 0
    return n_models if is_grid else min(3, max(1, n)), MOST_SHOWN


def reading(tables: Mapping[str, pd.DataFrame]) -> str:
    """The figure in one sentence."""
    first = pd.Series([table["parameter"].iloc[0] for table in tables.values() if len(table)]).value_counts()
    if first.empty:
        return f"No study has the {FEWEST_TRIALS} complete trials that a measure of importance needs."
    if first.sum() == 1:
        names = first.index[0]
    else:
        names = ", ".join(f"{name} in {n} of {first.sum()} studies" for name, n in list(first.items())[:3])
    most = max(int(table["n"].max()) for table in tables.values() if len(table))
    doubt = f" With {most} trials at most, this is little more than a hint." if most < FEW_TRIALS else ""
    return f"Most important by the mean of MDI and fANOVA: {names}.{doubt}"


def _panel(axes: Axes, table: pd.DataFrame, n: int, colour: str) -> None:
    if table.empty:
        style.say(axes, f"{n} complete, of\n{FEWEST_TRIALS} needed" if n < FEWEST_TRIALS else "nothing varied")
        return
    shown = table.iloc[::-1]
    places = np.arange(len(shown))
    axes.barh(places, shown["spearman"].fillna(0), height=0.62, color=colour, alpha=0.45)
    axes.plot(shown["fanova"], places, "D", mfc="white", mec="black", ms=4, mew=0.7)
    axes.plot(shown["mdi"], places, "o", color="black", ms=2.2)  # within the diamond where both agree
    for place, value in zip(places, shown["spearman"], strict=True):
        if math.isnan(value):
            axes.text(-0.04, place, "no order", ha="right", va="center", fontsize=style.SMALLEST, color=style.GREY)
    axes.set_yticks(places, [style.words(name) for name in shown["parameter"]])
    axes.set(xlim=(-1, 1), ylim=(-0.6, len(shown) - 0.4))
    axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "−.5", "0", ".5", "1"])
    axes.axvline(0, color="black", lw=0.6)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _spearman(values: pd.Series, objective: pd.Series) -> float:
    if not is_numeric(values) or objective.nunique() < 2 or values.nunique() < 2:
        return math.nan
    return float(values.astype(float).rank().corr(objective.astype(float).rank()))


def _fits_forest(values: pd.Series) -> bool:
    """Whether a forest can read them: it works in single precision."""
    return not is_numeric(values) or bool((values.astype(float).abs() < np.finfo(np.float32).max).all())


def _value(trial: FrozenTrial) -> float:
    return trial.value


def _log_value(trial: FrozenTrial) -> float:
    return math.log10(trial.value)
