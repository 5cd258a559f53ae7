"""trajectories: what the best operator of each family predicts, against the truth, and where its error lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from report import style
from report.style import Layout

CASES = ("best", "median", "worst")
SPLITS = {"test": "error in range", "test_tau": "at larger delays", "test_horizon": "over twice the horizon"}
SPLIT_STYLES = {"test": "-", "test_tau": "--", "test_horizon": ":"}
HEADROOM = 0.5  # of the range of the truth, above and below it
INTERVALS_IN_A_ROW = 2  # panels of errors by delay interval, where they do not stand beside the trajectories
ERROR_RANGE = 1e5  # the largest error of the images over the smallest that is told apart, at most
FIELD_COLOURS, ERROR_COLOURS = "viridis", "magma"  # rising in grey
SPATIAL_CHANNELS = 4  # from here on channels are shown as points of space


@dataclass(frozen=True)
class Case:
    """One test trajectory. Times in delays, truth and prediction (T, C), history (M+1, C) on [-1, 0].

    A prediction may have diverged to values that are not finite; the truth has not.
    """

    time: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    history: np.ndarray
    tau: float
    error: float

    @property
    def deviation(self) -> np.ndarray:
        """|prediction - truth| over the RMS of the truth: (T, C), nan where it is not finite."""
        scale = np.sqrt(np.mean(self.truth**2))
        error = np.abs(self.prediction - self.truth) / (scale if scale > 0 else 1.0)
        return np.where(np.isfinite(error), error, np.nan)


@dataclass(frozen=True)
class Trajectories:
    """What predictions.npz says of one family's best operator."""

    family: str
    model: str
    run: str
    cases: Mapping[str, Case]
    by_interval: Mapping[str, tuple[np.ndarray, np.ndarray]]  # split -> median (K,), 90 % (K,)

    @property
    def is_spatial(self) -> bool:
        return any(case.truth.shape[1] >= SPATIAL_CHANNELS for case in self.cases.values())


def trajectory_table(family: str, model: str, run: str, arrays: Mapping[str, np.ndarray]) -> Trajectories:
    """The cases and splits that these arrays hold in full; what is missing or of another shape is left out."""
    cases = {name: case for name in CASES if (case := _case(name, arrays)) is not None}
    by_interval = {}
    for split in SPLITS:
        median, p90 = (
            np.asarray(arrays.get(f"{split}_interval_{kind}", ()), dtype=float) for kind in ("median", "p90")
        )
        if median.ndim == 1 and len(median) and median.shape == p90.shape and np.isfinite(median).any():
            by_interval[split] = (median, p90)
    return Trajectories(family, model, run, cases, by_interval)


def draw_trajectories(tables: list[Trajectories], layout: Layout) -> Figure:
    """A block per family: three test trajectories with their error below, and the error by delay interval.

    In one column of a paper the errors by delay interval of all families follow below the blocks.
    """
    if not tables:
        return style.sentence("no complete run with predictions")
    lines, images = layout.choose(wide=(1.9, 2.3), narrow=(1.52, 2.3))
    heights = [images if table.is_spatial else lines for table in tables]
    rows = layout.choose(wide=0, narrow=-(-len(tables) // INTERVALS_IN_A_ROW))
    heights += [1.05 * rows] if rows else []
    figure = layout.figure(sum(heights) + layout.choose(wide=0.3, narrow=0.5))
    _legend(figure, tables, layout)
    blocks = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for block, table in zip(blocks, tables, strict=False):
        beside = _block(block, table, layout)
        if beside is not None:
            _by_interval(beside, table, "median (bold), 90 % (thin)")
    if rows:
        panels = blocks[-1].subplots(rows, min(len(tables), INTERVALS_IN_A_ROW), squeeze=False)
        for axes in panels.flat[len(tables) :]:
            axes.set_axis_off()
        for axes, table in zip(panels.flat, tables, strict=False):
            _by_interval(axes, table, style.words(table.family))
    return figure


def reading(tables: list[Trajectories]) -> str:
    """The figure in one sentence."""
    parts = [
        f"{table.family}: {table.cases['median'].error:.2g} for the median trajectory, "
        f"{table.cases['worst'].error:.2g} for the worst"
        for table in tables
        if {"median", "worst"} <= set(table.cases)
    ]
    return f"Relative L2 error of the best operator, {'; '.join(parts)}." if parts else "No run kept its predictions."


def _case(name: str, arrays: Mapping[str, np.ndarray]) -> Case | None:
    keys = ("time", "truth", "prediction", "history", "tau", "error")
    if any(f"{name}_{key}" not in arrays for key in keys):
        return None
    time, truth, prediction, history, tau, error = (np.asarray(arrays[f"{name}_{key}"], dtype=float) for key in keys)
    fits = truth.ndim == 2 and truth.shape == prediction.shape and time.shape == truth.shape[:1] and len(time) > 1
    fits = fits and all(np.isfinite(known).all() for known in (time, truth, history))
    if not fits or history.ndim != 2 or history.shape[1] != truth.shape[1] or tau.size != 1 or error.size != 1:
        return None
    return Case(time, truth, prediction, history, float(tau.squeeze()), float(error.squeeze()))


def _block(block: SubFigure, table: Trajectories, layout: Layout) -> Axes | None:
    """Draws the three cases; returns the panel beside them where the layout has room for one."""
    name_of_block = f"{style.words(table.family)}: {style.words(table.model)}"
    block.suptitle(name_of_block, x=0.01, ha="left", fontweight="bold", fontsize=8)
    widths, ratios = layout.choose(wide=[1, 1, 1, 1.05], narrow=[1, 1, 1]), [1, 1, 1] if table.is_spatial else [1.4, 1]
    grid = block.add_gridspec(len(ratios), len(widths), height_ratios=ratios, width_ratios=widths)
    columns = []
    for column, name in enumerate(CASES):
        panels = [block.add_subplot(grid[row, column]) for row in range(len(ratios))]
        if name in table.cases:
            columns.append(panels)
            case = table.cases[name]
            about = f"error {style.number(case.error)}", f"τ {case.tau:.3g}"
            heading = layout.choose(wide=f"{name}: {', '.join(about)}", narrow=f"{name}, {about[1]}\n{about[0]}")
            panels[0].set_title(heading, fontsize=7)
        else:
            for axes in panels:
                style.say(axes, "" if axes is not panels[0] else f"no {name} case")
    if columns:
        draw = _images if table.is_spatial else _lines
        draw(columns, [table.cases[name] for name in CASES if name in table.cases], style.colour(table.model))
    return block.add_subplot(grid[:, 3]) if len(widths) > len(CASES) else None


def _legend(figure: Figure, tables: list[Trajectories], layout: Layout) -> None:
    """One legend for all blocks; an operator's colour is that of its block."""
    handles = [
        Line2D([], [], color=style.GREY, label="history"),
        Line2D([], [], color=style.TRUTH, label="truth"),
        Line2D([], [], color=style.PREDICTION, ls=(0, (3, 1.5)), label="prediction"),
    ]
    handles = [] if all(table.is_spatial for table in tables) else handles
    splits = [split for split in SPLITS if any(split in table.by_interval for table in tables)]
    handles += [
        Line2D([], [], color=style.PREDICTION, ls=SPLIT_STYLES[split], lw=1.2, label=SPLITS[split]) for split in splits
    ]
    if splits and layout.is_narrow:
        handles[-len(splits)].set_label(f"{SPLITS[splits[0]]} (thin: 90 %)")
    if handles:
        columns = layout.choose(wide=len(handles), narrow=min(2, len(handles)))
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.2)


def _lines(columns: list[list[Axes]], cases: list[Case], colour: str) -> None:
    """Truth and prediction above, error below, on scales that the cases share."""
    for row in zip(*columns, strict=True):
        for axes in row[1:]:
            axes.sharey(row[0])
            axes.tick_params(labelleft=False)
    columns[0][0].set_ylabel("x")
    columns[0][1].set_ylabel("error")
    for (top, bottom), case in zip(columns, cases, strict=True):
        past = np.linspace(-1, 0, len(case.history))
        top.plot(past, case.history, color=style.GREY, lw=0.9)
        top.plot(case.time, case.truth, color=style.TRUTH, lw=0.9)
        top.plot(case.time, case.prediction, color=colour, lw=1.0, ls=(0, (3, 1.5)))
        deviation = case.deviation.max(axis=1)
        highest = _highest(deviation)
        bottom.plot(case.time, np.maximum(deviation, 1e-5 * highest), color=colour, lw=0.7)
        bottom.set_yscale("log")
        for axes in (top, bottom):
            axes.axvline(0, color=style.GREY, lw=0.4)
            axes.set_xlim(-1, case.time[-1])
        top.tick_params(labelbottom=False)
        bottom.set_xlabel("t / τ", labelpad=1)
    shown = np.concatenate([part.ravel() for case in cases for part in (case.truth, case.history)])
    room = HEADROOM * float(np.ptp(shown))
    low, high = columns[0][0].get_ylim()  # a prediction that ran away leaves the panel
    columns[0][0].set_ylim(max(low, float(shown.min()) - room), min(high, float(shown.max()) + room))


def _images(columns: list[list[Axes]], cases: list[Case], colour: str) -> None:
    """Truth, prediction and error over space and time: fields on a scale for each case, errors on one for all."""
    highest = max(_highest(case.deviation) for case in cases)
    lowest = min(float(np.median(np.nan_to_num(case.deviation, nan=highest))) for case in cases)
    errors = LogNorm(min(max(lowest, highest / ERROR_RANGE), highest / 2), highest)
    for panels, case in zip(columns, cases, strict=True):
        low, high = float(case.truth.min()), float(case.truth.max())
        panels[0].set_title(f"{panels[0].get_title()}\nx {style.number(low)} to {style.number(high)}", fontsize=7)
        shown = (case.truth, case.prediction, np.maximum(case.deviation, errors.vmin))
        for axes, values, name in zip(panels, shown, ("truth", "prediction", "error"), strict=True):
            axes.imshow(
                values.T, origin="lower", aspect="auto", extent=(case.time[0], case.time[-1], 0, 1),
                cmap=ERROR_COLOURS if name == "error" else FIELD_COLOURS, interpolation="nearest",
                norm=errors if name == "error" else Normalize(low, high),
            )  # fmt: skip
            axes.set_yticks([])
            axes.tick_params(labelbottom=name == "error")
            if panels is columns[0]:
                axes.set_ylabel(f"{name}\nspace", fontsize=style.SMALLEST)
        panels[-1].set_xlabel("t / τ", labelpad=1)
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
    truths, predictions, deviations = zip(*columns, strict=True)
    _bar([*truths, *predictions], ScalarMappable(Normalize(0, 1), FIELD_COLOURS), {0: "min", 1: "max"})
    _bar(deviations, ScalarMappable(errors, ERROR_COLOURS))


def _highest(deviation: np.ndarray) -> float:
    """The highest finite error, or a tiny one where there is none."""
    return max(float(np.nan_to_num(deviation).max()), 1e-12)


def _bar(panels: Sequence[Axes], colours: ScalarMappable, names: Mapping[float, str] | None = None) -> None:
    """The colours of images at the right of their panels."""
    bar = panels[0].figure.colorbar(colours, ax=list(panels), pad=0.01, aspect=10)
    if names is None:
        style.log_ticks(bar.ax.yaxis, colours.norm.vmin, colours.norm.vmax, most=3)
    else:
        bar.set_ticks(list(names), labels=list(names.values()))
    bar.ax.tick_params(labelsize=style.SMALLEST, length=1.5, pad=1)
    bar.outline.set_linewidth(0.4)


def _by_interval(axes: Axes, table: Trajectories, title: str) -> None:
    """Median and 90 % of the error in each delay interval, by split."""
    axes.set_title(title, fontsize=7)
    if not table.by_interval:
        style.say(axes, "no errors by\ndelay interval")
        return
    colour = style.colour(table.model)
    for split, (median, p90) in table.by_interval.items():
        intervals = np.arange(1, len(median) + 1)
        axes.plot(intervals, median, color=colour, ls=SPLIT_STYLES[split], lw=1.2, zorder=3)
        axes.plot(intervals, p90, color=colour, ls=SPLIT_STYLES[split], lw=0.5, alpha=0.7)
    values = np.concatenate([np.concatenate(pair) for pair in table.by_interval.values()])
    style.log_axis(axes.yaxis, values, most=5)
    axes.set_xlabel("t / τ", labelpad=1)
    axes.set_ylabel("error", labelpad=1)
    axes.set_xlim(0.5, None)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid()
