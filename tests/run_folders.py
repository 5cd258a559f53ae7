"""Makes results folders of synthetic runs through the real door, so that reports can be tested without training."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiment_tracker import EpochRecord, FinalResults, RunConfig, RunFolder

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("stacked_history", "method_of_steps", "memory_kernel")
FAMILIES = ("mackey", "delayed_logistic", "neutral", "reaction_diffusion")
BASE_ERROR = {"stacked_history": 8e-3, "method_of_steps": 2e-3, "memory_kernel": 4e-3}
INTERVALS = {"test": 10, "test_tau": 10, "test_horizon": 20}


def hyperparameters(generator: np.random.Generator, *, spatial: bool) -> dict[str, float | int | str]:
    """One configuration of the usual space."""
    values = {
        "learning_rate": float(10 ** generator.uniform(-5, -2)),
        "batch_size": int(generator.choice([16, 32, 64, 128])),
        "fourier_modes_t": int(generator.choice([4, 8, 12, 16])),
        "width": int(generator.choice([32, 64, 128, 256])),
        "n_layers": int(generator.integers(2, 7)),
        "dropout": float(generator.uniform(0, 0.3)),
        "weight_decay": float(10 ** generator.uniform(-6, -3)),
        "schedule": str(generator.choice(["one_cycle", "plateau"])),
        "gradient_clip": 1.0,
    }
    return values | ({"fourier_modes_x": int(generator.choice([4, 6, 8]))} if spatial else {})


def run_config(model: str, family: str, slot: int, values: Mapping[str, object], **changes: object) -> RunConfig:
    fields: dict[str, object] = {
        "study": f"{model}_{family}_bayesian",
        "slot": slot,
        "attempt": 0,
        "role": "trial",
        "search_type": "bayesian",
        "model": model,
        "family": family,
        "hyperparameters": dict(values),
        "seed": slot,
        "max_epochs": 40,
        "patience": 20,
        "max_seconds": None,
        "objectives": ["rel_error"],
        "device": "cpu",
        "threads": 1,
        "data_root": "data",
        "dataset_sha256": {"train": "0" * 64},
        "versions": {"python": "3.11"},
        "command": f"python hyperparameter_search.py --model {model} --family {family}",
        "created": f"2026-01-02T03:{slot % 60:02d}:00+00:00",
    }
    return RunConfig(**(fields | changes))


def error_of(model: str, values: Mapping[str, object], generator: np.random.Generator) -> float:
    """A made-up landscape: the learning rate has an optimum at 2e-3, width helps, dropout hurts, the rest is noise."""
    distance = math.log10(values["learning_rate"] / 2e-3)
    effect = 0.55 * distance**2 - 0.2 * math.log2(values["width"] / 64) + 1.5 * values["dropout"]
    return BASE_ERROR.get(model, 5e-3) * math.exp(effect + 0.15 * generator.standard_normal())


def make_run(
    results_dir: Path,
    config: RunConfig,
    status: str | None,
    generator: np.random.Generator,
    *,
    with_predictions: bool = True,
) -> Path:
    """One run folder; `status` None leaves it unfinished. Returns its path."""
    folder = RunFolder.create(results_dir, config)
    final = error_of(config.model, config.hyperparameters, generator)
    stop = config.max_epochs if status == "complete" else config.max_epochs // 4
    for record in epochs(final, config, stop, generator):
        folder.append_epoch(record)
    if status is None:
        folder.close()
        return folder.path
    if status == "complete" and with_predictions:
        channels = 20 if "fourier_modes_x" in config.hyperparameters else 1
        folder.save_predictions(predictions(final, channels, generator))
    reason = {"failed": "diverged: loss is not finite at epoch 10", "pruned": "pruned at epoch 10"}.get(status)
    seconds = {"training": 0.9 * stop, "evaluation": 0.1 * stop, "total": 1.05 * stop}
    folder.finish(FinalResults(status, reason, metrics(status, final, config, generator), seconds))
    return folder.path


def epochs(final: float, config: RunConfig, stop: int, generator: np.random.Generator) -> list[EpochRecord]:
    """A falling, noisy training; validation every second epoch."""
    speed = 4 / config.max_epochs
    rate, width = config.hyperparameters["learning_rate"], config.hyperparameters["width"]
    records, elapsed = [], 0.0
    for epoch in range(1, stop + 1):
        error = (final + 0.5 * math.exp(-2 * speed * epoch)) * math.exp(0.08 * generator.standard_normal())
        seconds = 0.5 * width / 64
        elapsed += seconds
        cosine = 0.5 * (1 - math.cos(2 * math.pi * epoch / (config.max_epochs + 1)))
        records.append(
            EpochRecord(epoch, error**2, error if epoch % 2 == 0 else math.nan, rate * cosine, 0.5, seconds, elapsed)
        )
    return records


def metrics(status: str, final: float, config: RunConfig, generator: np.random.Generator) -> dict[str, object]:
    """The metrics that a run of this status has."""
    width, layers = config.hyperparameters["width"], config.hyperparameters["n_layers"]
    cost = {
        "epochs": config.max_epochs,
        "train_seconds": 0.5 * width / 64 * config.max_epochs,
        "n_parameters": width**2 * layers,
    }
    if status == "failed":
        return cost
    if status != "complete":
        return cost | {"val_rel_error": 3 * final}
    values: dict[str, object] = {}
    for split in ("val", "test"):
        error = final * math.exp(0.1 * generator.standard_normal())
        values |= {
            f"{split}_rel_error": error,
            f"{split}_rel_error_median": 0.7 * error,
            f"{split}_rel_error_p90": 2.2 * error,
            f"{split}_rollout_error": 3 * error,
            f"{split}_stability_score": 0.1 + 5 * error,
            f"{split}_valid_time": 10.0,
            f"{split}_by_interval": [error * (1 + n / 3) for n in range(10)],
        }
    values |= {"rollout_error": values["test_rollout_error"], "stability_score": values["test_stability_score"]}
    values |= {"tau_rel_error": 2 * final, "history_rel_error": 1.5 * final, "best_epoch": config.max_epochs - 2}
    return cost | values | {"inference_ms": 0.1 * layers, "seconds_to_best": 0.9 * cost["train_seconds"]}


def predictions(final: float, channels: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Truth and prediction of three trajectories, and errors by delay interval."""
    arrays: dict[str, np.ndarray] = {}
    points = 32
    time, past = np.arange(1, 10 * points + 1) / points, np.linspace(-1, 0, points + 1)
    space = 2 * np.pi * np.arange(channels) / channels
    for case, factor in (("best", 0.2), ("median", 0.7), ("worst", 6.0)):
        phase = generator.uniform(0, 6)
        wave = 1 + 0.5 * np.sin(1.7 * time[:, None] + phase + np.sin(space))
        drift = factor * final * time[:, None] / 5 * np.cos(2.3 * time[:, None] + space)
        history = 1 + 0.5 * np.sin(1.7 * past[:, None] + phase + np.sin(space))
        arrays |= {f"{case}_time": time, f"{case}_truth": wave, f"{case}_prediction": wave + drift}
        arrays |= {f"{case}_history": history, f"{case}_tau": np.array(17.0), f"{case}_error": np.array(factor * final)}
    for (split, n), factor in zip(INTERVALS.items(), (1.0, 2.5, 1.3), strict=True):
        median = factor * final * (0.3 + np.arange(1, n + 1) / 5)
        arrays |= {f"{split}_interval_median": median, f"{split}_interval_p90": 2.5 * median}
    return arrays


def make_results(
    results_dir: Path,
    *,
    models: Sequence[str] = MODELS,
    families: Sequence[str] = FAMILIES,
    trials: int = 25,
    confirmations: int = 2,
    seed: int = 0,
) -> list[Path]:
    """A study for every pair: of ten trials one fails, two are pruned and the others are complete.

    The configuration of slot 0 is trained again `confirmations` times. Returns the run folders.
    """
    generator, paths = np.random.default_rng(seed), []
    for family in families:
        for model in models:
            searched = [hyperparameters(generator, spatial=family == "reaction_diffusion") for _ in range(trials)]
            for slot, values in enumerate(searched):
                status = {3: "failed", 5: "pruned", 8: "pruned"}.get(slot % 10, "complete")
                paths.append(make_run(results_dir, run_config(model, family, slot, values), status, generator))
            for n in range(confirmations):
                config = run_config(
                    model, family, trials + n, searched[0], role="confirmation", origin=0, seed=1000 + n
                )
                paths.append(make_run(results_dir, config, "complete", generator, with_predictions=False))
    return paths


def paste_custom_plot(folder: Path) -> Path:
    """A copy of advanced_visualizations.py with the README's custom plot pasted into the class; returns its path."""
    (snippet,) = re.findall(r"```python\n(def create_custom_plot.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    source = (ROOT / "advanced_visualizations.py").read_text()
    before, method, after = source.partition("    def write(self)")
    path = folder / "pasted.py"
    path.write_text(f"{before}{textwrap.indent(snippet, '    ')}\n{method}{after}")
    return path
