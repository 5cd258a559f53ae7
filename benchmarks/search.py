"""How good a model each search finds for the same CPU seconds: ours, Optuna's TPE, random search, Ray Tune's ASHA.

    python benchmarks/search.py --quick                 # one repeat, a short budget
    python benchmarks/search.py                         # three repeats
    python benchmarks/search.py --ray /path/to/python   # with Ray Tune, in an environment of requirements-ray.txt
    python benchmarks/search.py --ranks                 # whether early errors rank configurations as late ones do

All train the same operator on the same data in the same space with the same trainer, and begin with the same
configuration. At a third, two thirds and all of the budget, the configuration that is best on validation is trained
again with fresh seeds; its test error is the result. Seconds are CPU seconds of the searching processes, so that other
work on the machine does not count. Writes benchmarks/results/search.json and docs/images/search.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import write_results  # noqa: E402

if TYPE_CHECKING:
    from data.batches import FamilyData
    from experiment_tracker import EpochRecord
    from model_trainer import TrainingResult

CHECKPOINTS = (1 / 3, 2 / 3, 1.0)  # of the budget
METHODS = ("promote", "hyperband", "tpe", "random", "asha")
WORDS = {
    "promote": "this search, --pruner promote",
    "hyperband": "this search, --pruner hyperband",
    "tpe": "Optuna TPE, no pruning",
    "random": "random search",
    "asha": "Ray Tune, ASHA and Optuna",
}
POLL_SECONDS = 0.2
DEVICE = "CPU, one thread; CPU seconds"


@dataclass(frozen=True)
class Found:
    """A finished trial: CPU seconds since the search began, validation error, configuration."""

    seconds: float
    error: float
    hyperparameters: dict[str, object]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one repeat, a third of the budget, fewer epochs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all whose packages are there")
    parser.add_argument("--model", default="method_of_steps")
    parser.add_argument("--family", default="mackey")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=600, help="CPU seconds of each search (default: 600)")
    parser.add_argument("--max_epochs", type=int, default=27)
    parser.add_argument("--widest", type=int, default=64, help="leaves wider operators out of the space (default: 64)")
    parser.add_argument("--ranks", type=int, nargs="?", const=12, metavar="N", help="train N configurations (12)")
    parser.add_argument("--ray", type=Path, help="python of an environment with Ray Tune")
    parser.add_argument("--data_root", type=Path, default=ROOT / "data")
    parser.add_argument("--output", type=Path, help="default: search.json, search_quick.json or search_ranks.json")
    parser.add_argument("--worker", choices=("tpe", "random", "asha"), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.seconds = 1, 100.0
    kind = "_ranks" if arguments.ranks else "_quick" if arguments.quick else ""
    arguments.output = arguments.output or ROOT / "benchmarks" / "results" / f"search{kind}.json"
    return arguments


def setting(arguments: argparse.Namespace) -> tuple[FamilyData, dict[str, object], dict[str, object]]:
    """The data, the space and the first configuration that all searches share."""
    import torch

    import dno
    import model_trainer
    from data.batches import load_family
    from hyperparameter_config import parse_space, restrict
    from search.sampling import snap

    torch.set_num_threads(1)
    narrow(arguments)
    data = load_family(arguments.family, arguments.data_root, torch.device("cpu"))
    spec = model_trainer.operator_spec(data)
    space, _ = restrict(parse_space(arguments.model), lambda n, v: dno.objection(arguments.model, n, v, spec))
    defaults = model_trainer.default_hyperparameters(arguments.model, spec)
    first, _ = snap(defaults, space)
    return data, space, defaults | first


def narrow(arguments: argparse.Namespace) -> None:
    """Takes the widest operators out of the space of this process: one of their trials costs as much as twenty."""
    import hyperparameter_config

    entries = hyperparameter_config.SEARCH_SPACES[arguments.model]
    entries["width"] = [width for width in entries["width"] if width <= arguments.widest]


def train(
    arguments: argparse.Namespace,
    data: FamilyData,
    hyperparameters: dict[str, object],
    seed: int,
    on_epoch: Callable[[EpochRecord], str | None] = lambda record: None,
    rungs: tuple[int, ...] = (),
) -> TrainingResult:
    """One training by the trainer that all share."""
    import model_trainer

    limits = model_trainer.Limits(arguments.max_epochs, arguments.max_epochs, None, rungs)
    return model_trainer.train(arguments.model, hyperparameters, data, limits=limits, seed=seed, on_epoch=on_epoch)


def work(arguments: argparse.Namespace) -> None:
    """The life of a peer's search: prints each finished trial as a line of JSON until the budget is spent."""
    from search.environment import prepare_process

    prepare_process()
    data, space, first = setting(arguments)
    if arguments.worker == "asha":
        from benchmarks.ray_asha import search

        search(arguments, space, first)
        return
    import optuna

    from search.sampling import suggest

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study = optuna.create_study(sampler=samplers[arguments.worker](seed=arguments.seed))
    study.enqueue_trial({name: first[name] for name in space})
    while time.process_time() < arguments.seconds:
        trial = study.ask()
        hyperparameters = first | suggest(trial, space)
        late = lambda record: "interrupted" if time.process_time() > arguments.seconds else None  # noqa: E731
        result = train(arguments, data, hyperparameters, trial.number, late)
        error = result.metrics.get("val_rel_error") if result.status == "complete" else None
        study.tell(trial, error, state=None if error is not None else optuna.trial.TrialState.FAIL)
        if error is not None:
            found = {"seconds": time.process_time(), "error": error, "hyperparameters": hyperparameters}
            print(json.dumps(found), flush=True)


def peer(arguments: argparse.Namespace, method: str, seed: int) -> Iterator[Found]:
    """The trials of a peer's search, run in a process of its own."""
    python = str(arguments.ray) if method == "asha" else sys.executable
    command = [python, __file__, "--worker", method, "--seed", str(seed), "--seconds", str(arguments.seconds)]
    command += ["--model", arguments.model, "--family", arguments.family, "--max_epochs", str(arguments.max_epochs)]
    command += ["--data_root", str(arguments.data_root)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield Found(**json.loads(line))


def ours(arguments: argparse.Namespace, pruner: str, seed: int) -> Iterator[Found]:
    """The complete trials of the real command, which is interrupted when the budget is spent."""
    import psutil

    from experiment_tracker import read_run

    results = Path(tempfile.mkdtemp())
    command = [sys.executable, "hyperparameter_search.py", "--search_type", "bayesian", "--model", arguments.model]
    command += ["--family", arguments.family, "--n_trials", "10000", "--max_epochs", str(arguments.max_epochs)]
    command += ["--patience", str(arguments.max_epochs), "--pruner", pruner, "--seed", str(seed), "--n_workers", "1"]
    command += ["--data_root", str(arguments.data_root), "--results_dir", str(results), "--wandb_mode", "disabled"]
    process = psutil.Popen([*command, "-q"], cwd=ROOT, stdout=subprocess.DEVNULL)
    ended: dict[Path, float] = {}
    while process.poll() is None:
        spent = sum(process.cpu_times()[:2])
        for path in results.glob("*/final_results.json"):
            if path not in ended and '"status": "complete"' in path.read_text():
                ended[path] = spent
        if spent >= arguments.seconds:
            process.kill()
            process.wait()
        time.sleep(POLL_SECONDS)
    for path, seconds in sorted(ended.items(), key=lambda item: item[1]):
        run = read_run(path.parent)
        yield Found(seconds, run.results.metrics["val_rel_error"], run.config.hyperparameters)
    shutil.rmtree(results)


def best_at(found: list[Found], seconds: float) -> Found | None:
    """The trial with the smallest validation error by then."""
    return min((f for f in found if f.seconds <= seconds), key=lambda f: f.error, default=None)


def measure(arguments: argparse.Namespace, methods: list[str]) -> list[dict[str, object]]:
    """One record for each method, repeat and checkpoint of the budget."""
    data, _, _ = setting(arguments)
    errors: dict[str, float] = {}

    def again(hyperparameters: dict[str, object]) -> float:
        """The median test error of two fresh trainings of a configuration."""
        key = json.dumps(hyperparameters, sort_keys=True)
        if key not in errors:
            tests = [train(arguments, data, hyperparameters, 10_000 + seed).metrics for seed in range(2)]
            errors[key] = statistics.median(metrics.get("test_rel_error", float("inf")) for metrics in tests)
        return errors[key]

    records = []
    for repeat in range(arguments.repeats):
        for method in methods:  # in turn, so that a slow hour of the machine hits all
            search = peer if method in ("tpe", "random", "asha") else ours
            found = list(search(arguments, method, repeat))
            for share in CHECKPOINTS:
                best = best_at(found, share * arguments.seconds)
                if best is None:
                    continue
                n_trials = sum(f.seconds <= share * arguments.seconds for f in found)
                record = {"method": method, "repeat": repeat, "seconds": share * arguments.seconds, "trials": n_trials}
                record |= {"validation": best.error, "test": again(best.hyperparameters)}
                records.append(record)
                print(
                    f"{WORDS[method]}, repeat {repeat}, {record['seconds']:.0f} s: {n_trials} trials complete, "
                    f"validation {best.error:.3g}, trained again: test {record['test']:.3g}",
                    flush=True,
                )
    return records


def medians(records: list[dict[str, object]]) -> dict[str, dict[float, float]]:
    """Median test error over the repeats, by method and seconds."""
    found: dict[str, dict[float, list[float]]] = {}
    for record in records:
        found.setdefault(record["method"], {}).setdefault(record["seconds"], []).append(record["test"])
    return {m: {s: statistics.median(v) for s, v in by_seconds.items()} for m, by_seconds in found.items()}


def draw(records: list[dict[str, object]], path: Path) -> None:
    """The curve of every method, its repeats as points."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from report.style import COLOURS, SPARE_COLOURS

    figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    for colour, (method, curve) in zip((*COLOURS.values(), *SPARE_COLOURS), medians(records).items(), strict=False):
        axes.plot(list(curve), list(curve.values()), marker="o", ms=4, color=colour, label=WORDS[method])
        mine = [record for record in records if record["method"] == method]
        axes.plot([r["seconds"] for r in mine], [r["test"] for r in mine], ".", ms=3, color=colour, alpha=0.5)
    axes.set(xlabel="CPU seconds", ylabel="test error of the best configuration", yscale="log")
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=170)
    print(f"drawn to {path}")


def main() -> int:
    arguments = parse_arguments()
    if arguments.worker:
        work(arguments)
        return 0
    from data.generate import ensure_datasets
    from search.environment import prepare_process
    from search.plan import uses_default_root

    prepare_process()
    is_default = uses_default_root(arguments.data_root)
    ensure_datasets(arguments.family, arguments.data_root, is_default_root=is_default)
    if arguments.ranks:
        from benchmarks import ranks

        ranks.run(arguments, DEVICE)
        return 0
    methods = arguments.methods or [method for method in METHODS if method != "asha" or arguments.ray]
    started = time.perf_counter()
    records = measure(arguments, methods)
    draw(records, ROOT / "docs" / "images" / "search.png")
    table = medians(records)
    print("\n| method | " + " | ".join(f"{share * arguments.seconds:.0f} s" for share in CHECKPOINTS) + " |")
    print("|---|" + "---|" * len(CHECKPOINTS))
    for method, curve in table.items():
        cells = [f"{curve.get(share * arguments.seconds, float('nan')):.2e}" for share in CHECKPOINTS]
        print(f"| {WORDS[method]} | " + " | ".join(cells) + " |")
    write_results(
        arguments.output,
        device=f"CPU, one thread; {time.perf_counter() - started:.0f} s of the clock",
        command="python benchmarks/search.py " + " ".join(sys.argv[1:]),
        rows=records,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
