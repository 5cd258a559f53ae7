"""`--rerun RUN_FOLDER`: a configuration is trained again, from the same seed, and compared with what it gave."""

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch

import model_trainer
from data.batches import FamilyData
from experiment_tracker import (
    EpochRecord,
    FinalResults,
    Run,
    RunConfig,
    RunFolder,
    WandbSettings,
    choose_wandb_mode,
    open_wandb,
    read_run,
)
from search.command_line import DEFAULT_RESULTS_DIR, Options
from search.interruption import Interruption, watched
from search.plan import check_hyperparameters, find_data, resolve_device

logger = logging.getLogger(__name__)

MOST_THREADS = 256
MEASURED_TIMES = ("train_seconds", "seconds_to_best", "inference_ms")  # never repeat


def rerun(options: Options) -> int:
    """Trains the folder's configuration again into a new folder, prints both metrics; returns the exit code."""
    old, config, data = prepare(options)
    is_default = options.results_dir == DEFAULT_RESULTS_DIR
    results_dir = options.rerun.resolve().parent if is_default else options.results_dir  # beside the old run
    settings = WandbSettings(options.wandb_mode, options.wandb_project, options.wandb_entity, results_dir)
    wandb = open_wandb(choose_wandb_mode(settings))
    with watched() as interruption:
        from search.trials import train_into

        folder = RunFolder.create(results_dir, config)
        results = train_into(folder, data, wandb, stop_like(old, interruption))
    print(comparison(old, results, folder.path))
    if interruption.is_requested:
        return interruption.exit_code
    if results.traceback is not None:
        print(results.traceback, file=sys.stderr)
    return 1 if results.traceback is not None or results.status == "failed" else 0


def prepare(options: Options) -> tuple[Run, RunConfig, FamilyData]:
    """The old run, the new run's configuration, and the data, which must be those of the old run."""
    path = options.rerun
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"--rerun {path}: no config.json there; name a run folder of {options.results_dir}")
    old = read_run(path)
    if not 1 <= old.config.threads <= MOST_THREADS:
        raise ValueError(f"{path / 'config.json'}: threads: expected at least 1 and at most {MOST_THREADS}; mend it")
    torch.set_num_threads(old.config.threads)
    data_root = Path(old.config.data_root) if options.data_root == Path("data") else options.data_root
    device = resolve_device(old.config.device if options.device == "auto" else options.device)
    data = find_data(old.config.family, replace(options, data_root=data_root), device)
    changed = [split for split, digest in old.config.dataset_sha256.items() if data.sha256.get(split) != digest]
    if changed:
        raise ValueError(f"--rerun {path}: {data_root / old.config.family} has other data now ({', '.join(changed)})")
    _check(path, old.config, data)
    config = replace(
        old.config,
        attempt=0,
        role="rerun",
        device=str(device),
        data_root=str(data_root),
        command=options.command,
        created=datetime.now().astimezone().isoformat(),
    )
    return old, config, data


def _check(path: Path, config: RunConfig, data: FamilyData) -> None:
    """Raises ValueError for a configuration that cannot be trained: it may have been edited."""
    try:
        check_hyperparameters(config.model, config.hyperparameters, model_trainer.operator_spec(data))
        model_trainer.Limits(config.max_epochs, config.patience, config.max_seconds, tuple(config.rungs))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path / 'config.json'}: {error}; mend it, or name another run folder") from error


def stop_like(old: Run, interruption: Interruption) -> Callable[[EpochRecord], str | None]:
    """Stops a run where the old one was pruned, and when a signal comes."""
    was_pruned = old.results is not None and old.results.status == "pruned"

    def on_epoch(record: EpochRecord) -> str | None:
        if interruption.is_requested:
            return "interrupted"
        return "pruned" if was_pruned and record.epoch >= len(old.epochs) else None

    return on_epoch


def comparison(old: Run, new: FinalResults, new_path: Path) -> str:
    """Old and new metrics side by side, and whether they are identical."""
    before = old.results.metrics if old.results is not None else {}
    names = [name for name in {**before, **new.metrics} if not isinstance(before.get(name, 0.0), list)]
    names = [name for name in names if not isinstance(new.metrics.get(name, 0.0), list)]
    width = max(map(len, names), default=4)
    lines = [f"{'metric':<{width}}  {'before':>22}  {'again':>22}"]
    different = []
    for name in names:
        a, b = before.get(name), new.metrics.get(name)
        is_same = same(a, b)
        measured = name in MEASURED_TIMES
        if not is_same and not measured:
            different.append(name)
        note = "" if is_same else "  (measured time)" if measured else "  differs"
        lines.append(f"{name:<{width}}  {a!s:>22}  {b!s:>22}{note}")
    if old.results is None:
        verdict = "the old run never finished: nothing to compare"
    elif different:
        verdict = f"{len(different)} of {len(names)} metrics differ: {', '.join(different)}"
    else:
        verdict = "identical, bit for bit, apart from measured times"
    return "\n".join([*lines, verdict, f"new run folder: {new_path} ({new.status})"])


def same(a: object, b: object) -> bool:
    both_nan = isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
    return both_nan or (a is not None and a == b)
