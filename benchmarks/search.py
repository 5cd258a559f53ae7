"""How good a model each search finds for the same CPU seconds: ours, Optuna's TPE, random search, Ray Tune's ASHA.

    python benchmarks/search.py --quick                 # one repeat, a short budget
    python benchmarks/search.py                         # three repeats
    python benchmarks/search.py --ray /path/to/python   # with Ray Tune, in an environment of requirements-ray.txt
    python benchmarks/search.py --ranks                 # whether early errors rank configurations as late ones do

All train the same operator on the same data in the same space with the same trainer, and begin with the same
configuration. At a third, two thirds and all of the budget, the configuration that is best on validation is trained
again with fresh seeds; its test error is the result. Seconds are CPU seconds of the searching processes, so that other
work on the machine does not count. Writes benchmarks/measured/search.json and search.png; the same command
again goes on with the repeats that are missing there. Delete the file where the trainer has changed since.
"""

from __future__ import annotations

import argparse
import json
import math
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

from benchmarks.record import OUTPUT, head, write_results  # noqa: E402

if TYPE_CHECKING:
    from data.batches import FamilyData
    from experiment_tracker import EpochRecord
    from model_trainer import TrainingResult

CHECKPOINTS = (1 / 3, 2 / 3, 1.0)  # of the budget
OURS = ("promote", "hyperband")
METHODS = (*OURS, "tpe", "random", "asha")
WORDS = {
    "promote": "this search, --pruner promote",
    "hyperband": "this search, --pruner hyperband",
    "tpe": "Optuna TPE, no pruning",
    "random": "random search",
    "asha": "Ray Tune, ASHA and Optuna",
}
POLL_SECONDS = 0.2
DEVICE = "CPU, one thread; CPU seconds"


Run = dict[str, object]


@dataclass(frozen=True)
class Found:
    """A finished trial: CPU seconds since the search began, validation error, configuration."""

    seconds: float
    error: float
    hyperparameters: dict[str, object]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one repeat, a third of the budget, one fresh seed")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all whose packages are there")
    parser.add_argument("--model", default="method_of_steps")
    parser.add_argument("--family", default="mackey")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=180, help="CPU seconds of each search (default: 180)")
    parser.add_argument("--max_epochs", type=int, default=27)
    parser.add_argument("--widest", type=int, default=32, help="leaves wider operators out of the space (default: 32)")
    parser.add_argument("--ranks", type=int, nargs="?", const=10, metavar="N", help="train N configurations (10)")
    parser.add_argument("--ray", type=Path, help="python of an environment with Ray Tune")
    parser.add_argument("--warm_start", type=Path, help="run folders that this search begins from; its methods alone")
    parser.add_argument("--data_root", type=Path, default=ROOT / "data")
    parser.add_argument("--output", type=Path, help="default: search[_quick, _ranks, _warm].json")
    parser.add_argument("--fresh_seeds", type=int, default=2, help="trainings of each best configuration (default: 2)")
    parser.add_argument("--worker", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--results_dir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.seconds, arguments.fresh_seeds = 1, 60.0, 1
    kind = "_ranks" if arguments.ranks else "_quick" if arguments.quick else "_warm" if arguments.warm_start else ""
    arguments.output = arguments.output or OUTPUT / f"search{kind}.json"
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
    """The life of a search: until the budget is spent, a peer prints each finished trial as a line of JSON."""
    if arguments.worker in OURS:
        narrow(arguments)
        import hyperparameter_search

        hyperparameter_search.main(our_flags(arguments))
        return
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


def our_flags(arguments: argparse.Namespace) -> list[str]:
    """The real command, with more trials than it can finish."""
    flags = {"search_type": "bayesian", "model": arguments.model, "family": arguments.family, "n_trials": 10_000}
    flags |= {"max_epochs": arguments.max_epochs, "patience": arguments.max_epochs, "pruner": arguments.worker}
    flags |= {"seed": arguments.seed, "n_workers": 1, "data_root": arguments.data_root}
    flags |= {"results_dir": arguments.results_dir, "wandb_mode": "disabled"}
    flags |= {"warm_start": arguments.warm_start} if arguments.warm_start else {}
    return ["-q", *(f"--{name}={value}" for name, value in flags.items())]


def command(arguments: argparse.Namespace, method: str, seed: int, results_dir: Path) -> list[str]:
    """This script as the worker of one search."""
    flags = {name: getattr(arguments, name) for name in ("model", "family", "seconds", "max_epochs", "widest")}
    flags |= {"data_root": arguments.data_root.resolve(), "results_dir": results_dir, "worker": method, "seed": seed}
    flags |= {"warm_start": arguments.warm_start.resolve()} if arguments.warm_start else {}
    python = str(arguments.ray) if method == "asha" else sys.executable
    return [python, __file__, *(f"--{name}={value}" for name, value in flags.items())]


def peer(arguments: argparse.Namespace, method: str, seed: int, folder: Path) -> Iterator[Found]:
    """The trials of a peer's search, run in a process of its own."""
    done = subprocess.run(
        command(arguments, method, seed, folder), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield Found(**json.loads(line))


def ours(arguments: argparse.Namespace, method: str, seed: int, folder: Path) -> Iterator[Found]:
    """The complete trials of the real command, which is killed when the budget is spent."""
    import psutil

    from experiment_tracker import read_run

    process = psutil.Popen(command(arguments, method, seed, folder), cwd=ROOT, stdout=subprocess.DEVNULL)
    ended: dict[Path, float] = {}
    spent = 0.0
    while process.poll() is None and spent < arguments.seconds:
        spent = sum(process.cpu_times()[:2])
        for path in folder.glob("*/final_results.json"):
            if path not in ended and '"status": "complete"' in path.read_text():
                ended[path] = spent
        time.sleep(POLL_SECONDS)
    if process.poll() is not None:
        raise RuntimeError(f"the search ended by itself after {spent:.0f} s, with exit code {process.returncode}")
    process.kill()
    process.wait()
    for path, seconds in sorted(ended.items(), key=lambda item: item[1]):
        run = read_run(path.parent)
        yield Found(seconds, run.results.metrics["val_rel_error"], run.config.hyperparameters)


def best_at(found: list[Found], seconds: float) -> Found | None:
    """The trial with the smallest validation error by then."""
    return min((f for f in found if f.seconds <= seconds), key=lambda f: f.error, default=None)


def measure(arguments: argparse.Namespace, methods: list[str], runs: list[Run]) -> Iterator[list[Run]]:
    """Adds to `runs` one record for each method, repeat and checkpoint of the budget; yields them after each search."""
    data, _, _ = setting(arguments)
    errors = {json.dumps(run["hyperparameters"], sort_keys=True): run["test"] for run in runs if "test" in run}

    def again(hyperparameters: dict[str, object]) -> float:
        """The median test error of fresh trainings of a configuration."""
        key = json.dumps(hyperparameters, sort_keys=True)
        if key not in errors:
            seeds = range(arguments.fresh_seeds)
            tests = [train(arguments, data, hyperparameters, 10_000 + seed).metrics for seed in seeds]
            errors[key] = statistics.median(metrics.get("test_rel_error", float("inf")) for metrics in tests)
        return errors[key]

    finished = {(run["method"], run["repeat"]) for run in runs}
    for repeat in range(arguments.repeats):
        for method in methods:  # in turn, so that a slow hour of the machine hits all
            if (method, repeat) in finished:
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = list((ours if method in OURS else peer)(arguments, method, repeat, Path(folder)))
            for share in CHECKPOINTS:
                seconds = share * arguments.seconds
                best, n_trials = best_at(found, seconds), sum(f.seconds <= seconds for f in found)
                run = {"method": method, "repeat": repeat, "seconds": seconds, "trials": n_trials, "commit": head()}
                if best is not None:
                    run |= {"validation": best.error, "hyperparameters": best.hyperparameters}
                    run |= {"test": again(best.hyperparameters)}
                runs.append(run)
                trials = f"{WORDS[method]}, repeat {repeat}, {seconds:.0f} s: {n_trials} trials complete"
                errors_of = f", validation {best.error:.3g}, trained again: test {run['test']:.3g}" if best else ""
                print(trials + errors_of, flush=True)
            yield runs


def medians(runs: list[Run]) -> dict[str, dict[float, float]]:
    """Median test error over the repeats, by method and seconds; infinite where no trial was complete."""
    found: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        found.setdefault(run["method"], {}).setdefault(run["seconds"], []).append(run.get("test", math.inf))
    return {m: {s: statistics.median(v) for s, v in by_seconds.items()} for m, by_seconds in found.items()}


def verdicts(table: dict[str, dict[float, float]], seconds: float) -> list[dict[str, object]]:
    """The goals: TPE's last error at a third of its seconds, and at the end no worse than random search and ASHA."""
    rows = []
    for method in filter(table.__contains__, OURS):
        for rival, share in (("tpe", 1 / 3), ("tpe", 1.0), ("random", 1.0), ("asha", 1.0)):
            mine, other = table[method].get(share * seconds), table.get(rival, {}).get(seconds)
            if mine is not None and other is not None:
                ratio = mine / other if math.isfinite(mine) and math.isfinite(other) else None
                name = f"{WORDS[method]} at {share * seconds:.0f} s / {WORDS[rival]} at {seconds:.0f} s: test error"
                rows.append({"name": name, "value": ratio, "unit": "", "target": 1.0, "holds": mine <= other})
    return rows


def draw(runs: list[Run], path: Path) -> None:
    """The curve of every method, its repeats as points; thinner and thinner, so that equal ones are seen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from report.style import COLOURS, SPARE_COLOURS

    figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    for i, (method, curve) in enumerate(medians(runs).items()):
        colour, width = (*COLOURS.values(), *SPARE_COLOURS)[i], 3.5 - 0.6 * i
        axes.plot(list(curve), list(curve.values()), "-o", lw=width, ms=width + 3, color=colour, label=WORDS[method])
        mine = [run for run in runs if run["method"] == method]
        axes.plot([r["seconds"] for r in mine], [r.get("test") for r in mine], "x", ms=5, color=colour)
    axes.set(xlabel="CPU seconds", ylabel="test error of the best configuration", yscale="log")
    axes.set_xticks(sorted({run["seconds"] for run in runs}))
    axes.yaxis.set_major_locator(LogLocator(subs=range(1, 10)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
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
    from search.places import uses_default_root

    prepare_process()
    is_default = uses_default_root(arguments.data_root)
    ensure_datasets(arguments.family, arguments.data_root, is_default_root=is_default)
    if arguments.ranks:
        from benchmarks import ranks

        ranks.run(arguments, DEVICE)
        return 0
    known = OURS if arguments.warm_start else METHODS
    methods = arguments.methods or [method for method in known if method != "asha" or arguments.ray]
    names = ("model", "family", "seconds", "max_epochs", "widest", "fresh_seeds")
    settings = {name: getattr(arguments, name) for name in names}
    stored = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    runs = stored["runs"] if stored.get("settings") == settings else []
    for so_far in measure(arguments, methods, runs):
        keep(arguments, settings, so_far)
    draw(runs, arguments.output.with_suffix(".png"))
    table = medians(runs)
    print("\n| method | " + " | ".join(f"{share * arguments.seconds:.0f} s" for share in CHECKPOINTS) + " |")
    print("|---|" + "---|" * len(CHECKPOINTS))
    for method, curve in table.items():
        cells = [f"{curve.get(share * arguments.seconds, float('nan')):.2e}" for share in CHECKPOINTS]
        print(f"| {WORDS[method]} | " + " | ".join(cells) + " |")
    for row in verdicts(table, arguments.seconds):
        print(f"{row['name']}: {row['value'] or math.inf:.2f}, {'holds' if row['holds'] else 'does not hold'}")
    return 0


def keep(arguments: argparse.Namespace, settings: dict[str, object], runs: list[Run]) -> None:
    """Writes what is measured: the same command goes on from there."""
    write_results(
        arguments.output,
        device=DEVICE,
        command=f"python benchmarks/search.py{' --quick' if arguments.quick else ''} --repeats {arguments.repeats} "
        f"--seconds {arguments.seconds:g}{' --ray PYTHON' if arguments.ray else ''}"
        f"{' --warm_start RUNS' if arguments.warm_start else ''}",
        rows=verdicts(medians(runs), arguments.seconds),
        settings=settings,
        runs=runs,
    )


if __name__ == "__main__":
    sys.exit(main())
