"""What is searched: a `StudyPlan` for each (model, family), made of the flags, the search space and the data."""

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

import dno
import model_trainer
from data import FAMILIES
from data.batches import FamilyData, load_family
from data.generate import ensure_datasets
from data.schema import REQUIRED_SPLITS, dataset_path
from hyperparameter_config import SEARCH_SPACES, Choice, Range, check_names, parse_space, restrict
from search.command_line import Options
from search.objectives import OBJECTIVES
from search.places import uses_default_root
from search.promotion import rungs
from search.sampling import derived_seed, grid_cells, snap
from search.storage import refuse_differences, stored_fingerprint
from search.warm_start import warm_starts

logger = logging.getLogger(__name__)

MOST_PER_GPU = 16  # with MPS, on an H100 with a core for each: 6 times the steps of one (benchmarks/gpu.py)
WORKER_BYTES = 2**30  # memory of one worker: about 0.5 GB for torch, the rest for data and activations
SPATIAL_WORKER_BYTES = 3 * 2**30  # 3.1 GB were seen, of stacked_history no wider than 64
SECONDS_PER_EPOCH = 1.0  # of a middling configuration on one core


@dataclass(frozen=True)
class StudyPlan:
    """One study: everything that decides which trials it holds and how they train.

    `defaults` completes a sampled configuration; `first` holds the configurations of the first slots and `cells` those
    of all slots, where they are given; `changes` tells how the default was moved into the space. A confirmation study
    repeats the configuration of the slot `origin` of the study `parent`.
    """

    name: str
    model: str
    family: str
    search_type: str
    space: dict[str, Range | Choice]
    dropped: tuple[str, ...]
    defaults: dict[str, object]
    n_slots: int
    objectives: tuple[str, ...]
    seed: int
    max_epochs: int
    patience: int
    max_seconds: float | None
    dataset_sha256: dict[str, str]
    sampler: str = "tpe"  # of a Bayesian search
    pruner: str = "promote"
    first: tuple[dict[str, object], ...] = ()
    cells: tuple[dict[str, object], ...] | None = None
    changes: tuple[str, ...] = ()
    parent: str | None = None
    origin: int | None = None

    @property
    def role(self) -> str:
        return "trial" if self.origin is None else "confirmation"

    def parameters(self, slot: int) -> dict[str, object]:
        """The configuration that is laid down for a slot; empty where the sampler chooses."""
        if self.cells is not None:
            return dict(self.cells[slot])
        return dict(self.first[slot]) if slot < len(self.first) else {}

    def label(self, slot: int) -> str:
        """What a slot is called in messages."""
        return f"slot {slot}" if self.origin is None else f"confirmation of slot {self.origin}, seed {slot}"

    def training_seed(self, slot: int) -> int:
        """The seed of a slot's training. A confirmation's seeds are those of no trial."""
        if self.origin is not None:
            return derived_seed(self.seed, f"confirmation of slot {self.origin}", slot)
        return derived_seed(self.seed, "training", slot)

    def rungs(self) -> tuple[int, ...]:
        """The epochs at which trials pause; a confirmation trains by the same schedule, and does not."""
        pauses = self.pruner == "promote" and self.search_type != "grid" and self.is_reported()
        return rungs(self.max_epochs) if pauses else ()

    def is_reported(self) -> bool:
        """Whether the study hears of errors while trials train; Optuna takes none of several objectives."""
        return self.objectives == ("rel_error",)

    def is_pruned(self) -> bool:
        """Whether bad trials are stopped early: not in a grid, which compares every cell, nor for other objectives."""
        return self.search_type != "grid" and self.origin is None and self.is_reported()

    def pauses(self) -> bool:
        """Whether trials stop at rungs and may go on later, in place of being stopped for good."""
        return self.is_pruned() and bool(self.rungs())

    def fingerprint(self) -> dict[str, object]:
        """What must not change while a study goes on. The number of slots may."""
        space = {
            name: list(entry.values) if isinstance(entry, Choice) else [entry.low, entry.high, entry.scale]
            for name, entry in self.space.items()
        }
        fixed = {name: value for name, value in self.defaults.items() if name not in space}
        is_judged = self.search_type != "grid" and self.is_reported()
        chosen = {"sampler": self.sampler, "pruner": self.pruner if is_judged else "hyperband"}
        usual = {"sampler": "tpe", "pruner": "hyperband"}  # not named: studies from before these flags go on
        return {name: value for name, value in chosen.items() if value != usual[name]} | {
            "model": self.model,
            "family": self.family,
            "search_type": self.search_type,
            "objectives": list(self.objectives),
            "seed": self.seed,
            "max_epochs": self.max_epochs,
            "patience": self.patience,
            "max_seconds": self.max_seconds,
            "space": space,
            "fixed": fixed,
            "data": {split: digest[:16] for split, digest in sorted(self.dataset_sha256.items())},
        }


def resolve_device(name: str) -> torch.device:
    """The device of `--device`; `auto` takes the GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"--device: expected auto, cpu, cuda or cuda:N, got {name!r}; leave it out to take what there is"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"--device: expected auto, cpu, cuda or cuda:N, got {name!r}; leave it out to take what there is"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    return device


def with_workers(options: Options) -> Options:
    """The options with a number of workers: as asked for, else one for every core, or so many for every GPU.

    Each needs memory for torch and the datasets; no more are started than fit.
    """
    if options.n_workers is not None:
        return options
    device = resolve_device(options.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cuda":
        n_gpus = torch.cuda.device_count() if device.index is None else 1
        return replace(options, n_workers=n_gpus * workers_per_gpu(options.workers_per_gpu, cores // n_gpus))
    families = [FAMILIES[name] for name in FAMILIES if options.family in (None, name)]
    are_spatial = any("spatial" in family.traits for family in families)
    fitting = psutil.virtual_memory().available // (SPATIAL_WORKER_BYTES if are_spatial else WORKER_BYTES)
    return replace(options, n_workers=max(1, min(cores, fitting)))


def workers_per_gpu(asked: int | None, cores: int) -> int:
    """As asked for; else one, or several where NVIDIA's multi-process service runs small kernels side by side."""
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    is_shared = (folder / "control").exists()
    if asked is None:
        return max(1, min(MOST_PER_GPU, cores)) if is_shared else 1
    if asked > 1 and not is_shared:
        logger.warning(
            "trainings that share a GPU take turns; side by side they run once nvidia-cuda-mps-control -d does"
        )
    return asked


def worker_device(name: str, line: int) -> str:
    """The device of one worker: with several GPUs they take turns."""
    device = resolve_device(name)
    if device.type != "cuda" or device.index is not None:
        return name
    return f"cuda:{line % torch.cuda.device_count()}"


def find_data(family: str, options: Options, device: torch.device) -> FamilyData:
    """The family's splits on the device. In the default root missing ones are made."""
    ensure_datasets(family, options.data_root, is_default_root=uses_default_root(options.data_root))
    return load_family(family, options.data_root, device)


def declared_data(family: str) -> FamilyData:
    """The family as it is defined, without any split: for a dry run before its datasets are made."""
    defined = FAMILIES[family]
    names = tuple(parameter.name for parameter in defined.parameters)
    return FamilyData(family, defined.channels, defined.points_per_delay, names, defined.traits, {}, {})


def has_data(family: str, data_root: Path) -> bool:
    return all(dataset_path(data_root, family, split).exists() for split in REQUIRED_SPLITS)


def checked_spaces(models: Iterable[str]) -> dict[str, dict[str, Range | Choice]]:
    """The parsed search space of every model; ValueError for a malformed entry or a name that nothing takes."""
    spaces = {}
    for model in models:
        spaces[model] = parse_space(model)
        check_names(model, spaces[model], model_trainer.hyperparameter_names(model))
    return spaces


def plan_study(
    model: str, space: dict[str, Range | Choice], data: FamilyData, options: Options, is_only: bool
) -> StudyPlan:
    """The plan of one (model, family)."""
    spec = model_trainer.operator_spec(data)
    space, dropped = restrict(space, lambda name, value: dno.objection(model, name, value, spec))
    for objective in options.objectives:
        split = OBJECTIVES[objective].split
        if split is not None and data.splits and split not in data.splits:
            raise ValueError(
                f"--objectives {objective}: needs {options.data_root / data.family / split}.h5, which is missing"
            )
    defaults = model_trainer.default_hyperparameters(model, spec)
    _check_values(model, space, spec)
    name = f"{model}_{data.family}_{options.search_type}" if options.study is None else options.study
    if options.study is not None and not is_only:
        name = f"{options.study}_{model}_{data.family}"
    plan = StudyPlan(
        name=name,
        model=model,
        family=data.family,
        search_type=options.search_type,
        space=space,
        dropped=tuple(dropped),
        defaults=defaults,
        n_slots=options.n_trials,
        objectives=options.objectives,
        seed=options.seed,
        max_epochs=options.max_epochs,
        patience=options.patience,
        max_seconds=options.max_seconds,
        dataset_sha256=dict(data.sha256),
        sampler=options.sampler or "tpe",
        pruner=options.pruner,
    )
    if options.search_type == "grid":
        cells = tuple(grid_cells(space, options.max_combinations, options.seed))
        return replace(plan, cells=cells, n_slots=len(cells))
    first, changes = snap(defaults, space)
    earlier = [] if options.warm_start is None else warm_starts(options.warm_start, name, model, space)
    warm = [parameters for parameters in earlier if parameters != first]
    return replace(plan, first=(first, *warm), changes=tuple(changes))


def _check_values(model: str, space: dict[str, Range | Choice], spec: dno.OperatorSpec) -> None:
    """Raises ValueError for a value that neither the operator nor the training takes."""
    for name, entry in space.items():
        for value in entry.values if isinstance(entry, Choice) else (entry.low, entry.high):
            try:
                check_hyperparameters(model, {name: value}, spec)
            except ValueError as error:
                raise ValueError(f"SEARCH_SPACES[{model!r}][{name!r}]: {error}; correct that line") from error


def check_hyperparameters(model: str, hyperparameters: Mapping[str, object], spec: dno.OperatorSpec) -> None:
    """Raises ValueError for a name or a value that neither the operator nor the training takes."""
    own, _ = model_trainer.split_hyperparameters(model, hyperparameters)
    dno.check_hyperparameters(model, own, spec)


def prepare_studies(options: Options, families: Sequence[str]) -> tuple[list[StudyPlan], dict[str, FamilyData]]:
    """The studies on these families, and the data of each. ValueError or FileNotFoundError for what is wrong."""
    models = [options.model] if options.model else [name for name in SEARCH_SPACES if name in dno.MODELS]
    spaces = checked_spaces(models)
    device = resolve_device(options.device)
    data = {}
    for family in families:
        is_to_be_made = uses_default_root(options.data_root) and not has_data(family, options.data_root)
        if options.dry_run and is_to_be_made and family in FAMILIES:
            data[family] = declared_data(family)
        else:
            data[family] = find_data(family, options, device)
    is_only = len(models) * len(families) == 1
    plans = [
        plan_study(model, spaces[model], data[family], options, is_only) for model in models for family in families
    ]
    return plans, data


def estimated_hours(plans: list[StudyPlan], n_workers: int) -> float:
    """A rough guess of the wall time, were no trial stopped early."""
    seconds = sum(
        plan.n_slots * min(plan.max_epochs * SECONDS_PER_EPOCH, plan.max_seconds or math.inf) for plan in plans
    )
    return seconds / n_workers / 3600


def check_stored(plans: list[StudyPlan], options: Options) -> None:
    """Raises ValueError where a study of this name was started differently. Writes nothing."""
    for plan in plans:
        stored = stored_fingerprint(options.results_dir, plan.name, options.storage)
        if stored is not None:
            refuse_differences(plan.name, stored, plan.fingerprint())
