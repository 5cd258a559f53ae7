"""One training run. `train`, at the end, reads from top to bottom; settings, pace and early stopping stand above it."""

import contextlib
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import dno
from data.batches import FamilyData, RowWindows
from data.randomness import generator
from experiment_tracker import EpochRecord
from model_checkpoint import Checkpoints, Training
from model_evaluation import Evaluation, evaluate, rollout_error, steering_split
from model_optimizer import OPTIMIZERS, JointOptimizer, make_optimizer
from model_step import TrainingStep

logger = logging.getLogger(__name__)

WINDOWS_PER_EPOCH = 2048  # target rows, for every operator: 200 epochs are about two minutes of one core
EVALUATIONS = 20  # of the validation rollout during a whole training, at most
EVALUATION_SHARE = 0.1  # of limited seconds, at most: in space twenty looks would take a third of them
# Before patience may end a training. At high rates the error only wavers: method of steps on mackey, 200 epochs, was
# best at epoch 90 (1.1e-2), better only at 140, and ended at 7.7e-4; 20 epochs of patience alone would have cut it.
MIN_STALE_EVALUATIONS = 8
PEAK = 0.2  # progress of a cycle at which the one-cycle rate is highest
START_RATE, END_RATE = 0.04, 0.001  # of the peak's
SCHEDULES = ("one_cycle", "plateau")
MOST_RETREATS = 3  # from epochs that left the finite numbers, before a training has failed
CPU_OUT_OF_MEMORY = ("not enough memory", "DefaultCPUAllocator")  # how torch words it, in a plain RuntimeError


@dataclass(frozen=True)
class TrainingSettings:
    """The hyperparameters that belong to training; all can be searched, beside the operator's own."""

    learning_rate: float = 3e-3  # at the peak of the schedule
    batch_size: int = 32  # target rows per step
    weight_decay: float = 1e-5
    schedule: str = "one_cycle"  # or "plateau": halved whenever an evaluation brought no improvement
    optimizer: str = "muon"  # for matrices, AdamW for the rest; or "adamw" for all
    gradient_clip: float = 1.0  # largest norm of a step's gradient
    first_interval_share: float = 0.25  # of the training windows that start at the first interval

    def __post_init__(self) -> None:
        _check_number("learning_rate", self.learning_rate, lambda value: value > 0, "a number above 0")
        _check_number("weight_decay", self.weight_decay, lambda value: value >= 0, "a number of at least 0")
        _check_number("gradient_clip", self.gradient_clip, lambda value: value > 0, "a number above 0")
        _check_number("first_interval_share", self.first_interval_share, lambda v: 0 <= v <= 1, "a number in [0, 1]")
        if not _is_whole(self.batch_size) or self.batch_size < 1:
            raise ValueError(f"batch_size: expected a whole number of at least 1, got {self.batch_size!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")


@dataclass(frozen=True)
class Limits:
    """When a training ends at the latest. With `max_seconds` the schedule completes within that time.

    At each of the `rungs` a one-cycle ends and the next begins: errors there are those of a finished training.
    """

    max_epochs: int = 200
    patience: int = 20  # epochs without a better validation error (and at least MIN_STALE_EVALUATIONS evaluations)
    max_seconds: float | None = None
    rungs: tuple[int, ...] = ()  # epochs, rising, all before the last

    def __post_init__(self) -> None:
        for name in ("max_epochs", "patience"):
            if not _is_whole(getattr(self, name)) or getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {getattr(self, name)!r}")
        if self.max_seconds is not None:
            _check_number("max_seconds", self.max_seconds, lambda value: value > 0, "a number above 0")
        if list(self.rungs) != sorted({*self.rungs}) or any(not 0 < rung < self.max_epochs for rung in self.rungs):
            raise ValueError(f"rungs: expected rising epochs below {self.max_epochs}, got {self.rungs}")


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended. Metrics that were not computed, or are not finite, are absent."""

    status: str  # "complete", "failed", or why `on_epoch` stopped it: "pruned", "paused" or "interrupted"
    reason: str | None
    metrics: dict[str, float | int | list[float]]
    operator: dno.Operator | None  # with the best weights; None where there are none
    predictions: dict[str, np.ndarray]
    seconds: dict[str, float]  # training, evaluation, total


class Divergence(ArithmeticError):
    """The training left the finite numbers."""


def operator_spec(data: FamilyData) -> dno.OperatorSpec:
    """What an operator may know of a family."""
    return dno.OperatorSpec(data.channels, data.points_per_delay, tuple(data.parameter_names), data.traits)


def default_hyperparameters(model: str, spec: dno.OperatorSpec) -> dict[str, object]:
    """The documented default configuration: the operator's hyperparameters and the training's."""
    # A window of a spatial family holds X times the points: smaller batches buy more steps in the same time.
    by_trait = {"batch_size": 16, "learning_rate": 5e-3} if "spatial" in spec.traits else {}
    return dno.default_hyperparameters(model, spec) | dataclasses.asdict(TrainingSettings()) | by_trait


def hyperparameter_names(model: str) -> tuple[str, ...]:
    """Every name that may appear in `SEARCH_SPACES[model]`."""
    if model not in dno.OPERATORS:
        raise ValueError(f"model: expected one of {', '.join(dno.MODELS)}, got {model!r}")
    own = dataclasses.fields(dno.OPERATORS[model].Hyperparameters)
    return tuple(entry.name for entry in (*own, *dataclasses.fields(TrainingSettings)))


def split_hyperparameters(
    model: str, hyperparameters: Mapping[str, object]
) -> tuple[dict[str, object], TrainingSettings]:
    """The operator's own part, and the training's. Raises ValueError for a name that neither takes."""
    valid = hyperparameter_names(model)
    unknown = [name for name in hyperparameters if name not in valid]
    if unknown:
        raise ValueError(f"{model} has no hyperparameter {unknown[0]!r}; it takes {', '.join(sorted(valid))}")
    training = {entry.name for entry in dataclasses.fields(TrainingSettings)}
    own = {name: value for name, value in hyperparameters.items() if name not in training}
    return own, TrainingSettings(**{name: value for name, value in hyperparameters.items() if name in training})


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_number(name: str, value: object, holds: Callable[[float], bool], expected: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not holds(value):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


class Stopwatch:
    """Where the time goes, by one clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._start = clock, clock()
        self.spent = {"training": 0.0, "evaluation": 0.0}

    def elapsed(self) -> float:
        """Seconds since the training began."""
        return self._clock() - self._start

    def go_on_from(self, seconds: float) -> None:
        """Counts on from what a training had taken when it was cut off."""
        self._start = self._clock() - seconds

    @contextlib.contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Adds the time of its block to an activity."""
        start = self._clock()
        try:
            yield
        finally:
            self.spent[activity] += self._clock() - start


class Pace:
    """How far a training is, from 0 to 1: the learning rate, the evaluations and the end go by it."""

    def __init__(self, limits: Limits, settings: TrainingSettings, target_rows: int, watch: Stopwatch) -> None:
        self.limits, self.settings, self.watch = limits, settings, watch
        self.crops = max(1, settings.batch_size // target_rows)
        self.steps_per_epoch = max(1, WINDOWS_PER_EPOCH // (self.crops * target_rows))
        self.epoch = self.steps = 0
        self.is_over = False  # by patience
        self._rate_share, self._evaluated_at = 1.0, 0.0  # of the rate
        self._retreats = 0
        self._stale_since = self._stale_evaluations = 0
        self._bounds = (0.0, *(rung / limits.max_epochs for rung in limits.rungs), 1.0)  # of cycles, in progress

    def progress(self) -> float:
        """The larger of the shares of epochs and of seconds that are over."""
        share = self.steps / (self.limits.max_epochs * self.steps_per_epoch)
        if self.limits.max_seconds is not None:
            share = max(share, self.watch.elapsed() / self.limits.max_seconds)
        return min(1.0, share)

    def learning_rate(self, progress: float) -> float:
        """One-cycle: half a cosine up to the peak, half a cosine down (Smith & Topin 2019). Plateau: in steps.

        Halved by every retreat.
        """
        peak = self.settings.learning_rate * self._rate_share
        if self.settings.schedule == "plateau":
            return peak
        start, end = next(pair for pair in itertools.pairwise(self._bounds) if progress < pair[1] or pair[1] == 1.0)
        progress = (progress - start) / (end - start)
        up = progress < PEAK
        way = progress / PEAK if up else (1.0 - progress) / (1.0 - PEAK)
        low = START_RATE if up else END_RATE
        return peak * (low + (1.0 - low) * 0.5 * (1.0 - math.cos(math.pi * way)))

    def retreat(self, steps: int) -> bool:
        """Takes back these steps and halves the rate; False where it was done MOST_RETREATS times."""
        if self._retreats == MOST_RETREATS:
            return False
        self._retreats += 1
        self._rate_share *= 0.5
        self.steps -= steps
        return True

    def is_evaluation_due(self) -> bool:
        """At most EVALUATIONS times by epochs, or by progress where seconds are limited; always at the end.

        Limited seconds are spent on evaluations only up to EVALUATION_SHARE of those that are over.
        """
        if self.limits.max_seconds is None:
            every = -(-self.limits.max_epochs // EVALUATIONS)
            return self.epoch % every == 0 or self.epoch in (*self.limits.rungs, self.limits.max_epochs)
        last, now = self._evaluated_at, self.progress()
        is_dear = self.watch.spent["evaluation"] > EVALUATION_SHARE * self.watch.elapsed()
        if now < 1.0 and (is_dear or int(now * EVALUATIONS) == int(last * EVALUATIONS)):
            return False
        self._evaluated_at = now
        return True

    def is_stale(self, improved: bool) -> bool:
        """To be told of every evaluation: whether there was no better one for `patience` epochs, and several times.

        One-cycle: counted from the last peak of the rate on. Plateau: every evaluation without improvement halves it.
        """
        if not improved and self.settings.schedule == "plateau":
            self._rate_share *= 0.5
        last_peak = self._bounds[-2] + PEAK * (1.0 - self._bounds[-2])
        if improved or (self.settings.schedule == "one_cycle" and self.progress() < last_peak):
            self._stale_since, self._stale_evaluations = self.epoch, 0
            return False
        self._stale_evaluations += 1
        is_old = self.epoch - self._stale_since >= self.limits.patience
        return is_old and self._stale_evaluations >= MIN_STALE_EVALUATIONS


@dataclass
class Best:
    """The weights with the smallest validation error so far, as a copy."""

    error: float = math.inf
    epoch: int = 0
    seconds: float = math.nan
    state: dict[str, torch.Tensor] | None = None

    def improve(self, error: float, operator: nn.Module, epoch: int, seconds: float) -> bool:
        """Whether this is the best so far, which is then kept. An error that is not finite never is."""
        if not error < self.error:
            return False
        self.error, self.epoch, self.seconds = error, epoch, seconds
        if self.state is None:
            self.state = {name: torch.empty_like(value) for name, value in operator.state_dict().items()}
        for name, value in operator.state_dict().items():
            self.state[name].copy_(value)
        return True


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for torch, of its own for each purpose."""
    return int(generator(seed, f"training/{purpose}", 0).integers(2**63))


def train_epoch(
    operator: dno.Operator, optimizer: JointOptimizer, step: TrainingStep, pace: Pace, best: Best
) -> tuple[float, float]:
    """Means over the steps of the loss and of the gradient's norm before clipping; the only wait for the device.

    An epoch that leaves the finite numbers is trained again, from the best weights so far and at half the rate. Raises
    Divergence where there are none, or where that did not help.
    """
    while True:
        operator.train()
        step.begin_epoch()
        steps = 0
        while steps < pace.steps_per_epoch and (steps == 0 or pace.progress() < 1.0):
            progress = pace.progress()
            step(pace.learning_rate(progress), progress)
            steps += 1
            pace.steps += 1
        mean_loss, mean_norm = (step.totals / steps).tolist()
        if math.isfinite(mean_loss) and math.isfinite(mean_norm):
            return mean_loss, mean_norm
        problem = f"the loss or its gradient was not finite in epoch {pace.epoch}"
        if best.state is None or not pace.retreat(steps):
            raise Divergence(problem)
        logger.warning("%s: trained again from the weights of epoch %d, at half the rate", problem, best.epoch)
        operator.load_state_dict(best.state)
        optimizer.forget()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine had no memory left; torch says the latter in a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in CPU_OUT_OF_MEMORY
    )


def train(
    model: str,
    hyperparameters: Mapping[str, object],
    data: FamilyData,
    *,
    limits: Limits,
    seed: int,
    on_epoch: Callable[[EpochRecord], str | None],
    clock: Callable[[], float] = time.perf_counter,
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Train one configuration on one family: val steers, the test splits are looked at once, after the end.

    `on_epoch` gets the record of every epoch and returns None, or why to stop: "pruned", "paused" or "interrupted".
    Without `limits.max_seconds` the same seed gives the same bits on one CPU thread, also where it goes on from one of
    `checkpoints`. Raises ValueError for hyperparameters that do not exist or have impossible values.
    """
    own, settings = split_hyperparameters(model, hyperparameters)
    split, device = data.splits["train"], data.splits["train"].tau.device
    watch, best = Stopwatch(clock), Best()
    status, reason, operator, evaluation = "complete", None, None, Evaluation({}, {})
    costs: dict[str, float | int] = {"epochs": 0}
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else []):
            torch.manual_seed(derived_seed(seed, "weights"))
            operator = dno.build_operator(model, own, operator_spec(data)).to(device)
            operator.fit_normalisation(split.history, split.solution, split.mask, split.tau, split.params)
            costs["n_parameters"] = sum(parameter.numel() for parameter in operator.parameters())
            windows = RowWindows(split, operator.past_rows, operator.target_rows, settings.first_interval_share)
            steering = steering_split(data.splits["val"])
            optimizer = make_optimizer(operator, settings.optimizer, settings.weight_decay)
            pace = Pace(limits, settings, operator.target_rows, watch)
            torch.manual_seed(derived_seed(seed, "dropout"))
            order = torch.Generator(device).manual_seed(derived_seed(seed, "batch order"))
            training = Training(operator, optimizer, (pace, best, watch), order, [])
            if checkpoints is not None and checkpoints.saved is not None:
                training.restore(checkpoints.saved)
                costs["epochs"] = pace.epoch
                watch.go_on_from(training.records[-1].elapsed_seconds)
            shape = pace.steps_per_epoch, pace.crops
            step = TrainingStep(operator, windows, optimizer, shape, settings.gradient_clip, order)

            while pace.progress() < 1.0 and not pace.is_over and status == "complete":
                pace.epoch, began = pace.epoch + 1, watch.elapsed()
                with watch.measure("training"):
                    loss, norm = train_epoch(operator, optimizer, step, pace, best)
                costs["epochs"] = pace.epoch
                error = math.nan
                if pace.is_evaluation_due():
                    with watch.measure("evaluation"):
                        error = rollout_error(operator, steering)
                    pace.is_over = pace.is_stale(best.improve(error, operator, pace.epoch, watch.elapsed()))
                rate, now = pace.learning_rate(pace.progress()), watch.elapsed()
                training.records.append(EpochRecord(pace.epoch, loss, error, rate, norm, now - began, now))
                status = on_epoch(training.records[-1]) or status
                if checkpoints is not None and checkpoints.is_due(pace.epoch, status):
                    checkpoints.save(training)

        if best.state is not None:
            operator.load_state_dict(best.state)
            operator.eval()
        if status == "complete":
            if best.state is None:
                raise Divergence("no rollout of the validation split was finite")
            with watch.measure("evaluation"):
                evaluation = evaluate(operator, data, clock)
    except Divergence as error:
        status, reason = "failed", f"diverged: {error}"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        status, reason = "failed", "out of memory: " + (str(error).splitlines() or [type(error).__name__])[0]
    if best.state is not None:
        costs |= {"best_epoch": best.epoch, "seconds_to_best": best.seconds, "val_rel_error": best.error}
    costs["train_seconds"] = watch.spent["training"]
    return TrainingResult(
        status,
        reason,
        costs | evaluation.metrics,
        operator if status != "failed" and best.state is not None else None,
        evaluation.predictions,
        watch.spent | {"total": watch.elapsed()},
    )
