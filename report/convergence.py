"""convergence_analysis: loss and validation error by epoch and by seconds, bands over the trials of each study."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from report import style
from report.style import Layout
from report.tables import best_by_operator, endings

GRID = 120  # points of a band
ERROR, LOSS, RATE = "lowest validation error", "training loss", "learning rate"
VIEWS = (  # x, y, title; a panel with the y of its left neighbour shares its scale
    ("epoch", "val_rel_error", ERROR),
    ("elapsed_seconds", "val_rel_error", ERROR),
    ("epoch", "train_loss", LOSS),
    ("elapsed_seconds", "train_loss", LOSS),
    ("epoch", "learning_rate", RATE),
)
NARROW_VIEWS = (*VIEWS[:3], VIEWS[4])
X_LABELS = {"epoch": "epoch", "elapsed_seconds": "seconds elapsed"}
FEWEST_LINES = 3  # that make a band
HEADROOM = 5  # times the highest value of a best trial: where the scale ends, whatever wild first epochs did
HOPELESS = 3.0  # a relative error above which curves leave the scale, unless they end there
FAMILY_LETTERS = 12  # of its name in a line beside its row
FADED = 12  # pruned trials drawn per study


def curves(epochs: pd.DataFrame, x: str, y: str) -> dict[str, np.ndarray]:
    """For every run its (n, 2) points; errors as the best so far. Rows without both numbers are left out."""
    rows = epochs[["run", x, y]].astype({x: float, y: float}).replace([math.inf, -math.inf], math.nan).dropna()
    rows = rows[rows[y] > 0]
    result = {}
    for run, group in rows.groupby("run"):
        points = group[[x, y]].to_numpy(dtype=float)
        points = points[np.argsort(points[:, 0], kind="stable")]
        if y == "val_rel_error":
            points[:, 1] = np.minimum.accumulate(points[:, 1])
        result[run] = points
    return result


def band(lines: list[np.ndarray]) -> pd.DataFrame:
    """Quartiles over (n, 2) step lines, each held at its last value after its end: columns x, low, median, high.

    The band begins where half of the lines have begun, and counts those that have.
    """
    if not lines:
        return pd.DataFrame(columns=["x", "low", "median", "high"], dtype=float)
    begins, stop = sorted(line[0, 0] for line in lines), max(line[-1, 0] for line in lines)
    start = begins[(len(begins) - 1) // 2]
    grid = np.linspace(start, max(stop, start), GRID)
    places = [np.searchsorted(line[:, 0], grid, side="right") - 1 for line in lines]
    values = np.stack([np.where(at < 0, np.nan, line[at, 1]) for line, at in zip(lines, places, strict=True)])
    low, median, high = np.nanquantile(values, (0.25, 0.5, 0.75), axis=0)
    return pd.DataFrame({"x": grid, "low": low, "median": median, "high": high})


def stopped_early(runs: pd.DataFrame) -> set[str]:
    """The complete runs that ended before their last epoch."""
    if "epochs" not in runs:
        return set()
    return set(runs.loc[(runs["status"] == "complete") & (runs["epochs"] < runs["max_epochs"]), "run"])


def draw_convergence(runs: pd.DataFrame, epochs: pd.DataFrame, best: pd.DataFrame, layout: Layout) -> Figure:
    """A row per family, a colour per operator; the best trial bold, pruned ones faint with × at their end.

    In one column of a paper a family takes two rows, and loss by seconds, the view that says least, is left out.
    """
    families, models = sorted(runs["family"].unique()), style.model_order(runs["model"])
    views, columns = layout.choose(wide=(VIEWS, len(VIEWS)), narrow=(NARROW_VIEWS, 2))
    rows = len(views) // columns
    figure = layout.figure(layout.choose(wide=1.55, narrow=2.0) * len(families) + layout.choose(wide=0.75, narrow=0.9))
    panels = figure.subplots(len(families) * rows, columns, squeeze=False).reshape(len(families), len(views))
    best_runs = set(best["run"]) if len(best) else set()
    for n, (x, y, title) in enumerate(views):
        lines = curves(epochs, x, y)
        shares = n % columns > 0 and views[n - 1][1] == y
        for axes, family in zip(panels[:, n], families, strict=True):
            of_family = runs[runs["family"] == family]
            _view(axes, of_family, lines, best_runs, models, y, layout)
            if shares:
                _share(panels[families.index(family), n - 1], axes)
            if layout.is_narrow:  # no room for labels below every row
                words = "" if shares else "lowest error " if y == "val_rel_error" else f"{title} "
                axes.set_title(f"{words}by {X_LABELS[x]}", loc="left", fontsize=7)
            elif family == families[0] and not shares:
                axes.set_title(title, loc="left", fontsize=7.5)
            if not layout.is_narrow and family == families[-1]:
                axes.set_xlabel(X_LABELS[x])
    for axes, family in zip(panels[:, 0], families, strict=True):
        axes.set_ylabel(style.wrapped(style.words(family), FAMILY_LETTERS), fontweight="bold")
    _legend(figure, runs, best_runs, models, layout)
    return figure


def _legend(figure: Figure, runs: pd.DataFrame, best: set[str], models: list[str], layout: Layout) -> None:
    handles = [
        Line2D(
            [], [], color=style.colour(m, models), lw=1.5, ls=style.dashes(m, models), marker=style.marker(m, models),
            ms=3.5, label=f"{style.words(m)}, best trial",
        )
        for m in models
    ]  # fmt: skip
    handles += _signs(runs, best)
    columns = layout.choose(wide=math.ceil(len(handles) / 2), narrow=2)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def _signs(runs: pd.DataFrame, best: set[str]) -> list[Line2D | Patch]:
    """Legend entries of the signs that occur."""
    signs = [
        Patch(facecolor=style.GREY, alpha=0.3, label="middle half of the trials"),
        Line2D([], [], color=style.GREY, lw=0.7, label="median trial"),
        Line2D([], [], color=style.GREY, marker="o", ls="", ms=4, label="best trial, its best epoch"),
    ]
    if (runs["status"] == "pruned").any():
        signs.insert(0, Line2D([], [], color=style.GREY, marker="x", ls="-", lw=0.5, ms=4, label="pruned"))
    if best & stopped_early(runs):
        signs.append(Line2D([], [], color=style.GREY, marker="|", ls="", ms=7, mew=1.4, label="it stopped early"))
    return signs


def reading(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """The figure in one sentence, from the runs and the table of `configurations`."""
    ends = endings(runs)
    complete, pruned, paused = (int((ends == end).sum()) for end in ("complete", "pruned", "paused"))
    early = len(stopped_early(runs))
    sentence = f"{complete} complete {'run' if complete == 1 else 'runs'}, {early} stopped early; {pruned} pruned"
    sentence += f", {paused} paused at a rung." if paused else "."
    best = best_by_operator(table)
    if len(best) and "best_epoch" in best and best["best_epoch"].notna().any():
        sentence += f" The best trials had their best epoch at {best['best_epoch'].median():.0f} (median)."
    return sentence


def _view(
    axes: Axes,
    runs: pd.DataFrame,
    lines: dict[str, np.ndarray],
    best: set[str],
    models: list[str],
    y: str,
    layout: Layout,
) -> None:
    """A panel of the column `y` of the epochs."""
    mine = {run: lines[run] for run in runs["run"] if run in lines}
    if not mine:
        style.say(axes, "no epochs\nrecorded")
        return
    drawn, bold = [], []
    stopped = stopped_early(runs)
    for model in style.model_order(runs["model"]):
        colour = style.colour(model, models)
        of_model = runs[(runs["model"] == model) & runs["run"].isin(mine)]
        if y != "learning_rate":
            pruned = [mine[run] for run in of_model.loc[of_model["status"] == "pruned", "run"].iloc[:FADED]]
            complete = [mine[run] for run in of_model.loc[of_model["status"] == "complete", "run"]]
            drawn += _draw_pruned(axes, pruned, colour) + _draw_band(axes, complete, colour)
        for run in of_model.loc[of_model["run"].isin(best), "run"]:
            bold.append(mine[run])
            axes.plot(*mine[run].T, color=colour, lw=1.5, ls=style.dashes(model, models), zorder=4)
            if y == "val_rel_error":
                lowest = mine[run][np.argmin(mine[run][:, 1])]
                axes.plot(*lowest, style.marker(model, models), color=colour, ms=4, mec="white", mew=0.5, zorder=6)
            if run in stopped:
                axes.plot(*mine[run][-1], "|", color=colour, ms=7, mew=1.4, zorder=5)
    if not drawn and not bold:
        style.say(axes, "no complete or\npruned trial")
        return
    shown = np.concatenate(drawn + bold)
    highest = HEADROOM * max((line[:, 1].max() for line in bold), default=math.inf)
    if y == "val_rel_error" and bold:
        highest = min(highest, max(HOPELESS, HEADROOM * max(line[-1, 1] for line in bold)))
    style.log_axis(axes.yaxis, np.minimum(shown[:, 1], highest), most=layout.choose(wide=6, narrow=4))
    axes.set_xlim(0, 1.03 * shown[:, 0].max() or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.grid()


def _share(left: Axes, right: Axes) -> None:
    """One vertical scale for two panels side by side, labelled at the left."""
    if left.axison and right.axison:
        limits = [*left.get_ylim(), *right.get_ylim()]
        for axes in (left, right):
            axes.set_ylim(min(limits), max(limits))
        right.tick_params(labelleft=False)


def _draw_pruned(axes: Axes, lines: list[np.ndarray], colour: str) -> list[np.ndarray]:
    for line in lines:
        axes.plot(*line.T, color=colour, lw=0.4, alpha=0.35, zorder=1)
        axes.plot(*line[-1], "x", color=colour, ms=3, mew=0.7, alpha=0.6, zorder=1)
    return lines


def _draw_band(axes: Axes, lines: list[np.ndarray], colour: str) -> list[np.ndarray]:
    if len(lines) < FEWEST_LINES:
        return []
    table = band(lines)
    axes.fill_between(table["x"], table["low"], table["high"], color=colour, alpha=0.16, lw=0, zorder=2)
    axes.plot(table["x"], table["median"], color=colour, lw=0.6, alpha=0.9, zorder=3)
    return [table[["x", "low"]].to_numpy(), table[["x", "high"]].to_numpy()]
