"""Draws truth, prediction and error of the median test trajectory of every family: docs/images/predictions.png

python benchmarks/accuracy.py --models method_of_steps    # trains the operators, if they are not there yet
python -m benchmarks.prediction_pictures
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure, SubFigure

import dno
from benchmarks.pictures import BLUE, GREY, IMAGES, STYLE, VERMILLION
from data.batches import Split, load_family
from dno.metrics import relative_error

ROOT = Path(__file__).parents[1]
SCALAR, SPATIAL = ("mackey", "delayed_logistic", "neutral"), "reaction_diffusion"


def median_trajectory(family: str, model: str, arguments: argparse.Namespace) -> tuple[np.ndarray, ...]:
    """Times in delays (T,), truth and prediction (T, C) of the test trajectory whose error is the median, and that."""
    operator = dno.load(arguments.checkpoints / f"{family}_{model}_0.pt")
    split: Split = load_family(family, arguments.data_root, "cpu").splits["test"]
    with torch.no_grad():
        predicted = operator(split.history, split.tau, split.params, split.solution.shape[1])
    error = relative_error(predicted, split.solution, split.mask)
    index = int(error.argsort()[len(error) // 2])
    steps = int(split.lengths[index])
    times = np.arange(1, steps + 1) / split.points_per_delay
    truth, prediction = (values[index, :steps].numpy() for values in (split.solution, predicted))
    return times, truth, prediction, np.array(float(error[index]))


def draw_scalars(figure: SubFigure, arguments: argparse.Namespace) -> None:
    """Truth and prediction above, the absolute error below, a column per family."""
    panels = figure.subplots(2, len(SCALAR), sharex="col", height_ratios=(1.5, 1))
    for (top, bottom), family in zip(panels.T, SCALAR, strict=True):
        times, truth, prediction, error = median_trajectory(family, arguments.model, arguments)
        top.plot(times, truth[:, 0], color=GREY, linewidth=2.4, alpha=0.5, label="truth")
        top.plot(times, prediction[:, 0], color=BLUE, linewidth=0.9, label="prediction")
        top.set(title=f"{family}: relative L2 {error:.1e}", yscale="log" if family == "delayed_logistic" else "linear")
        bottom.semilogy(times, np.abs(prediction - truth)[:, 0], color=VERMILLION, linewidth=0.7)
        bottom.set(xlabel="time in delays")
    panels[0, 0].set_ylabel("x")
    panels[1, 0].set_ylabel("|error|")
    panels[0, -1].legend(loc="upper right", handlelength=1.2, borderaxespad=0.1)


def draw_spatial(figure: SubFigure, arguments: argparse.Namespace) -> None:
    """Truth, prediction and absolute error over space and time."""
    times, truth, prediction, error = median_trajectory(SPATIAL, arguments.model, arguments)
    panels, places = figure.subplots(1, 3), np.linspace(0, 1, truth.shape[1] + 1)
    closed = [
        np.concatenate([values, values[:, :1]], 1).T for values in (truth, prediction, np.abs(prediction - truth))
    ]
    limits = {"vmin": truth.min(), "vmax": truth.max(), "cmap": "viridis"}
    norm = {"norm": mpl.colors.LogNorm(1e-5, float(closed[2].max())), "cmap": "magma"}
    for axes, values, look, words in zip(
        panels,
        (*closed[:2], np.maximum(closed[2], 1e-5)),
        (limits, limits, norm),
        (f"{SPATIAL}: truth", "prediction", f"|error|, relative L2 {error:.1e}"),
        strict=True,
    ):
        image = axes.pcolormesh(times, places, values, shading="gouraud", rasterized=True, **look)
        axes.set(title=words, xlabel="time in delays")
        if axes is not panels[0]:
            axes.set_yticklabels([])
            figure.colorbar(image, ax=axes, pad=0.02)
    panels[0].set_ylabel("x")


def main() -> None:
    """Draws one figure of all families."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--model", default="method_of_steps")
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "benchmarks" / "checkpoints")
    parser.add_argument("--data_root", type=Path, default=ROOT / "data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(1.55, 1))
        draw_scalars(above, arguments)
        draw_spatial(below, arguments)
        path = IMAGES / "predictions.png"
        figure.savefig(path, dpi=110)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
