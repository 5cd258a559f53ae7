"""Test errors of the default configurations: operators × families, each trained for the same seconds of one core.

    python benchmarks/accuracy.py --seconds 120
    python benchmarks/accuracy.py --seconds 120 --seed 1 --families mackey neutral

Full-horizon relative L2 errors on splits that no training saw: median over trajectories and 90th percentile, for
delays in range (`test`) and larger (`test_tau`). Beside them the best of three trivial predictions: the last value
held, zero, and the training mean. Seconds are CPU seconds of the one thread that trains, so that other work on the
machine does not count. The table is printed and written to benchmarks/results/accuracy.json.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import write_results  # noqa: E402

if TYPE_CHECKING:
    from data.batches import FamilyData

TARGETS = {"mackey": 1.5e-3, "delayed_logistic": 2e-3, "neutral": 1.5e-3, "reaction_diffusion": 8e-3}
TRIVIAL_FACTOR = 5  # every operator must be this many times below the best trivial prediction


@dataclass(frozen=True)
class Row:
    """One training: medians and 90th percentiles of the relative L2 error on test and test_tau."""

    family: str
    operator: str
    seed: int
    test: float
    test_p90: float
    larger_tau: float
    larger_tau_p90: float
    trivial: float
    epochs: int
    seconds: float


def positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text}")
    return value


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--seconds", type=positive, default=120, help="training time of each operator (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings (default: 0)")
    parser.add_argument("--families", nargs="+", help="families (default: all four)")
    parser.add_argument("--models", nargs="+", help="operators (default: all three)")
    parser.add_argument("--data_root", type=Path, default=ROOT / "data", help="datasets (default: data)")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/accuracy[_seedN].json)")
    return parser.parse_args(arguments)


def trivial_error(data: FamilyData) -> float:
    """The smallest median relative L2 error among: last value held, zero, training mean."""
    import torch

    from dno.metrics import relative_error

    train, test = data.splits["train"], data.splits["test"]
    mean = (train.solution * train.mask[..., None]).sum((0, 1)) / train.mask.sum()
    guesses = (test.history[:, -1:], torch.zeros(()), mean)
    errors = [relative_error(guess.expand_as(test.solution), test.solution, test.mask) for guess in guesses]
    return min(float(error.median()) for error in errors)


def measure(family: str, model: str, data: FamilyData, arguments: argparse.Namespace) -> Row:
    """Train the default configuration for the given seconds and read its test errors."""
    import model_trainer

    hyperparameters = model_trainer.default_hyperparameters(model, model_trainer.operator_spec(data))
    result = model_trainer.train(
        model,
        hyperparameters,
        data,
        limits=model_trainer.Limits(max_epochs=1_000_000, patience=1_000_000, max_seconds=arguments.seconds),
        seed=arguments.seed,
        on_epoch=lambda record: None,
        clock=time.process_time,
    )
    metrics = result.metrics
    return Row(
        family,
        model,
        arguments.seed,
        metrics["test_rel_error_median"],
        metrics["test_rel_error_p90"],
        metrics["tau_rel_error_median"],
        metrics["tau_rel_error_p90"],
        trivial_error(data),
        metrics["epochs"],
        metrics["train_seconds"],
    )


def table(rows: list[Row]) -> str:
    """A Markdown table, the best operator of each family in bold."""
    lines = [
        "| family | operator | median | 90 % | larger τ: median | 90 % | best trivial |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        best = min(other.test for other in rows if other.family == row.family)
        mark = "**" if row.test == best else ""
        lines.append(
            f"| {row.family} | {row.operator} | {mark}{row.test:.1e}{mark} | {row.test_p90:.1e} | {row.larger_tau:.1e} "
            f"| {row.larger_tau_p90:.1e} | {row.trivial:.2g} |"
        )
    return "\n".join(lines)


def verdicts(rows: list[Row]) -> list[dict[str, object]]:
    """The targets: the best operator of each family, and every operator against the trivial predictions."""
    results: list[dict[str, object]] = []

    def judge(name: str, value: float, target: float) -> None:
        unit = "relative L2, median"
        results.append({"name": name, "value": value, "unit": unit, "target": target, "holds": value <= target})

    for family in dict.fromkeys(row.family for row in rows):
        own = [row for row in rows if row.family == family]
        if family in TARGETS:
            judge(f"{family}: best operator", min(row.test for row in own), TARGETS[family])
        for row in own:
            judge(f"{family}: {row.operator} against trivial", row.test, row.trivial / TRIVIAL_FACTOR)
    return results


def main() -> int:
    arguments = parse_arguments()
    import torch
    from tqdm import tqdm

    import dno
    from data.batches import load_family
    from data.generate import ensure_datasets

    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    rows = []
    jobs = [(f, m) for f in arguments.families or TARGETS for m in arguments.models or dno.MODELS]
    for family, model in tqdm(jobs, desc="trainings"):
        ensure_datasets(family, arguments.data_root, is_default_root=True)
        rows.append(measure(family, model, load_family(family, arguments.data_root, torch.device("cpu")), arguments))
        tqdm.write(f"{family} {model}: {rows[-1].test:.2e}")
    print(table(rows))
    results = verdicts(rows)
    for result in results:
        verdict = "holds" if result["holds"] else "FAILS"
        print(f"{verdict}  {result['name']}: {result['value']:.2e}, at most {result['target']:.2e}")
    suffix = f"_seed{arguments.seed}" if arguments.seed else ""
    output = arguments.output or ROOT / "benchmarks" / "results" / f"accuracy{suffix}.json"
    write_results(
        output,
        device="cpu, one thread",
        command=f"python benchmarks/accuracy.py --seconds {arguments.seconds:g} --seed {arguments.seed}",
        rows=results,
        torch=torch.__version__,
        trainings=[vars(row) for row in rows],
    )
    return 0 if all(result["holds"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
