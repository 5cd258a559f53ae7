"""How well an operator knows its own error: the spread of an ensemble, against a residual that is told the equation.

    python benchmarks/accuracy.py --models method_of_steps    # trains the members, if they are not there yet
    python benchmarks/calibration.py

Both estimates are scaled on the validation split, so that they cover nine of ten of its trajectories. Then, on splits
that chose nothing: the share of trajectories that they cover, the rank correlation with the true error, and how many
of the worst tenth of all trajectories are among the tenth with the largest estimates. Writes
benchmarks/measured/calibration.json and calibration.png beside it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import OUTPUT, write_results  # noqa: E402
from search.environment import prepare_process  # noqa: E402

if TYPE_CHECKING:
    import numpy as np
    import torch

    import dno
    from data.batches import Split

FAMILIES = ("mackey", "delayed_logistic", "neutral", "reaction_diffusion")
SPLITS = {"test": "in range", "test_tau": "larger τ", "test_history": "rougher history"}
COVERAGE = 0.9
COLOURS = {"test": "#0072B2", "test_tau": "#D55E00", "test_history": "#009E73"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--model", default="method_of_steps")
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "benchmarks" / "checkpoints")
    parser.add_argument("--data_root", type=Path, default=ROOT / "data")
    parser.add_argument("--output", type=Path, default=OUTPUT / "calibration.json")
    parser.add_argument("--picture", type=Path, default=OUTPUT / "calibration.png")
    return parser.parse_args()


def residual(family: str, predicted: torch.Tensor, split: Split) -> torch.Tensor:
    """What one Picard sweep with the true right-hand side changes in a trajectory, (N, T, C)."""
    import numpy as np
    import torch

    from data.families import FAMILIES as DEFINED
    from dno.quadrature import differentiation_matrix, integration_matrix

    chosen, points = DEFINED[family], split.points_per_delay
    path = torch.cat([split.history, predicted], 1).double().numpy()
    whole = (path.shape[1] - 1) // points
    rows = np.stack([path[:, n * points : (n + 1) * points + 1] for n in range(whole)], 1)  # (N, K+1, M+1, C)
    tau = split.tau.double().numpy()[:, None, None, None]
    params = split.params.double().numpy()
    named = {name: params[:, i, None, None, None] for i, name in enumerate(chosen.parameter_names)}
    slope = np.einsum("jm,nkmc->nkjc", differentiation_matrix(points + 1, 1 / points, np.arange(points + 1)), rows)
    rate = chosen.right_hand_side(rows[:, 1:], rows[:, :-1], slope[:, :-1] / tau, named)
    swept = rows[:, 1:, :1] + tau * np.einsum("jm,nkmc->nkjc", integration_matrix(points + 1, 1 / points), rate)
    change = torch.zeros(predicted.shape, dtype=torch.float64)
    change[:, : (whole - 1) * points] = torch.tensor((swept - rows[:, 1:])[:, :, 1:]).flatten(1, 2)
    return change


def measured(ensemble: dno.Ensemble, family: str, split: Split) -> dict[str, np.ndarray]:
    """Of every trajectory: relative error of the mean and of the first member, relative spread, relative residual."""
    import torch

    from dno.metrics import norm

    with torch.no_grad():
        paths = torch.stack([torch.cat([member(*part) for part in parts(split)]) for member in ensemble.members])
    mean, mask, scale = paths.mean(0), split.mask, norm(split.solution, split.mask)
    found = {
        "error": norm(mean - split.solution, mask) / scale,
        "single": norm(paths[0] - split.solution, mask) / scale,
        "spread": norm(paths.std(0), mask) / norm(mean, mask),
        "residual": norm(residual(family, mean, split), mask) / norm(mean, mask),
    }
    return {name: values.numpy() for name, values in found.items()}


def parts(split: Split, at_once: int = 50) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]:
    """The arguments of a forward pass, a few trajectories at a time."""
    steps = split.solution.shape[1]
    cut = [slice(start, start + at_once) for start in range(0, len(split), at_once)]
    return [(split.history[part], split.tau[part], split.params[part], steps) for part in cut]


def judge(found: dict[str, dict[str, np.ndarray]], estimate: str) -> dict[str, float]:
    """The factor of an estimate from validation, and what it is worth elsewhere."""
    import numpy as np
    from scipy.stats import spearmanr

    ratio = found["val"]["error"] / found["val"][estimate]
    factor = float(np.quantile(ratio, COVERAGE))
    result = {"factor": factor}
    for split in SPLITS:
        result[f"covered, {split}"] = float(np.mean(found[split]["error"] <= factor * found[split][estimate]))
    error = np.concatenate([found[split]["error"] for split in SPLITS])
    guess = np.concatenate([found[split][estimate] for split in SPLITS])
    result["rank correlation"] = float(spearmanr(error, guess).statistic)
    tenth = len(error) // 10
    worst, flagged = set(np.argsort(error)[-tenth:]), set(np.argsort(guess)[-tenth:])
    result["worst tenth flagged"] = len(worst & flagged) / tenth
    return result


def draw(everything: dict[str, dict[str, dict[str, np.ndarray]]], factors: dict[str, float], path: Path) -> None:
    """True error against estimate, a panel per family; on the diagonal they agree."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, panels = plt.subplots(1, len(everything), figsize=(2.4 * len(everything), 2.6), layout="constrained")
    for axes, (family, found) in zip(np.atleast_1d(panels), everything.items(), strict=True):
        for split, words in SPLITS.items():
            estimate = factors[family] * found[split]["spread"]
            axes.loglog(estimate, found[split]["error"], ".", ms=3, alpha=0.6, color=COLOURS[split], label=words)
        low, high = np.array([*axes.get_xlim(), *axes.get_ylim()])[[0, 1]]
        axes.plot([low, high], [low, high], color="0.4", lw=0.8)
        axes.set(title=family, xlabel="estimated error")
    np.atleast_1d(panels)[0].set_ylabel("true relative L2 error")
    np.atleast_1d(panels)[0].legend(fontsize=7, frameon=False, handletextpad=0.2)
    figure.savefig(path, dpi=150)


def main() -> int:
    arguments = parse_arguments()
    prepare_process()
    import torch
    from tqdm import tqdm

    import dno
    from data.batches import load_family

    torch.set_num_threads(1)
    everything, results = {}, {}
    for family in tqdm(arguments.families, desc="families"):
        files = sorted(arguments.checkpoints.glob(f"{family}_{arguments.model}_*.pt"))
        if len(files) < 2:
            tqdm.write(f"{family}: fewer than two seeds in {arguments.checkpoints}; benchmarks/accuracy.py trains them")
            continue
        ensemble = dno.Ensemble([dno.load(file) for file in files])
        data = load_family(family, arguments.data_root, "cpu")
        found = {name: measured(ensemble, family, data.splits[name]) for name in ("val", *SPLITS)}
        everything[family] = found
        results[family] = {estimate: judge(found, estimate) for estimate in ("spread", "residual")} | {
            f"median error, {name}": {
                kind: float(sorted(found[name][kind])[len(found[name][kind]) // 2]) for kind in ("single", "error")
            }
            for name in SPLITS
        }
        for estimate in ("spread", "residual"):
            numbers = ", ".join(f"{name} {value:.3g}" for name, value in results[family][estimate].items())
            tqdm.write(f"{family}, {estimate}: {numbers}")
    if not everything:
        return 1
    draw(everything, {family: found["spread"]["factor"] for family, found in results.items()}, arguments.picture)
    rows = [
        {
            "name": f"{family}: trajectories in range covered by the spread",
            "value": found["spread"]["covered, test"],
            "unit": "share",
            "target": 0.85,
            "holds": found["spread"]["covered, test"] >= 0.85,
        }
        for family, found in results.items()
    ]
    command = f"python benchmarks/calibration.py --model {arguments.model}"
    write_results(arguments.output, device="cpu", command=command, rows=rows, families=results, torch=torch.__version__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
