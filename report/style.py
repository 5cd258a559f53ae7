"""How every figure looks: colours, sizes, axes; and how it is saved."""

import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)
from PIL import Image

from experiment_tracker import write_atomically

DPI = 300
SCREEN_DPI = 200
TINY = 1e-200  # what is below, or above its inverse, has no place on a logarithmic axis
FRAME = "#D55E00"  # of the best cell, and of points on a front
SMALLEST = 6.5  # points: no letter of a figure is smaller, whatever its width
MANY = 99  # ticks: with fewer than there are, matplotlib draws none between powers of ten
ALMOST_WHITE = 253  # what a palette makes of white, out of 255
# Okabe & Ito (2008): told apart under every common colour blindness.
COLOURS = {"stacked_history": "#0072B2", "method_of_steps": "#D55E00", "memory_kernel": "#009E73"}
MARKERS = {"stacked_history": "o", "method_of_steps": "s", "memory_kernel": "^"}
DASHES = {"stacked_history": "-", "method_of_steps": (0, (5, 1.5)), "memory_kernel": (0, (5, 1.2, 1.2, 1.2))}
SPARE_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
SPARE_MARKERS = ("D", "v", "P", "X")
SPARE_DASHES = (":", (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2)))
TRUTH, GREY, PREDICTION, EMPTY = "#000000", "#7f7f7f", "#444444", "#d9d9d9"
RC = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": False,
    "grid.linewidth": 0.4,
    "grid.color": "#e3e3e3",
    "axes.axisbelow": True,
    "lines.linewidth": 1.0,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "savefig.dpi": DPI,
    "axes.formatter.use_mathtext": True,
}


Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Layout:
    """How a figure lies in a paper. Letters are of the same size in all layouts; panels are arranged differently."""

    width: float  # inches
    is_narrow: bool  # one column of a paper: panels that lie side by side elsewhere are stacked

    def choose(self, *, wide: Choice, narrow: Choice) -> Choice:
        """What a drawing function does in this layout, of its two ways."""
        return narrow if self.is_narrow else wide

    def figure(self, height: float) -> Figure:
        """An empty figure of this height in inches that arranges itself."""
        figure = Figure(figsize=(self.width, height), layout="constrained")
        if self.is_narrow:
            figure.get_layout_engine().set(h_pad=0.02, hspace=0.0)  # inches; panels stand closer
        return figure


WIDE, NARROW = Layout(7.2, is_narrow=False), Layout(3.5, is_narrow=True)
LAYOUTS = {layout.width: layout for layout in (WIDE, NARROW)}


@contextmanager
def styled(layout: Layout = WIDE) -> Iterator[None]:
    """Every figure is made and saved inside this; rcParams outside are left as they were."""
    with matplotlib.rc_context(RC | {"figure.figsize": (layout.width, 0.62 * layout.width)}):
        yield


def colour(model: str, models: Iterable[str] = ()) -> str:
    """The operator's fixed colour; one that is not ours gets a spare by its place among the unknown `models`."""
    return COLOURS.get(model) or SPARE_COLOURS[_spare(model, models) % len(SPARE_COLOURS)]


def marker(model: str, models: Iterable[str] = ()) -> str:
    """The operator's fixed marker, so that figures can be read in grey."""
    return MARKERS.get(model) or SPARE_MARKERS[_spare(model, models) % len(SPARE_MARKERS)]


def dashes(model: str, models: Iterable[str] = ()) -> object:
    """The operator's fixed line style, so that lines can be read in grey."""
    return DASHES.get(model) or SPARE_DASHES[_spare(model, models) % len(SPARE_DASHES)]


def model_order(models: Iterable[str]) -> list[str]:
    """Operators in the order of every legend: ours first, then others by name."""
    known = list(COLOURS)
    return sorted(set(models), key=lambda name: (known.index(name) if name in known else len(known), name))


def words(name: str, longest: int = 60) -> str:
    """A name from a file as a figure shows it: spaces for underscores, short, no mathematical text."""
    plain = "".join(letter if letter.isprintable() else " " for letter in name.replace("_", " ")).replace("$", r"\$")
    return plain if len(plain) <= longest else plain[: longest - 3] + "..."


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most `width` letters, broken at spaces."""
    return textwrap.fill(text, width, break_long_words=False)


def number(value: float, digits: int = 2) -> str:
    """A number in at most six letters with 2 digits: 0.16, 1.6e-4, 256."""
    if value != 0 and (abs(value) < 0.01 or abs(value) >= 1e5):
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').removesuffix('.')}e{int(exponent)}"
    return f"{value:.{digits + 1}g}" if abs(value) >= 1 else f"{value:.{digits}g}"


def log_axis(axis: Axis, values: Sequence[float], most: int | None = None) -> None:
    """A logarithmic axis with readable labels even when it spans less than two decades; `most` of them fit."""
    values = np.asarray([value for value in values if TINY < value < 1 / TINY])
    if not len(values):
        return
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    low, high = values.min(), values.max()
    pad = max((high / low) ** 0.06, 1.15)
    axis.axes.set(**{f"{axis.axis_name}lim": (low / pad, high * pad)})
    log_ticks(axis, low / pad, high * pad, most or (4 if axis.axis_name == "x" else 6))


def log_ticks(axis: Axis, low: float, high: float, most: int) -> None:
    """At most so many labels for a logarithmic axis from low to high: even steps below a factor 3, then 1-2-5, 1-3, 1.

    They are chosen here and not when the figure gets its size, so that they stay the same in all formats.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    counts = {
        subs: sum(low <= sub * 10.0**power <= high for power in powers for sub in subs)
        for subs in ((1, 2, 5), (1, 3), (1,))
    }
    subs = next((subs for subs, count in counts.items() if count <= most), (1,))
    axis.set_minor_formatter(NullFormatter())
    if high < 3 * low or counts[subs] < 2:
        axis.set_major_locator(MaxNLocator(max(most - 2, 2), steps=[1, 2, 2.5, 5, 10]))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=subs, numticks=most if subs == (1,) else MANY))
    is_plain = len(subs) > 1 or (low >= 0.1 and high < 1e8)
    axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)) if is_plain else LogFormatterSciNotation())


def compact(value: float) -> str:
    """A tick's number in few letters: 3e-4, 0.02, 50, 20k, 3M."""
    if 0 < value < 1e-3:
        return number(value)
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def say(axes: Axes, text: str) -> None:
    """A panel that holds a sentence instead of a plot."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=GREY, wrap=True)


def sentence(text: str, title: str = "") -> Figure:
    """A small figure that says why there is nothing to draw."""
    figure = NARROW.figure(1.4)
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    say(axes, text)
    return figure


def save(figure: Figure, folder: Path, stem: str, formats: Sequence[str]) -> list[Path]:
    """Writes folder/stem.<format> for every format."""
    paths = [folder / f"{stem}.{suffix}" for suffix in formats]
    for path in paths:
        kind = path.suffix[1:]
        write_atomically(
            path,
            lambda partial, kind=kind: figure.savefig(partial, format=kind, metadata=_metadata(kind)),
            is_flushed=False,
        )
    return paths


def save_and_embed(figure: Figure, folder: Path, stem: str, formats: Sequence[str]) -> tuple[list[Path], bytes]:
    """Writes the figure as `save` does; beside the paths its PNG for the page, in few bytes.

    The figure is drawn as pixels once, which is what takes the time.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    paths = save(figure, folder, stem, [suffix for suffix in formats if suffix != "png"])
    if "png" in formats:
        path = folder / f"{stem}.png"
        write_atomically(path, lambda partial: partial.write_bytes(stream.getvalue()), is_flushed=False)
        paths = [path, *paths]
    return paths, _smaller(stream)


def _smaller(stream: io.BytesIO) -> bytes:
    """The PNG with a palette of 256 colours: a quarter of the bytes, and no difference that an eye sees."""
    small = io.BytesIO()
    picture = Image.open(stream).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    picture.putpalette([255 if value >= ALMOST_WHITE else value for value in picture.getpalette()])
    picture.save(small, format="png", optimize=True)
    return small.getvalue()


def _metadata(suffix: str) -> dict[str, None]:
    """No dates in the files: the same runs give the same bytes."""
    return {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix, {})


def _spare(model: str, models: Iterable[str]) -> int:
    unknown = sorted({name for name in models if name not in COLOURS} | {model})
    return unknown.index(model)
