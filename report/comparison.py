"""model_comparison: errors and costs of every complete trial, side by side over families and operators."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from report import style
from report.metrics import HOPELESS, Metric, is_error, label
from report.style import Layout
from report.tables import best_by_family, best_by_operator

PANELS = (
    "rollout_error",
    "stability_score",
    "train_seconds",
    "n_parameters",
    "test_rel_error",
)  # four beside the metric
FEWEST_TRIALS = 5  # that make a box
SLIMMEST = 0.12  # of the axis
MOST_FRONTS = 8  # families with a panel of their own
COUNT_HEIGHT = 0.12  # inches
COST, ERROR = "n_parameters", ("test_rel_error", "val_rel_error")  # of the fronts, where the metric is the cost itself
PLACES = ("main", "a", "b", "c", "d")  # of the boxes in the figure
BOX_WIDTH = 0.8  # of the place that a family takes
FRONT_LABEL = 24  # letters of an axis label beside a front
HEADROOM = 0.14  # of the axis above that line, for its label


def comparison_table(runs: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The complete trials in long form: run, family, model, measure, value; finite values only."""
    trials = runs[(runs["status"] == "complete") & (runs["role"] == "trial")]
    measures = list(dict.fromkeys([metric.column, *PANELS]))
    long = trials.reindex(columns=["run", "family", "model", *measures]).melt(
        id_vars=["run", "family", "model"], var_name="measure", value_name="value"
    )
    return long[np.isfinite(long["value"].astype(float))].reset_index(drop=True)


def draw_comparison(table: pd.DataFrame, best: pd.DataFrame, metric: Metric, layout: Layout) -> Figure:
    """Boxes with every trial as a point; a star marks the best of each operator and family (`best_by_operator`).

    Below them, for every family, error against parameters with the front that no trial beats in both.
    """
    error = metric if metric.column != COST else Metric(*ERROR)
    families, models = sorted(table["family"].unique()), style.model_order(table["model"])
    are_errors = table["measure"].map(is_error)
    table = table.assign(value=table["value"].where(~are_errors, table["value"].clip(upper=HOPELESS)))
    n_fronts = min(len(families), MOST_FRONTS)
    columns = min(n_fronts, layout.choose(wide=4, narrow=2))
    rows = -(-n_fronts // columns)
    mosaic = layout.choose(wide=[["main", "main"], ["a", "b"], ["c", "d"]], narrow=[[name] for name in PLACES])
    ratios = layout.choose(wide=[1.35, 1, 1], narrow=[1.35, 1, 1, 1, 1])
    heights = [sum(ratios) * layout.choose(wide=1.55, narrow=0.98), rows * layout.choose(wide=1.75, narrow=1.35)]
    figure = layout.figure(sum(heights) + layout.choose(wide=0.3, narrow=0.5))
    boxes, fronts = figure.subfigures(2, 1, height_ratios=heights)  # side by side they share no columns
    panels = boxes.subplot_mosaic(mosaic, height_ratios=ratios)
    others = [measure for measure in PANELS if measure != metric.column][: len(PLACES) - 1]
    for name, measure in zip(PLACES, (metric.column, *others), strict=True):
        letters = layout.choose(wide=(34, 72) if name == "main" else (24, 40), narrow=(16, 38))
        _boxes(panels[name], table[table["measure"] == measure], families, models, measure, letters)
        _stars(panels[name], best, families, models, "value" if measure == metric.column else measure)
        _make_room(panels[name], *layout.choose(wide=(1.3, 6), narrow=(0.8, 5)))
    if layout.is_narrow:  # all stand over the names below the lowest
        for axes in [axes for axes in panels.values() if axes.axison][:-1]:
            axes.tick_params(labelbottom=False)
    _fronts(fronts.subplots(rows, columns, squeeze=False), table, error, families, models)
    _legend(figure, best, models, layout)
    return figure


def _legend(figure: Figure, best: pd.DataFrame, models: list[str], layout: Layout) -> None:
    handles = [
        Line2D([], [], marker=style.marker(m, models), color=style.colour(m, models), ls="", ms=4, label=style.words(m))
        for m in models
    ]
    kinds = best["confirmed"].unique() if "confirmed" in best else ()
    handles += [_star_handle(is_confirmed) for is_confirmed in (True, False) if is_confirmed in kinds]
    handles.append(Line2D([], [], color="black", lw=0.7, drawstyle="steps-post", label="Pareto front"))
    columns = min(len(handles), layout.choose(wide=3, narrow=2))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.4)


def reading(table: pd.DataFrame, metric: Metric) -> str:
    """The figure in one sentence, from the table of `configurations`."""
    winners, operators = best_by_family(table, metric), best_by_operator(table)
    if winners.empty:
        return "No trial is complete yet, so there is nothing to compare."
    parts = []
    for row in winners.itertuples():
        others = operators[(operators["family"] == row.family) & (operators["model"] != row.model)]
        ordered = others.sort_values("ranking", ascending=not metric.higher_is_better)
        against = f" before {ordered.iloc[0]['model']} ({ordered.iloc[0]['value']:.2g})" if len(ordered) else ""
        parts.append(f"{row.model} ({row.value:.2g}){against} on {row.family}")
    return f"Ahead by {label(metric.ranking)}, shown with {metric.label}: {'; '.join(parts)}."


def best_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The stars of the figure."""
    return best_by_operator(table)


def _star_handle(is_confirmed: bool) -> Line2D:
    text = "best by validation, confirmed" if is_confirmed else "best by validation"
    face = style.GREY if is_confirmed else "white"
    return Line2D(
        [], [], marker="*", mfc=face, mec="black" if is_confirmed else style.GREY, ls="", ms=8, mew=0.9, label=text
    )


def _place(families: list[str], models: list[str], family: str, model: str) -> float:
    step = _step(families, models)
    return families.index(family) + (models.index(model) - (len(models) - 1) / 2) * step


def _step(families: list[str], models: list[str]) -> float:
    """The distance between two boxes of a family, whose width is 1; boxes stay slim when there are few."""
    return min(BOX_WIDTH / len(models), SLIMMEST * len(families))


def _boxes(
    axes: Axes, table: pd.DataFrame, families: list[str], models: list[str], measure: str, letters: tuple[int, int]
) -> None:
    """A panel of one measure; `letters` fit into a line beside it and into one below it."""
    axes.set_ylabel(style.wrapped(label(measure), letters[0]))
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
        size = 2.2 if len(values) > 10 else 3
        axes.plot(place + jitter, values, style.marker(model, models), color=colour, ms=size, alpha=0.75, mew=0)
        axes.annotate(
            f"{len(values)}", (place, 0), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", fontsize=style.SMALLEST, color=style.GREY,
        )  # fmt: skip
    style.log_axis(axes.yaxis, table["value"].astype(float))
    if is_error(measure) and (table["value"] == HOPELESS).any():
        axes.axhline(HOPELESS, color=style.GREY, lw=0.7, ls=":", zorder=0)
        low, _ = axes.get_ylim()
        axes.set_ylim(low, HOPELESS * (HOPELESS / low) ** HEADROOM)
        axes.annotate(
            f"{HOPELESS:g} and more", (1, HOPELESS), (-2, 2.5), xycoords=("axes fraction", "data"), ha="right",
            textcoords="offset points", fontsize=style.SMALLEST, color=style.GREY,
        )  # fmt: skip
    _name_families(axes, families, letters=letters[1] // max(len(families), 1))


def _name_families(axes: Axes, families: list[str], letters: int) -> None:
    axes.set_xticks(range(len(families)), [style.wrapped(style.words(family), letters) for family in families])
    axes.set_xlim(-0.55, len(families) - 0.45)
    for edge in range(1, len(families)):
        axes.axvline(edge - 0.5, color="#e3e3e3", lw=0.6)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y")


def _stars(axes: Axes, best: pd.DataFrame, families: list[str], models: list[str], column: str) -> None:
    """The best of each operator; where several trainings confirmed it, the mean of the shown metric with its spread."""
    if best.empty or column not in best or not axes.axison:
        return
    for row in best.to_dict("records"):
        if row["family"] in families and row["model"] in models and style.TINY < row[column] < 1 / style.TINY:
            place = _place(families, models, row["family"], row["model"])
            face = style.colour(row["model"], models) if row["confirmed"] else "white"
            edge = "black" if row["confirmed"] else style.colour(row["model"], models)
            axes.plot(place, row[column], "*", mfc=face, mec=edge, ms=8, mew=0.9, zorder=5)
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, row[column] / 1.3), max(high, 1.3 * row[column]))
            if column == "value" and 0 < row["spread"] < row["value"]:
                axes.errorbar(place, row["value"], row["spread"], color="black", lw=0.8, capsize=1.5, zorder=4)


def _make_room(axes: Axes, height: float, most: int) -> None:
    """Room below the lowest mark of a panel of this height in inches, for the counts; at most so many labels."""
    low, high = axes.get_ylim()
    if axes.axison and axes.get_yscale() == "log":
        low /= (high / low) ** (COUNT_HEIGHT / height)
        axes.set_ylim(low, high)
        style.log_ticks(axes.yaxis, low, high, most)


def _fronts(panels: np.ndarray, table: pd.DataFrame, metric: Metric, families: list[str], models: list[str]) -> None:
    """Error against parameters, a panel per family on common scales; a line joins the trials that no other beats."""
    points = table.pivot_table(index=["run", "family", "model"], columns="measure", values="value").reset_index()
    columns = dict.fromkeys(["run", "family", "model", COST, metric.column])
    points = points.reindex(columns=list(columns)).dropna()
    for axes in panels.flat[len(families) :]:
        axes.set_axis_off()
    for axes, family in zip(panels.flat, families, strict=False):
        axes.set_title(style.words(family))
        mine = points[points["family"] == family]
        if mine.empty:
            style.say(axes, "no complete trial has\nerror and parameters")
            continue
        front = mine.loc[pareto(mine[COST], mine[metric.column], metric.higher_is_better)]
        front = front.sort_values(COST)
        axes.step(front[COST], front[metric.column], where="post", color="black", lw=0.7, zorder=0)
        for model in models:
            of_model = mine[mine["model"] == model]
            is_front = of_model["run"].isin(front["run"])
            for rows, size, alpha in ((of_model[~is_front], 2.4, 0.4), (of_model[is_front], 4, 1)):
                axes.plot(
                    rows[COST], rows[metric.column], style.marker(model, models), ms=size, alpha=alpha, mew=0,
                    color=style.colour(model, models),
                )  # fmt: skip
        style.log_axis(axes.xaxis, points[COST])
        style.log_axis(axes.yaxis, points[metric.column])
        axes.set(xlabel="parameters" if axes in panels[-1] else "")
        axes.grid()
        if axes in panels[:, 0]:
            axes.set_ylabel(style.wrapped(label(metric.column), FRONT_LABEL))
        else:
            axes.tick_params(labelleft=False)


def pareto(cost: pd.Series, value: pd.Series, higher_is_better: bool = False) -> pd.Index:
    """The index of the points that no other beats in both cost and value."""
    value = -value if higher_is_better else value
    order = pd.DataFrame({"cost": cost, "value": value}).sort_values(["cost", "value"])
    best = order["value"].cummin()
    return order.index[(order["value"] == best) & ~best.duplicated()]
