"""heatmap_{study}: median error over pairs of the most important hyperparameters."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from report import style
from report.loading import PARAMETER
from report.metrics import HOPELESS, Metric, is_error, label
from report.studies import is_log, is_numeric
from report.style import Layout

MOST_PARAMETERS = 4
MOST_BINS = 5
FEWEST_TRIALS = 5
LONGEST_LABEL = 4  # letters that stay level below a cell
COLOURS = "cividis"  # made for colour blindness, and rising in grey


def bins(values: pd.Series) -> tuple[pd.Series, list[str]]:
    """The bin of every value (-1 where it is missing) and the bins' labels.

    Up to 5 different values are bins of their own where they are whole or come back; other numbers are cut into 5
    equal parts of their scale.
    """
    present = values.dropna()
    if not is_numeric(present):
        names = sorted({str(value) for value in present})
        index = values.map(lambda value: names.index(str(value)) if str(value) in names else -1)
        return index, names
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    distinct = sorted(numbers.dropna().unique())
    are_choices = len(numbers.dropna()) >= 2 * len(distinct) or all(value.is_integer() for value in distinct)
    if len(distinct) <= MOST_BINS and are_choices:
        return numbers.map(lambda value: distinct.index(value) if value in distinct else -1), _labels(distinct)
    scale = np.log10(numbers) if is_log(numbers) else numbers
    edges = np.linspace(scale.min(), scale.max(), MOST_BINS + 1)
    index = pd.Series(np.clip(np.searchsorted(edges, scale, side="right") - 1, 0, MOST_BINS - 1), values.index)
    centres = (edges[:-1] + edges[1:]) / 2
    centres = 10**centres if is_log(numbers) else centres
    return index.where(scale.notna(), -1), _labels(centres)


def _labels(values: Sequence[float]) -> list[str]:
    """The numbers, with as few digits as tell them apart."""
    labels = ([style.number(value, digits) for value in values] for digits in range(2, 17))
    return next((found for found in labels if len(set(found)) == len(found)), [repr(value) for value in values])


def heatmap_table(runs: pd.DataFrame, metric: Metric, x: str, y: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Medians and counts of complete trials over the bins of two `param_…` columns: (y bins, x bins), labels as axes.

    Medians are of `metric.ranking`, the validation error, because landscapes serve to choose; nan in empty cells.
    """
    rows = runs[(runs["status"] == "complete") & (runs["role"] == "trial")].dropna(subset=metric.ranking)
    (x_bin, x_labels), (y_bin, y_labels) = bins(rows[x]), bins(rows[y])
    cells = pd.DataFrame({"x": x_bin, "y": y_bin, "value": rows[metric.ranking].astype(float)})
    cells = cells[(cells["x"] >= 0) & (cells["y"] >= 0)]
    shape = {"index": range(len(y_labels)), "columns": range(len(x_labels))}
    grouped = cells.groupby(["y", "x"])["value"]
    medians = grouped.median().unstack().reindex(**shape)
    numbers = grouped.size().unstack().reindex(**shape).fillna(0).astype(int)
    for table in (medians, numbers):
        table.index, table.columns = pd.Index(y_labels), pd.Index(x_labels)
    return medians, numbers


def draw_heatmap(
    tables: Mapping[tuple[str, str], tuple[pd.DataFrame, pd.DataFrame]],
    title: str,
    metric: Metric,
    n: int,
    layout: Layout,
) -> Figure:
    """The pairs' (medians, counts) as panels of one figure with one colour scale; empty cells are grey."""
    title = f"{title} (n={n})"
    layout = layout if len(tables) > 1 else style.NARROW
    columns = min(layout.choose(wide=3, narrow=2), len(tables))
    rows = math.ceil(len(tables) / columns)
    figure = layout.figure(2.05 * rows + 0.3)
    title = style.wrapped(title, layout.choose(wide=80, narrow=36))
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    panels = figure.subplots(rows, columns, squeeze=False)
    values = np.concatenate([medians.to_numpy().ravel() for medians, _ in tables.values()])
    most = HOPELESS if is_error(metric.ranking) else math.inf
    norm, is_cut = _norm(values, most), np.nanmax(values) > most
    for axes, ((x, y), (medians, numbers)) in zip(panels.flat, tables.items(), strict=False):
        _panel(axes, medians, numbers, norm)
        _frame_best(axes, medians, metric)
        axes.set(xlabel=style.words(x.removeprefix(PARAMETER)), ylabel=style.words(y.removeprefix(PARAMETER)))
    for axes in panels.flat[len(tables) :]:
        axes.set_axis_off()
    place = layout.choose(wide="right", narrow="bottom")
    bar = figure.colorbar(
        ScalarMappable(norm, COLOURS),
        ax=panels,
        shrink=0.8,
        aspect=30,
        pad=0.01,
        location=place,
        extend="max" if is_cut else "neither",
    )
    bar.set_label(f"median {label(metric.ranking)}")
    if isinstance(norm, LogNorm):
        style.log_ticks(bar.long_axis, norm.vmin, norm.vmax, most=6)
    bar.outline.set_visible(False)
    return figure


def pairs(parameters: list[str]) -> list[tuple[str, str]]:
    """The pairs among the first four `param_…` columns."""
    return list(itertools.combinations(parameters[:MOST_PARAMETERS], 2))


def reading(tables: Mapping[tuple[str, str], tuple[pd.DataFrame, pd.DataFrame]], metric: Metric) -> str:
    """The figure in one sentence: the best of the framed cells."""
    cells = []
    for (x, y), (medians, numbers) in tables.items():
        known = medians.stack().dropna()
        if len(known):
            row, column = known.idxmax() if metric.higher_is_better else known.idxmin()
            names = x.removeprefix(PARAMETER), y.removeprefix(PARAMETER)
            cells.append((known[row, column], -int(numbers.loc[row, column]), names, column, row))
    if not cells:
        return "No cell holds a complete trial."
    value, n, (x, y), at_x, at_y = (max if metric.higher_is_better else min)(cells)
    trials = "its only trial" if n == -1 else f"the median of its {-n} trials"
    return f"Best cell: {x} near {at_x} and {y} near {at_y}, {style.number(value)} as {trials}."


def _norm(values: np.ndarray, most: float) -> Normalize:
    """The scale of finite values, those above `most` as if they were that."""
    values = np.minimum(values[np.isfinite(values)], most)
    low, high = values.min(), values.max()
    if low <= 0:
        return Normalize(low, high if high > low else low + 1)
    return LogNorm(low, high if high > low * 1.01 else low * 1.1)


def _frame_best(axes: Axes, medians: pd.DataFrame, metric: Metric) -> None:
    """A frame round the cell with the best median."""
    values = medians.to_numpy(dtype=float)
    if np.isfinite(values).any():
        flat = np.nanargmax(values) if metric.higher_is_better else np.nanargmin(values)
        row, column = np.unravel_index(flat, values.shape)
        axes.add_patch(
            Rectangle((column, row), 1, 1, fill=False, edgecolor=style.FRAME, linewidth=1.6, clip_on=False, zorder=4)
        )


def _panel(axes: Axes, medians: pd.DataFrame, numbers: pd.DataFrame, norm: Normalize) -> None:
    image = medians.to_numpy(dtype=float)
    axes.set_facecolor(style.EMPTY)
    axes.patch.set(hatch="////", edgecolor="white", linewidth=0)  # in grey, empty is no colour of the scale
    axes.pcolormesh(np.ma.masked_invalid(image), cmap=COLOURS, norm=norm, edgecolors="white", linewidth=0.6)
    for (row, column), value in np.ndenumerate(image):
        if math.isfinite(value):
            dark = np.dot(colormaps[COLOURS](norm(value))[:3], (0.299, 0.587, 0.114)) < 0.5
            axes.text(
                column + 0.5, row + 0.5, f"{numbers.iat[row, column]}", ha="center", va="center",
                fontsize=style.SMALLEST, color="white" if dark else "black",
            )  # fmt: skip
    slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    is_long = max(map(len, medians.columns)) > LONGEST_LABEL
    x_labels, y_labels = ([style.words(name, 16) for name in names] for names in (medians.columns, medians.index))
    axes.set_xticks(np.arange(image.shape[1]) + 0.5, x_labels, **(slanted if is_long else {}))
    axes.set_yticks(np.arange(image.shape[0]) + 0.5, y_labels)
    axes.tick_params(length=0, labelsize=style.SMALLEST)
    axes.spines[:].set_visible(False)
