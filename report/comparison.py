"""model_comparison: errors and costs of every complete trial, side by side over families and operators."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from report import style
from report.metrics import Metric, label
from report.tables import best_by_family, best_by_operator

PANELS = ("rollout_error", "stability_score", "train_seconds")
FRONTS = ("-", "--", ":", "-.")
FEWEST_TRIALS = 5  # that make a box
SLIMMEST = 0.12  # of the axis
MOST_FRONTS = 8  # named in the legend
BACKED = {"frameon": True, "facecolor": "white", "edgecolor": "none", "framealpha": 0.85}
BOX_WIDTH = 0.8  # of the place that a family takes


def comparison_table(runs: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The complete trials in long form: run, family, model, measure, value; finite values only."""
    trials = runs[(runs["status"] == "complete") & (runs["role"] == "trial")]
    measures = list(dict.fromkeys([metric.column, *PANELS, "n_parameters"]))
    long = trials.reindex(columns=["run", "family", "model", *measures]).melt(
        id_vars=["run", "family", "model"], var_name="measure", value_name="value"
    )
    return long[np.isfinite(long["value"].astype(float))].reset_index(drop=True)


def draw_comparison(table: pd.DataFrame, best: pd.DataFrame, metric: Metric) -> Figure:
    """Boxes with every trial as a point; a star marks the best of each operator and family (`best_by_operator`)."""
    figure = style.new_figure(style.WIDE, 6.6)
    panels = figure.subplot_mosaic([["main", "main"], ["a", "b"], ["c", "pareto"]], height_ratios=[1.25, 1, 1])
    families = sorted(table["family"].unique())
    models = style.model_order(table["model"])
    for name, measure in zip(("main", "a", "b", "c"), (metric.column, *PANELS), strict=True):
        _boxes(panels[name], table[table["measure"] == measure], families, models, measure)
        _stars(panels[name], best, families, models, "value" if measure == metric.column else measure)
    _cost_accuracy(panels["pareto"], table, metric, models)
    handles = [
        Line2D([], [], marker=style.marker(m, models), color=style.colour(m, models), ls="", ms=4, label=style.words(m))
        for m in models
    ]
    handles.append(
        Line2D([], [], marker="*", mfc="white", mec="black", ls="", ms=8, label="best, chosen by validation")
    )
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4))
    return figure


def reading(table: pd.DataFrame, metric: Metric) -> str:
    """The figure in one sentence, from the table of `configurations`."""
    winners = best_by_family(table, metric)
    if winners.empty:
        return "No trial is complete yet, so there is nothing to compare."
    parts = [f"{row.model} on {row.family} ({row.value:.2g})" for row in winners.itertuples()]
    return f"Lowest validation error per family, with {metric.label}: {'; '.join(parts)}."


def best_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The stars of the figure."""
    return best_by_operator(table)


def _place(families: list[str], models: list[str], family: str, model: str) -> float:
    step = _step(families, models)
    return families.index(family) + (models.index(model) - (len(models) - 1) / 2) * step


def _step(families: list[str], models: list[str]) -> float:
    """The distance between two boxes of a family, whose width is 1; boxes stay slim when there are few."""
    return min(BOX_WIDTH / len(models), SLIMMEST * len(families))


def _boxes(axes: Axes, table: pd.DataFrame, families: list[str], models: list[str], measure: str) -> None:
    axes.set_ylabel(label(measure))
    if table.empty:
        style.say(axes, f"no complete trial has {measure}")
        return
    width = _step(families, models) * 0.72
    for (family, model), group in table.groupby(["family", "model"], sort=True):
        values = group["value"].astype(float).to_numpy()
        place, colour = _place(families, models, family, model), style.colour(model, models)
        if len(values) >= FEWEST_TRIALS:
            axes.boxplot(
                values, positions=[place], widths=width, showfliers=False, manage_ticks=False, patch_artist=True,
                boxprops={"facecolor": colour, "alpha": 0.25, "edgecolor": colour, "linewidth": 0.7},
                medianprops={"color": colour, "linewidth": 1.4},
                whiskerprops={"color": colour, "linewidth": 0.7}, capprops={"color": colour, "linewidth": 0.7},
            )  # fmt: skip
        jitter = (np.random.default_rng(len(values)).random(len(values)) - 0.5) * width * 0.7
        axes.plot(
            place + jitter,
            values,
            style.marker(model, models),
            color=colour,
            ms=2.2 if len(values) > 10 else 3,
            alpha=0.75,
            mew=0,
        )
        axes.annotate(
            f"{len(values)}", (place, 0), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", fontsize=5.5, color=style.GREY,
        )  # fmt: skip
    _finish(axes, table["value"], families)


def _finish(axes: Axes, values: pd.Series, families: list[str]) -> None:
    style.log_axis(axes.yaxis, values.astype(float))
    low, high = axes.get_ylim()
    axes.set_ylim(low / (high / low) ** 0.06, high)  # room for the counts
    axes.set_xticks(range(len(families)), [style.words(family) for family in families])
    axes.set_xlim(-0.55, len(families) - 0.45)
    for edge in range(1, len(families)):
        axes.axvline(edge - 0.5, color="#e3e3e3", lw=0.6)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")


def _stars(axes: Axes, best: pd.DataFrame, families: list[str], models: list[str], column: str) -> None:
    if best.empty or column not in best or not axes.axison:
        return
    for row in best.to_dict("records"):
        if row["family"] in families and row["model"] in models and row[column] > 0:
            place = _place(families, models, row["family"], row["model"])
            axes.plot(place, row[column], "*", mfc="white", mec="black", ms=8, mew=0.7, zorder=5)


def _cost_accuracy(axes: Axes, table: pd.DataFrame, metric: Metric, models: list[str]) -> None:
    """Error against parameters; a line joins the trials that no other beats in both (per figure, all families)."""
    points = table.pivot_table(index=["run", "family", "model"], columns="measure", values="value").reset_index()
    if not {metric.column, "n_parameters"} <= set(points.columns) or points.dropna(
        subset=[metric.column, "n_parameters"]).empty:  # fmt: skip
        style.say(axes, "no complete trial has error and parameters")
        return
    points = points.dropna(subset=[metric.column, "n_parameters"])
    for model in models:
        mine = points[points["model"] == model]
        axes.plot(
            mine["n_parameters"], mine[metric.column], style.marker(model, models), ms=2.6, alpha=0.75, mew=0,
            color=style.colour(model, models),
        )  # fmt: skip
    for n, (family, group) in enumerate(points.groupby("family", sort=True)):
        front = pareto(group["n_parameters"], group[metric.column], metric.higher_is_better)
        edge = group.loc[front].sort_values("n_parameters")
        axes.plot(
            edge["n_parameters"],
            edge[metric.column],
            FRONTS[n % len(FRONTS)],
            color="black",
            lw=0.7,
            zorder=0,
            label=style.words(family),
        )
    style.log_axis(axes.xaxis, points["n_parameters"])
    style.log_axis(axes.yaxis, points[metric.column])
    axes.set(xlabel="parameters", ylabel=label(metric.column))
    if 1 < points["family"].nunique() <= MOST_FRONTS:
        axes.legend(title="Pareto fronts", title_fontsize=6, fontsize=6, labelspacing=0.2, loc="upper right", **BACKED)
    axes.grid()


def pareto(cost: pd.Series, value: pd.Series, higher_is_better: bool = False) -> pd.Index:
    """The index of the points that no other beats in both cost and value."""
    value = -value if higher_is_better else value
    order = pd.DataFrame({"cost": cost, "value": value}).sort_values(["cost", "value"])
    best = order["value"].cummin()
    return order.index[(order["value"] == best) & ~best.duplicated()]
