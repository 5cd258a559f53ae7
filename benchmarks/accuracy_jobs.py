"""What benchmarks/accuracy.py does in its worker processes: train, or fit, or search, and measure on every split."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import dno
import model_trainer
from benchmarks import identified, joint_fno
from benchmarks.accuracy_table import SEARCH
from data.batches import FamilyData, Split, load_family
from data.families import FAMILIES
from data.randomness import generator
from data.trajectories import Draw, draw_split, solve_draws
from dno import metrics
from experiment_tracker import EpochRecord
from hyperparameter_config import parse_space
from model_evaluation import evaluate, rollout

COMMON_DELAYS = 10  # every trajectory of every family has them
LONG_DELAYS, LONG_COUNT, LONG_TAU = 120, 100, (17.0, 24.0)  # of mackey: the valid prediction time
EDGES = (17.0, 19.0, 21.0, 24.0)  # of the delays that it is reported for
FNO_CONFIGURATIONS, FNO_SEARCH_SHARE = 12, 0.1  # of the seconds of a training, each
TRIVIAL, CEILING = "persistence", "identified"


@dataclass(frozen=True)
class Job:
    """One row of the benchmark: a training of `seconds` CPU seconds, or a baseline that needs none."""

    family: str
    operator: str
    seed: int
    seconds: float

    @property
    def key(self) -> str:
        return f"{self.family} {self.operator} seed {self.seed}"


@dataclass(frozen=True)
class Places:
    """Where datasets lie, and where trained operators go."""

    data_root: Path
    checkpoints: Path


class Persistence(nn.Module):
    """The last value of the history, held."""

    def forward(
        self, history: Tensor, tau: Tensor, params: Tensor, n_steps: int, lengths: Tensor | None = None
    ) -> Tensor:
        return history[:, -1:].expand(-1, n_steps, -1)


def run(job: Job, places: Places, found: dict[str, object] | None = None) -> dict[str, object]:
    """The record of a job, as JSON types. `found` is the configuration of a baseline that has a search of its own."""
    torch.set_num_threads(1)
    data = load_family(job.family, places.data_root, torch.device("cpu"))
    record = dataclasses.asdict(job) | {"traits": sorted(data.traits), "train_sha256": data.sha256["train"]}
    if job.operator == TRIVIAL:
        return record | _measured(Persistence(), data, evaluate(Persistence(), data).metrics)
    if job.operator == CEILING:
        return record | _identified(data)
    if job.operator == SEARCH:
        return record | _search_joint_fno(job, data)
    default = model_trainer.default_hyperparameters
    hyperparameters = found or default(job.operator, model_trainer.operator_spec(data))
    result, curve = train(job, data, hyperparameters)
    if result.operator is None:
        return record | {"status": result.status, "reason": result.reason}
    if job.operator != joint_fno.NAME:
        places.checkpoints.mkdir(parents=True, exist_ok=True)
        dno.save(result.operator, places.checkpoints / f"{job.family}_{job.operator}_{job.seed}.pt")
    record |= {"hyperparameters": hyperparameters, "curve": curve}
    return record | _measured(result.operator, data, result.metrics)


def train(
    job: Job, data: FamilyData, hyperparameters: dict[str, object], *, is_evaluated: bool = True
) -> tuple[model_trainer.TrainingResult, list[list[float]]]:
    """The trained operator, and its learning curve: CPU seconds and validation errors.

    A training that a search compares by its validation error alone is not evaluated at its end.
    """
    if job.operator == joint_fno.NAME:
        joint_fno.register()
        data = joint_fno.whole_trajectories(data)
    curve = []

    def note(record: EpochRecord) -> str | None:
        if math.isfinite(record.val_rel_error):  # of an epoch that was evaluated
            curve.append([record.elapsed_seconds, record.val_rel_error])
        return "pruned" if not is_evaluated and record.elapsed_seconds >= job.seconds else None

    return train_for(job.operator, hyperparameters, data, job.seconds, job.seed, note), curve


def train_for(
    model: str,
    hyperparameters: dict[str, object],
    data: FamilyData,
    seconds: float,
    seed: int,
    on_epoch: Callable[[EpochRecord], str | None] = lambda record: None,
) -> model_trainer.TrainingResult:
    """A training that CPU seconds alone end."""
    limits = model_trainer.Limits(max_epochs=1_000_000, patience=1_000_000, max_seconds=seconds)
    return model_trainer.train(
        model, hyperparameters, data, limits=limits, seed=seed, on_epoch=on_epoch, clock=time.process_time
    )


def _search_joint_fno(job: Job, data: FamilyData) -> dict[str, object]:
    """The best on validation of 12 configurations: a middling one, then random ones; each for a tenth of the time."""
    import optuna

    from search.sampling import suggest  # Optuna is loaded only here

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = parse_space(joint_fno.NAME, {joint_fno.NAME: joint_fno.SEARCH_SPACE})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=job.seed))
    study.enqueue_trial({"learning_rate": 3e-3, "trajectories": 8, "width": 32, "n_layers": 4, "modes": 48})
    tried = []
    for number in range(FNO_CONFIGURATIONS):
        point = suggest(study.ask(), space)
        hyperparameters = joint_fno.trainer_hyperparameters(point, data)
        part = Job(job.family, joint_fno.NAME, number, FNO_SEARCH_SHARE * job.seconds)
        result, _ = train(part, data, hyperparameters, is_evaluated=False)
        tried.append({"val_rel_error": result.metrics.get("val_rel_error"), "hyperparameters": hyperparameters})
    known = [entry for entry in tried if entry["val_rel_error"] is not None]
    best = min(known, key=lambda entry: entry["val_rel_error"])
    return {"tried": tried, "hyperparameters": best["hyperparameters"]}


def _measured(operator: nn.Module, data: FamilyData, found: dict[str, object]) -> dict[str, object]:
    """All metrics of the trainer, and those that only this benchmark wants."""
    more: dict[str, object] = {}
    for name, split in data.splits.items():
        if name in ("test", "test_tau"):
            cut = slice(COMMON_DELAYS * data.points_per_delay)
            first = dataclasses.replace(
                split,
                solution=split.solution[:, cut],
                mask=split.mask[:, cut],
                lengths=split.lengths.clamp(max=COMMON_DELAYS * data.points_per_delay),
            )
            (predicted,) = rollout(operator, first)
            error = metrics.relative_error(predicted, first.solution, first.mask)
            more[f"{name}_first_{COMMON_DELAYS}_delays"] = metrics.quantile(error, 0.5)
    if data.family == "mackey" and not isinstance(operator, joint_fno.JointFNO):
        more["valid_time"] = valid_times(operator, data)
    return {"status": "complete", "metrics": found | more}


def _identified(data: FamilyData) -> dict[str, object]:
    coefficients = identified.fit(data)
    found = {}
    for split, name in (
        ("test", "test_rel_error"),
        ("test_tau", "tau_rel_error"),
        ("test_history", "history_rel_error"),
    ):
        values = identified.errors(data, split, len(data.splits[split]), 0, coefficients)
        found |= {f"{name}_median": float(np.median(values)), f"{name}_p90": float(np.quantile(values, 0.9))}
    return {"status": "complete", "metrics": found, "coefficients_minus_1": (coefficients - 1).tolist()}


def long_trajectories() -> Split:
    """Mackey–Glass over LONG_DELAYS delays, from LONG_COUNT histories of its law, τ uniform over LONG_TAU."""
    family = FAMILIES["mackey"]
    draws = []
    for index in range(LONG_COUNT):
        stream = generator(0, "benchmarks/valid time", index)
        tau = float(stream.uniform(*LONG_TAU))
        params = {parameter.name: parameter.draw(stream) for parameter in family.parameters}
        draws.append(Draw(family.history.draw(stream), tau, params))
    grid = np.linspace(-1, 0, family.points_per_delay + 1)
    values = torch.tensor(solve_draws(family, draws, LONG_DELAYS).values, dtype=torch.float32)
    return Split(
        "long",
        torch.tensor(np.stack([draw.history(grid) for draw in draws]), dtype=torch.float32),
        torch.tensor([draw.tau for draw in draws], dtype=torch.float32),
        torch.tensor([list(draw.params.values()) for draw in draws], dtype=torch.float32),
        values,
        torch.ones(values.shape[:2], dtype=torch.bool),
        torch.full((len(draws),), values.shape[1]),
    )


def valid_times(operator: nn.Module, data: FamilyData) -> dict[str, float]:
    """The median valid prediction time in delays, over all long trajectories and by delay."""
    split = long_trajectories()
    (predicted,) = rollout(operator, split)
    times, ever_failed = metrics.valid_times(predicted, split.solution, split.mask, data.points_per_delay)
    found = {"median": metrics.quantile(times, 0.5), "never_failed": 1 - float(ever_failed.double().mean())}
    for low, high in itertools.pairwise(EDGES):
        inside = (split.tau >= low) & (split.tau < high)
        found[f"tau {low:g} to {high:g}"] = metrics.quantile(times[inside], 0.5)
    return found


def solver_milliseconds(family: str, repeats: int = 3) -> float:
    """CPU milliseconds per trajectory of the exact solver, in batches of 200 over the horizon of `test`."""
    chosen = FAMILIES[family]
    draws = draw_split(chosen, "test", 200, 0)
    delays = chosen.horizon / (chosen.tau[0] if chosen.horizon_unit == "time" else 1)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        solve_draws(chosen, draws, int(np.ceil(delays)))
        times.append(1e3 * (time.process_time() - start) / len(draws))
    return statistics.median(times)
