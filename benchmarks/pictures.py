"""Draws the pictures of the dataset card: python -m benchmarks.pictures  →  docs/images/family_*.png

One trajectory per family, and what becomes of the same (scaled) history under a delay that is a fifth longer.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data import FAMILIES, solve
from data.families import Family
from data.trajectories import Draw, draw_split

IMAGES = Path(__file__).parents[1] / "docs/images"
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito: readable with every kind of colour vision
STRETCH = 1.2
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "lines.linewidth": 1.1,
}


@dataclass(frozen=True)
class Shown:
    """How a family is shown: which draw of the test split, its equation in TeX, over how many delays."""

    index: int
    equation: str
    delays: float
    scale: str = "linear"


SHOWN = {
    "mackey": Shown(0, r"$x'(t)=\beta\,\frac{x(t-\tau)}{1+x(t-\tau)^n}-\gamma\,x(t)$", 16),
    "delayed_logistic": Shown(0, r"$x'(t)=r\,x(t)\,(1-x(t-\tau)/K)$", 14, "log"),
    "neutral": Shown(0, r"$x'(t)=a\,x(t)+b\,x(t-\tau)+c\,x'(t-\tau)$", 10),
    "reaction_diffusion": Shown(0, r"$u_t=D\,u_{xx}+r\,u\,(1-u(x,t-\tau))$", 10),
}


def trajectory(family: Family, draw: Draw, tau: float, delays: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns times from -tau on, (T,), and the values there, (T, C), of a scaled history under the delay tau."""
    past, times = np.linspace(-tau, 0, 101), np.linspace(0, delays * draw.tau, 1601)[1:]
    solution = solve(family, lambda t: draw.history(np.asarray(t) / tau), tau, draw.params, times)
    return np.concatenate([past, times]), np.concatenate([draw.history(past / tau), solution])


def draw_lines(axes: Axes, times: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    """Draws one channel over time, the history lighter."""
    is_past = times <= 0
    axes.plot(times[is_past], values[is_past], color=color, alpha=0.55, linestyle=(0, (3, 1)))
    axes.plot(times[~is_past], values[~is_past], color=color, label=label)


def draw_scalar(figure: Figure, family: Family, draw: Draw, shown: Shown) -> None:
    """Draws x over time, and x(t) against x(t - tau), under both delays."""
    left, right = figure.subplots(1, 2, width_ratios=(2.6, 1))
    left.axvspan(-draw.tau * STRETCH, 0, color="#EEEEEE", linewidth=0)
    left.text(
        -draw.tau * STRETCH / 2,
        0.02,
        "history",
        ha="center",
        fontsize=6,
        transform=left.get_xaxis_transform(),
        color=GREY,
    )
    for factor, color in ((1.0, BLUE), (STRETCH, VERMILLION)):
        tau = factor * draw.tau
        times, values = trajectory(family, draw, tau, shown.delays)
        draw_lines(left, times, values[:, 0], color, rf"$\tau={tau:.3g}$")
        later = times > 0
        delayed = np.interp(times[later] - tau, times, values[:, 0])
        right.plot(delayed, values[later, 0], color=color, linewidth=0.8, alpha=0.9)
    left.set(
        xlabel="time t", ylabel="x", title=shown.equation, yscale=shown.scale, xlim=(-draw.tau * STRETCH, times[-1])
    )
    left.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
    right.set(xlabel=r"$x(t-\tau)$", ylabel="x(t)", title="delay portrait", xscale=shown.scale, yscale=shown.scale)


def draw_spatial(figure: Figure, family: Family, draw: Draw, shown: Shown) -> None:
    """Draws u over space and time under both delays, and u at one point."""
    panels = figure.subplots(1, 3, width_ratios=(1.25, 1.25, 1.1))
    runs = [trajectory(family, draw, factor * draw.tau, shown.delays) for factor in (1.0, STRETCH)]
    top = max(values.max() for _, values in runs)
    for axes, (times, values), factor in zip(panels, runs, (1.0, STRETCH), strict=False):
        closed = np.concatenate([values, values[:, :1]], axis=1)  # periodic: x = 1 is x = 0
        places = np.linspace(0, 1, closed.shape[1])
        image = axes.pcolormesh(
            times, places, closed.T, vmin=0, vmax=top, cmap="viridis", shading="gouraud", rasterized=True
        )
        axes.axvline(0, color="white", linewidth=0.8, linestyle=(0, (3, 2)))
        axes.set(xlabel="time t", title=rf"$\tau={factor * draw.tau:.3g}$")
    panels[0].set(ylabel="x")
    figure.suptitle(shown.equation, x=0.01, ha="left", fontsize=8.5)
    panels[1].set_yticklabels([])
    figure.colorbar(image, ax=panels[1], label="u", pad=0.02)
    for (times, values), color, factor in zip(runs, (BLUE, VERMILLION), (1.0, STRETCH), strict=True):
        draw_lines(panels[2], times, values[:, 0], color, rf"$\tau={factor * draw.tau:.3g}$")
    panels[2].set(xlabel="time t", ylabel="u(0, t)")
    panels[2].legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1, handlelength=1.2)


def main() -> None:
    """Draws every family that SHOWN knows."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, shown in SHOWN.items():
        family = FAMILIES[name]
        draw = draw_split(family, "test", shown.index + 1, seed=0)[shown.index]
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(7.2, 2.3), layout="constrained")
            (draw_spatial if "spatial" in family.traits else draw_scalar)(figure, family, draw, shown)
            path = IMAGES / f"family_{name}.png"
            figure.savefig(path, dpi=170)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
