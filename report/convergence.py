"""convergence_analysis: loss and validation error by epoch and by seconds, bands over the trials of each study."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from report import style
from report.tables import best_by_operator

GRID = 120  # points of a band
VIEWS = (
    ("epoch", "val_rel_error", "epoch", "validation error, best so far"),
    ("elapsed_seconds", "val_rel_error", "training seconds", "validation error, best so far"),
    ("epoch", "train_loss", "epoch", "training loss"),
    ("epoch", "learning_rate", "epoch", "learning rate"),
)
FEWEST_LINES = 3  # that make a band
FADED = 12  # pruned trials drawn per study


def curves(epochs: pd.DataFrame, x: str, y: str) -> dict[str, np.ndarray]:
    """For every run its (n, 2) points; errors as the best so far. Rows without both numbers are left out."""
    rows = epochs[["run", x, y]].dropna()
    rows = rows[(rows[y] > 0) & np.isfinite(rows[y])]
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

    The band begins where every line has begun.
    """
    if not lines:
        return pd.DataFrame(columns=["x", "low", "median", "high"], dtype=float)
    start, stop = max(line[0, 0] for line in lines), max(line[-1, 0] for line in lines)
    grid = np.linspace(start, max(stop, start), GRID)
    values = np.stack([line[np.searchsorted(line[:, 0], grid, side="right") - 1, 1] for line in lines])
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    return pd.DataFrame({"x": grid, "low": low, "median": median, "high": high})


def draw_convergence(runs: pd.DataFrame, epochs: pd.DataFrame, best: pd.DataFrame) -> Figure:
    """A row per family, a colour per operator; the best trial bold, pruned ones faint with × at their end."""
    families = sorted(runs["family"].unique())
    models = style.model_order(runs["model"])
    figure = style.new_figure(style.WIDE, 1.55 * len(families) + 0.75)
    panels = figure.subplots(len(families), len(VIEWS), squeeze=False)
    best_runs = set(best["run"]) if len(best) else set()
    for column, (x, y, x_label, y_label) in enumerate(VIEWS):
        lines = curves(epochs, x, y)
        panels[0, column].set_title(y_label, fontsize=7.5)
        for axes, family in zip(panels[:, column], families, strict=True):
            _view(
                axes,
                runs[runs["family"] == family],
                lines,
                best_runs,
                models,
                with_band=y != "learning_rate",
                y_is_error=y == "val_rel_error",
            )
            axes.set_xlabel(x_label if family == families[-1] else "")
    for axes, family in zip(panels[:, 0], families, strict=True):
        axes.set_ylabel(style.words(family), fontweight="bold")
    handles = [Line2D([], [], color=style.colour(m, models), lw=1.8, label=style.words(m)) for m in models]
    handles += [
        Patch(facecolor=style.GREY, alpha=0.3, label="half of the trials"),
        Line2D([], [], color=style.GREY, marker="x", ls="-", lw=0.5, ms=4, label="pruned"),
        Line2D([], [], color=style.GREY, marker="o", ls="-", lw=1.6, ms=3.5, label="best trial, its best epoch"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def reading(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """The figure in one sentence, from the runs and the table of `configurations`."""
    complete, pruned = (runs["status"] == "complete").sum(), (runs["status"] == "pruned").sum()
    sentence = f"{complete} runs trained to their end and {pruned} were pruned."
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
    *,
    with_band: bool,
    y_is_error: bool,
) -> None:
    mine = {run: lines[run] for run in runs["run"] if run in lines}
    if not mine:
        style.say(axes, "no epochs\nrecorded")
        return
    drawn: list[np.ndarray] = []
    for model in style.model_order(runs["model"]):
        colour = style.colour(model, models)
        of_model = runs[(runs["model"] == model) & runs["run"].isin(mine)]
        if with_band:
            pruned = [mine[run] for run in of_model.loc[of_model["status"] == "pruned", "run"].iloc[:FADED]]
            complete = [mine[run] for run in of_model.loc[of_model["status"] == "complete", "run"]]
            drawn += _draw_pruned(axes, pruned, colour) + _draw_band(axes, complete, colour)
        for run in of_model.loc[of_model["run"].isin(best), "run"]:
            drawn.append(mine[run])
            axes.plot(*mine[run].T, color=colour, lw=1.5, zorder=4)
            if y_is_error:
                lowest = mine[run][np.argmin(mine[run][:, 1])]
                axes.plot(*lowest, "o", color=colour, ms=3.5, mec="white", mew=0.5, zorder=5)
    if not drawn:
        style.say(axes, "no complete or\npruned trial")
        return
    shown = np.concatenate(drawn)
    style.log_axis(axes.yaxis, shown[:, 1])
    axes.set_xlim(0, shown[:, 0].max() * 1.03)
    axes.grid()


def _draw_pruned(axes: Axes, lines: list[np.ndarray], colour: str) -> list[np.ndarray]:
    for line in lines:
        axes.plot(*line.T, color=colour, lw=0.4, alpha=0.35, zorder=1)
        axes.plot(*line[-1], "x", color=colour, ms=3, mew=0.7, alpha=0.6, zorder=1)
    return lines


def _draw_band(axes: Axes, lines: list[np.ndarray], colour: str) -> list[np.ndarray]:
    if len(lines) < FEWEST_LINES:
        return []
    table = band(lines)
    axes.fill_between(table["x"], table["low"], table["high"], color=colour, alpha=0.18, lw=0, zorder=2)
    return [table[["x", "low"]].to_numpy(), table[["x", "high"]].to_numpy()]
