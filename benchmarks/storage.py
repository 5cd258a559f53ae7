"""How many tiny trials a second one storage takes: many workers, 20 reports each, exactly so many slots.

    python benchmarks/storage.py                        # 16 workers on a private PostgreSQL, 320 trials
    python benchmarks/storage.py --journal --workers 8  # the journal file

A worker does what one of a search does between trainings: claim under the guard lock, sample, sign, report, tell. The
table is printed and written to benchmarks/measured/storage.json; needs a PostgreSQL server binary unless --journal.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.record import OUTPUT, write_results  # noqa: E402

N_REPORTS, N_PARAMETERS, TARGET = 20, 8, 20.0


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--workers", type=int, default=16, help="processes (default: 16)")
    parser.add_argument("--trials", type=int, default=320, help="slots (default: 320)")
    parser.add_argument("--journal", action="store_true", help="a journal file instead of PostgreSQL")
    parser.add_argument("--output", type=Path, default=OUTPUT / "storage.json")
    return parser.parse_args(arguments)


def work(folder: Path, url: str | None, ready: object, go: object, seconds: object) -> None:
    """The life of a worker; adds its CPU seconds."""
    import optuna

    from search import slots
    from search.storage import guard_lock, held, open_storage, open_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(open_storage(folder, url), "rate", ["minimize"], {})
    ready.release()
    go.wait()
    began = time.process_time()
    while True:
        with held(guard_lock(folder, "rate", url)):
            trial = slots.claim(study, slots.owner_identity())
        if trial is None:
            break
        study.sampler = optuna.samplers.RandomSampler(seed=trial.number)
        with slots.one_transaction(study):
            values = [trial.suggest_float(f"x{i}", 0, 1) for i in range(N_PARAMETERS)]
        with slots.one_transaction(study):
            trial.set_user_attr("sampled", True)
            trial.set_user_attr("run_folder", f"run_{trial.number}")
        with slots.one_transaction(study):
            slots.report_all(trial, dict.fromkeys(range(N_REPORTS), values[0]))
            end = slots.TrialEnd("complete", None, (values[0],), {"val_rel_error": values[0]}, {"total": 0.1})
            slots.record_end(study, trial.number, end)
    with seconds.get_lock():
        seconds.value += time.process_time() - began


def measure(arguments: argparse.Namespace, folder: Path, url: str | None) -> dict[str, float]:
    """Runs the workers; returns trials a second and the workers' CPU seconds a trial. Raises where a slot is wrong."""
    from search.slots import finished_trials, reconcile
    from search.storage import open_storage, open_study

    study, n = open_study(open_storage(folder, url), "rate", ["minimize"], {}), arguments.trials
    reconcile(study, n, lambda slot: {}, lambda trial: None)
    context = multiprocessing.get_context("spawn")
    ready, go, seconds = context.Semaphore(0), context.Event(), context.Value("d", 0.0)
    given = (folder, url, ready, go, seconds)
    crew = [context.Process(target=work, args=given) for _ in range(arguments.workers)]
    for process in crew:
        process.start()
    for _ in crew:
        ready.acquire()
    began = time.perf_counter()
    go.set()
    for process in crew:
        process.join()
    elapsed = time.perf_counter() - began
    slots = [trial.user_attrs["slot"] for trial in finished_trials(study)]
    reports = {len(trial.intermediate_values) for trial in study.trials}
    if slots != list(range(n)) or len(study.trials) != n or reports != {N_REPORTS}:
        raise AssertionError(f"expected {n} slots, each once and whole, got {len(slots)} of {len(study.trials)} trials")
    return {"trials_per_second": n / elapsed, "cpu_ms_per_trial": 1000 * seconds.value / n}


def main() -> int:
    arguments = parse_arguments()
    import optuna
    from private_postgresql import private_server

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    with tempfile.TemporaryDirectory() as folder:
        if arguments.journal:
            found = measure(arguments, Path(folder), None)
        else:
            with private_server() as server:
                found = measure(arguments, Path(folder), server.url())
    place = "journal" if arguments.journal else "PostgreSQL"
    name = f"{place}, {arguments.workers} workers, {N_REPORTS} reports a trial"
    rate = found["trials_per_second"]
    print(f"{name}: {rate:.1f} trials/s, {found['cpu_ms_per_trial']:.0f} ms of a worker's CPU a trial; none lost")
    write_results(
        arguments.output,
        device=f"cpu, {multiprocessing.cpu_count()} cores",
        command=f"python benchmarks/storage.py --workers {arguments.workers} --trials {arguments.trials}"
        + " --journal" * arguments.journal,
        rows=[{"name": name, "value": rate, "unit": "trials/s", "target": TARGET, "holds": rate >= TARGET}],
        **found,
    )
    return 0 if rate >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
