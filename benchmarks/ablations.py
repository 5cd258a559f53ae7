"""What each choice of the default configurations is worth: trainings with one thing changed, for equal CPU seconds.

    python benchmarks/ablations.py                                    # 60 s a training, logistic and neutral, one seed
    python benchmarks/ablations.py --families mackey --seconds 120

Every operator trains its default configuration, then the same with a trait's switch turned over, another optimizer,
another size. Errors are full-horizon relative L2 on `test` and `test_tau`, which chose nothing here: a default is
changed only where validation agrees. Finished trainings are kept in benchmarks/measured/ablations.json: the same
command goes on where it ended.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy_table import OPERATORS  # noqa: E402
from benchmarks.record import OUTPUT, head, write_results  # noqa: E402
from search.environment import prepare_process  # noqa: E402

if TYPE_CHECKING:
    import dno

Record = dict[str, object]
SPLITS = ("train", "val", "test", "test_tau")  # the others would only take time
METRICS = {
    "val_rel_error_median": "validation",
    "test_rel_error_median": "median",
    "test_rel_error_p90": "90 %",
    "tau_rel_error_median": "larger τ",
    "epochs": "epochs",
}
# Beside every boolean of the default, turned over.
CHANGES = (
    {"optimizer": "adamw"},
    {"width": 32},
    {"width": 64},
    {"n_layers": 2},
    {"n_layers": 3},
    {"n_layers": 4},
    {"rows": 2},
    {"sub_windows": 2},
    {"batch_size": 16},
    {"first_interval_share": 0.0},
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--families", nargs="+", default=["delayed_logistic", "neutral"])
    parser.add_argument("--models", nargs="+", choices=OPERATORS, default=OPERATORS, help="default: all three")
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of a training (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trainings at a time (default: all cores)")
    parser.add_argument("--data_root", type=Path, default=ROOT / "data")
    parser.add_argument("--output", type=Path, default=OUTPUT / "ablations.json")
    return parser.parse_args()


def variants(model: str, spec: dno.OperatorSpec) -> list[dict[str, object]]:
    """The default itself, and what differs from it in one thing that can act on such a family."""
    import dno
    import model_trainer

    default = model_trainer.default_hyperparameters(model, spec)
    switches = [{name: not value} for name, value in default.items() if isinstance(value, bool)]
    found = [{}]
    for change in (*switches, *CHANGES):
        ((name, value),) = change.items()
        if name in default and default[name] != value and not dno.objection(model, name, value, spec):
            found.append(change)
    return found


def train(job: Record, data_root: Path) -> Record:
    """A planned training and its results, in a worker process."""
    import torch

    import model_trainer
    from benchmarks.accuracy_jobs import train_for
    from data.batches import load_family

    torch.set_num_threads(1)
    data = load_family(job["family"], data_root, torch.device("cpu"))
    data = dataclasses.replace(data, splits={name: data.splits[name] for name in SPLITS})
    default = model_trainer.default_hyperparameters(job["model"], model_trainer.operator_spec(data))
    result = train_for(job["model"], default | job["change"], data, job["seconds"], job["seed"])
    metrics = {name: result.metrics[name] for name in METRICS if name in result.metrics}
    return job | {"status": result.status, "metrics": metrics, "commit": head()}


def key(record: Record) -> str:
    """What makes two trainings the same."""
    return json.dumps([record[name] for name in ("family", "model", "change", "seconds", "seed")])


def planned(arguments: argparse.Namespace) -> list[Record]:
    """All trainings, without their results."""
    import torch

    import model_trainer
    from data.batches import load_family
    from data.generate import ensure_datasets
    from search.places import uses_default_root

    found = []
    for family in arguments.families:
        ensure_datasets(family, arguments.data_root, is_default_root=uses_default_root(arguments.data_root))
        spec = model_trainer.operator_spec(load_family(family, arguments.data_root, torch.device("cpu")))
        for model in arguments.models:
            for change in variants(model, spec):
                same = {"seconds": arguments.seconds, "seed": arguments.seed}
                found.append({"family": family, "model": model, "change": change} | same)
    return found


def table(records: list[Record]) -> str:
    """A Markdown table for every family and operator."""
    lines = []
    for family, model in dict.fromkeys((r["family"], r["model"]) for r in records):
        lines += [f"\n{family}, {model}\n", "| change | " + " | ".join(METRICS.values()) + " |"]
        lines.append("|---|" + "---|" * len(METRICS))
        for r in records:
            if (r["family"], r["model"]) == (family, model):
                words = ", ".join(f"{name} {value}" for name, value in r["change"].items()) or "none: the default"
                cells = [f"{r['metrics'][name]:.2g}" if name in r["metrics"] else r["status"] for name in METRICS]
                lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    arguments = parse_arguments()
    prepare_process()
    from tqdm import tqdm

    stored = json.loads(arguments.output.read_text())["trainings"] if arguments.output.exists() else []
    records = {key(record): record for record in stored}
    jobs = planned(arguments)
    missing = [job for job in jobs if key(job) not in records]
    with (
        ProcessPoolExecutor(arguments.workers, get_context("spawn"), prepare_process, max_tasks_per_child=1) as pool,
        tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="trainings") as bar,
    ):
        running = [pool.submit(train, job, arguments.data_root) for job in missing]
        try:
            for done in as_completed(running):
                records[key(done.result())] = done.result()
                write_results(
                    arguments.output,
                    device="cpu, one thread",
                    command=f"python benchmarks/ablations.py --seconds {arguments.seconds:g} --seed {arguments.seed}",
                    rows=[],
                    trainings=list(records.values()),
                    is_quiet=True,
                )
                bar.update()
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            print(f"\nstopped; finished trainings are in {arguments.output}, the same command goes on", file=sys.stderr)
            return 130
    print(table([records[key(job)] for job in jobs]))
    print(f"\nwritten to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
