"""How accurate the operators are: operators × families × seeds, beside what others would use.

    python benchmarks/accuracy.py --quick               # minutes: one seed, 40 s a training
    python benchmarks/accuracy.py                       # hours: three seeds, ten minutes a training
    python benchmarks/accuracy.py --seconds 120 --seeds 0 1

Every operator trains its default configuration for the same CPU seconds of one thread, so that other work on the
machine does not count. Baselines: the last value held; a Fourier operator on the joint history-and-future grid, after
a search of its own over twelve configurations; and the ceiling of identification, which is told the right-hand side.
Errors are full-horizon relative L2 on splits that no training saw. Validation selects, test is looked at once.

Finished trainings are kept in the output file, so that the same command goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.accuracy_table import BASELINES, OPERATORS, SEARCH, table, verdicts  # noqa: E402
from benchmarks.record import OUTPUT, head, write_results  # noqa: E402
from search.environment import prepare_process  # noqa: E402

if TYPE_CHECKING:
    from benchmarks.accuracy_jobs import Job, Places

FAMILIES = ("mackey", "delayed_logistic", "neutral", "reaction_diffusion")
QUICK_SECONDS, FULL_SECONDS = 40.0, 600.0


def positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text}")
    return value


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help=f"one seed, {QUICK_SECONDS:g} s a training")
    parser.add_argument("--seconds", type=positive, help=f"CPU seconds of a training (default: {FULL_SECONDS:g})")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds of the trainings (default: 0 1 2)")
    parser.add_argument("--families", nargs="+", default=FAMILIES, help="default: all four")
    parser.add_argument("--models", nargs="+", choices=(*OPERATORS, *BASELINES), help="default: all, and baselines")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trainings at a time (default: all cores)")
    parser.add_argument("--data_root", type=Path, default=ROOT / "data", help="datasets (default: data)")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/measured/accuracy[_quick].json)")
    parser.add_argument(
        "--picture", type=Path, help="learning curves (default: benchmarks/measured/accuracy_curves[_quick].png)"
    )
    parser.add_argument(
        "--checkpoints", type=Path, default=ROOT / "benchmarks" / "checkpoints", help="trained operators"
    )
    found = parser.parse_args(arguments)
    found.seconds = found.seconds or (QUICK_SECONDS if found.quick else FULL_SECONDS)
    found.seeds = found.seeds or ([0] if found.quick else [0, 1, 2])
    found.models = found.models or [*OPERATORS, *BASELINES]
    suffix = "_quick" if found.quick else ""
    found.picture = found.picture or OUTPUT / f"accuracy_curves{suffix}.png"
    found.output = found.output or OUTPUT / f"accuracy{suffix}.json"
    return found


def planned(arguments: argparse.Namespace) -> list[Job]:
    """What has to be run, seed by seed, so that an early end leaves a whole table of fewer seeds."""
    from benchmarks.accuracy_jobs import Job

    jobs = []
    for number, seed in enumerate(arguments.seeds):
        for family in arguments.families:
            for model in arguments.models:
                needs_seed = model in OPERATORS or model == "joint_fno"
                if number == 0 and model == "joint_fno":
                    jobs.append(Job(family, SEARCH, 0, arguments.seconds))
                if needs_seed or number == 0:
                    jobs.append(Job(family, model, seed if needs_seed else 0, arguments.seconds if needs_seed else 0.0))
    return jobs


def finished(output: Path) -> dict[tuple[object, ...], dict[str, object]]:
    """The records that an earlier run has left, by job."""
    if not output.exists():
        return {}
    records = json.loads(output.read_text()).get("trainings", [])
    return {(r["family"], r["operator"], r["seed"], r["seconds"]): r for r in records if "commit" in r}


def work(job: Job, places: Places, found: dict[str, object] | None) -> dict[str, object]:
    """One job, in a worker process."""
    from benchmarks import accuracy_jobs

    return accuracy_jobs.run(job, places, found)


class Benchmark:
    """The records so far, and the file that holds them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.records = finished(arguments.output)
        self.commit = head()
        self.more: dict[str, object] = {}

    @staticmethod
    def key(job: Job) -> tuple[object, ...]:
        return job.family, job.operator, job.seed, job.seconds

    def configuration(self, job: Job) -> dict[str, object] | None:
        """What the search of a baseline has found for it; None where there is none yet, or none is needed."""
        record = self.records.get((job.family, SEARCH, 0, job.seconds)) if job.operator == "joint_fno" else None
        return record["hyperparameters"] if record else None

    def add(self, job: Job, record: dict[str, object]) -> None:
        self.records[self.key(job)] = record | {"commit": self.commit, "device": _device()}
        self.write()

    def trainings(self) -> list[dict[str, object]]:
        """Those of this command's seconds, and the baselines that need none."""
        wanted = (self.arguments.seconds, 0.0)
        return [r for r in self.records.values() if r["seconds"] in wanted and r["operator"] != SEARCH]

    def write(self) -> None:
        """The file as it stands: whole after every training."""
        a = self.arguments
        write_results(
            a.output,
            device=_device(),
            command=f"python benchmarks/accuracy.py{' --quick' if a.quick else f' --seconds {a.seconds:g}'}",
            rows=verdicts(self.trainings()),
            trainings=list(self.records.values()),
            is_quiet=True,
            **self.more,
        )


def _device() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"cpu, one thread of {model}"


def run_all(benchmark: Benchmark, jobs: list[Job], places: Places) -> None:
    """Runs what is missing, a baseline's trainings after its search."""
    from tqdm import tqdm

    waiting = [job for job in jobs if benchmark.key(job) not in benchmark.records]
    arguments = benchmark.arguments
    with (
        ProcessPoolExecutor(arguments.workers, get_context("spawn"), prepare_process, max_tasks_per_child=1) as pool,
        tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc="trainings") as bar,
    ):
        running = {}

        def start(job: Job) -> None:
            running[pool.submit(work, job, places, benchmark.configuration(job))] = job

        try:
            for job in [job for job in waiting if job.operator != "joint_fno" or benchmark.configuration(job)]:
                start(job)
            while running:
                done = next(as_completed(list(running)))
                job = running.pop(done)
                benchmark.add(job, done.result())
                bar.update()
                error = done.result().get("metrics", {}).get("test_rel_error_median")
                bar.write(f"{job.key}: {done.result().get('status', 'searched')}{f', {error:.2e}' if error else ''}")
                if job.operator == SEARCH:
                    for later in waiting:
                        if later.operator == "joint_fno" and later.family == job.family:
                            start(later)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


def main() -> int:
    arguments = parse_arguments()
    prepare_process()
    from benchmarks.accuracy_curves import draw
    from benchmarks.accuracy_jobs import Places, solver_milliseconds
    from data.generate import ensure_datasets

    for family in arguments.families:
        ensure_datasets(family, arguments.data_root, is_default_root=True)
    benchmark = Benchmark(arguments)
    try:
        run_all(benchmark, planned(arguments), Places(arguments.data_root, arguments.checkpoints))
    except KeyboardInterrupt:
        print(f"\nstopped; finished trainings are in {arguments.output}, the same command goes on", file=sys.stderr)
        return 130
    benchmark.more["solver_ms"] = {family: solver_milliseconds(family) for family in arguments.families}
    benchmark.write()
    draw(benchmark.trainings(), arguments.picture)
    print(table(benchmark.trainings()))
    print(
        "exact solver, ms per trajectory: " + ", ".join(f"{k} {v:.2g}" for k, v in benchmark.more["solver_ms"].items())
    )
    rows = verdicts(benchmark.trainings())
    for row in rows:
        bound = "at least" if row["unit"] == "times" and "below" in row["name"] else "at most"
        print(f"{'holds' if row['holds'] else 'FAILS'}  {row['name']}: {row['value']:.2e}, {bound} {row['target']:.2e}")
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
