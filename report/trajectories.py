"""trajectories: what the best operator of each family predicts, against the truth, and where its error lies."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from report import style

CASES = ("best", "median", "worst")
SPLITS = {"test": "error in range", "test_tau": "at larger delays", "test_horizon": "over twice the horizon"}
SPLIT_STYLES = {"test": "-", "test_tau": "--", "test_horizon": ":"}
SPATIAL_CHANNELS = 4  # from here on channels are shown as points of space


@dataclass(frozen=True)
class Case:
    """One test trajectory. Times in delays, truth and prediction (T, C), history (M+1, C) on [-1, 0]."""

    time: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    history: np.ndarray
    tau: float
    error: float

    @property
    def deviation(self) -> np.ndarray:
        """|prediction - truth| over the RMS of the truth: (T, C)."""
        scale = np.sqrt(np.mean(self.truth**2))
        return np.abs(self.prediction - self.truth) / (scale if scale > 0 else 1.0)


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


def draw_trajectories(tables: list[Trajectories]) -> Figure:
    """A block per family: three test trajectories with their error below, and the error by delay interval."""
    if not tables:
        figure = style.new_figure(style.NARROW, 1.2)
        style.say(figure.subplots(), "no complete run with predictions")
        return figure
    heights = [2.4 if table.is_spatial else 1.9 for table in tables]
    figure = style.new_figure(style.WIDE, sum(heights) + 0.3)
    _legend(figure, tables)
    blocks = figure.subfigures(len(tables), 1, height_ratios=heights, squeeze=False)[:, 0]
    for block, table in zip(blocks, tables, strict=True):
        _block(block, table)
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
    if not fits or history.ndim != 2 or history.shape[1] != truth.shape[1] or tau.size != 1 or error.size != 1:
        return None
    return Case(time, truth, prediction, history, float(tau.squeeze()), float(error.squeeze()))


def _block(block: SubFigure, table: Trajectories) -> None:
    block.suptitle(
        f"{style.words(table.family)}: {style.words(table.model)}", x=0.01, ha="left", fontweight="bold", fontsize=8
    )
    depth = 3 if table.is_spatial else 2
    ratios = [1, 1, 1] if table.is_spatial else [1.6, 1]
    grid = block.add_gridspec(depth, 4, height_ratios=ratios, width_ratios=[1, 1, 1, 1.05])
    colour = style.colour(table.model)
    left: list[Axes | None] = [None] * depth
    for column, name in enumerate(CASES):
        panels = [
            block.add_subplot(grid[row, column], sharey=None if table.is_spatial else left[row]) for row in range(depth)
        ]
        if name not in table.cases:
            for axes in panels:
                style.say(axes, "" if axes is not panels[0] else f"no {name} case")
            continue
        case = table.cases[name]
        panels[0].set_title(f"{name}: error {style.number(case.error)}, τ {case.tau:.3g}", fontsize=7)
        (_images if table.is_spatial else _lines)(panels, case, colour, first=column == 0)
        left = [known or axes for known, axes in zip(left, panels, strict=True)]
    _by_interval(block.add_subplot(grid[:, 3]), table, colour)


def _legend(figure: Figure, tables: list[Trajectories]) -> None:
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
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.2)


def _lines(panels: list[Axes], case: Case, colour: str, *, first: bool) -> None:
    top, bottom = panels
    past = np.linspace(-1, 0, len(case.history))
    top.plot(past, case.history, color=style.GREY, lw=0.9)
    top.plot(case.time, case.truth, color=style.TRUTH, lw=0.9)
    top.plot(case.time, case.prediction, color=colour, lw=1.0, ls=(0, (3, 1.5)))
    top.axvline(0, color=style.GREY, lw=0.4)
    deviation = case.deviation.max(axis=1)
    highest = max(float(deviation.max()), 1e-12)
    bottom.plot(case.time, np.maximum(deviation, 1e-5 * highest), color=colour, lw=0.7)
    bottom.set_yscale("log")
    bottom.axvline(0, color=style.GREY, lw=0.4)
    for axes in panels:
        axes.set_xlim(-1, case.time[-1])
    top.tick_params(labelbottom=False)
    bottom.set_xlabel("t / τ", labelpad=1)
    if first:
        top.set_ylabel("x")
        bottom.set_ylabel("error")
    else:
        top.tick_params(labelleft=False)
        bottom.tick_params(labelleft=False)


def _images(panels: list[Axes], case: Case, colour: str, *, first: bool) -> None:
    low, high = case.truth.min(), case.truth.max()
    extent = (case.time[0], case.time[-1], 0, 1)
    shown = ((case.truth, "truth", "viridis", low, high), (case.prediction, "prediction", "viridis", low, high))
    shown += ((case.deviation, "error", "magma", 0, max(float(case.deviation.max()), 1e-12)),)
    for axes, (values, name, colours, bottom, top) in zip(panels, shown, strict=True):
        image = axes.imshow(
            values.T, origin="lower", aspect="auto", extent=extent, cmap=colours, vmin=bottom, vmax=top,
            interpolation="nearest",
        )  # fmt: skip
        bar = axes.figure.colorbar(image, ax=axes, pad=0.02, aspect=8)
        bar.ax.tick_params(labelsize=5, length=1.5, pad=1)
        bar.ax.yaxis.get_major_locator().set_params(nbins=3)
        bar.outline.set_linewidth(0.4)
        axes.set_yticks([])
        axes.tick_params(labelbottom=name == "error")
        if first:
            axes.set_ylabel(f"{name}\nspace", fontsize=6.5)
    panels[-1].set_xlabel("t / τ", labelpad=1)


def _by_interval(axes: Axes, table: Trajectories, colour: str) -> None:
    if not table.by_interval:
        style.say(axes, "no errors by\ndelay interval")
        return
    for split, (median, p90) in table.by_interval.items():
        intervals = np.arange(1, len(median) + 1)
        axes.plot(intervals, median, color=colour, ls=SPLIT_STYLES[split], lw=1.2, zorder=3)
        axes.plot(intervals, p90, color=colour, ls=SPLIT_STYLES[split], lw=0.5, alpha=0.7)
    values = np.concatenate([np.concatenate(pair) for pair in table.by_interval.values()])
    style.log_axis(axes.yaxis, values)
    axes.set_title("median (bold), 90 % (thin)", fontsize=7)
    axes.set_xlabel("t / τ", labelpad=1)
    axes.set_ylabel("error", labelpad=1)
    axes.set_xlim(0.5, None)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid()
