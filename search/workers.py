"""Where trials run: in this process, or in worker processes of one thread each that live across trials.

Both claim slots from the study one at a time until nothing waits. The searching process reconciles: it alone enqueues
slots, adopts results and notices the dead.
"""

import contextlib
import logging
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import optuna

from experiment_tracker import WandbSettings
from search.budget import enough
from search.command_line import Options
from search.environment import prepare_process, uncollected
from search.interruption import Interruption
from search.places import Unwritable, unwritable
from search.plan import StudyPlan, worker_device
from search.progress import Channel, Display, HereChannel, PipeChannel, PipeLog
from search.promotion import promoted
from search.slots import INTERRUPTED, KILLED, StorageLost, Tally, claim, owner_identity, reconcile
from search.storage import guard_lock, held, living_machines, patiently
from search.trials import Bench, TrialCrash, adopt, open_benches, run_trial

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
MOST_IDLE_DEATHS = 5  # workers that may die in a row without any slot getting finished


def settle(benches: Sequence[Bench], mark: str = KILLED) -> Tally:
    """Reconciles the slots of these studies; returns their sums."""
    tallies = [_settle(bench, mark) for bench in benches]
    return Tally(*(sum(numbers) for numbers in zip(*map(astuple, tallies), strict=True)))


def _settle(bench: Bench, mark: str) -> Tally:
    """Reconciles the slots of one study under its guard."""
    plan, url = bench.plan, bench.options.storage

    def guarded() -> Tally:
        with held(guard_lock(bench.options.results_dir, plan.name, url)):
            living = living_machines(url)
            return reconcile(
                bench.study,
                plan.n_slots,
                plan.parameters,
                lambda trial: adopt(bench, trial),
                mark,
                living,
                lambda slots: promoted(slots, plan.n_slots, plan.rungs()) if plan.pauses() else [],
            )

    return patiently(url, guarded)


def enough_found(bench: Bench) -> str | None:
    """Why the study needs no further trial; a confirmation needs all of its own."""
    if bench.plan.origin is not None:
        return None
    return patiently(bench.options.storage, lambda: enough(bench.study, bench.options))


def search_here(benches: Sequence[Bench], interruption: Interruption, display: Display) -> float:
    """Runs the trials one after another in this process: simple, and the same bits every time on a CPU.

    Returns the seconds in which it had nothing to do.
    """
    idle = 0.0
    channel = HereChannel(display, interruption)
    while True:
        tally = settle(benches)
        display.finished(tally.finished)
        interruption.enough = enough_found(benches[0])
        if tally.finished == slots_of(benches) or interruption.is_requested:
            return idle
        if not run_next(benches, channel):
            idle += POLL_SECONDS
            time.sleep(POLL_SECONDS)  # a worker of a search that was just killed stops at its next epoch


def slots_of(benches: Sequence[Bench]) -> int:
    """How many slots these studies have."""
    return sum(bench.plan.n_slots for bench in benches)


def run_next(benches: Sequence[Bench], channel: Channel) -> bool:
    """Claims and trains a slot of the first study where one waits; False where none does."""
    for bench in benches:
        trial = _claim(bench, owner_identity())
        if trial is not None:
            run_trial(bench, trial, channel)
            return True
    return False


def _claim(bench: Bench, owner: str) -> optuna.Trial | None:
    url = bench.options.storage

    def guarded() -> optuna.Trial | None:
        with held(guard_lock(bench.options.results_dir, bench.plan.name, url)):
            return claim(bench.study, owner)

    return patiently(url, guarded)


@dataclass
class Worker:
    """A worker process as the searching process sees it."""

    line: int
    process: BaseProcess
    connection: Connection
    task: str | None = None  # what it trains, in words
    crash: str | None = None
    trouble: str | None = None  # a folder that cannot be written to
    is_open: bool = True
    is_told: bool = False


def search_with_workers(benches: Sequence[Bench], interruption: Interruption, display: Display) -> float:
    """Keeps `--n_workers` processes busy until every slot is finished. Raises TrialCrash when a trial hit a bug.

    Returns the seconds, of all workers together, in which one had nothing to do because no slot was left.
    """
    crew: list[Worker] = []
    n_workers, n_slots = benches[0].options.n_workers, slots_of(benches)
    idle_deaths = most_finished = 0
    tally, next_look = settle(benches), 0.0
    idle, last = 0.0, time.monotonic()
    try:
        while True:
            if time.monotonic() >= next_look:
                tally, next_look = settle(benches), time.monotonic() + POLL_SECONDS
                interruption.enough = enough_found(benches[0])
            display.finished(tally.finished)
            now = time.monotonic()
            if not tally.waiting:
                idle += (now - last) * (n_workers - sum(worker.task is not None for worker in crew))
            last = now
            if not crew and (tally.finished == n_slots or interruption.is_requested):
                return idle
            if interruption.is_requested:
                _ask_to_stop(crew)
            elif len(crew) < n_workers and tally.waiting > sum(worker.task is None for worker in crew):
                crew.append(_start_worker(benches, crew))
                continue
            wait([worker.connection for worker in crew], timeout=POLL_SECONDS)
            for worker in crew:
                _listen(worker, display)
            dead = [worker for worker in crew if not worker.is_open]
            crew = [worker for worker in crew if worker.is_open]
            next_look = 0.0 if dead else next_look
            idle_deaths = 0 if tally.finished > most_finished else idle_deaths + sum(_bury(worker) for worker in dead)
            most_finished = tally.finished
            if idle_deaths > MOST_IDLE_DEATHS * n_workers:
                raise TrialCrash(f"{idle_deaths} worker processes died in a row and no trial was finished")
    except BaseException:
        for worker in crew:
            worker.process.kill()
            worker.process.join()
        settle(benches, INTERRUPTED)
        raise


def _start_worker(benches: Sequence[Bench], crew: list[Worker]) -> Worker:
    """A new process on the first free line. Spawned, not forked: torch may have threads by now."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    first = benches[0]
    line = min(set(range(first.options.n_workers)) - {worker.line for worker in crew})
    options = replace(first.options, device=worker_device(first.options.device, line))
    resource_tracker.ensure_running()  # starting it would lift the block below
    process = context.Process(
        target=_work,
        args=([b.plan for b in benches], options, first.wandb_settings, there, logging.getLogger().level),
        name=f"worker {line}",
    )
    # Ctrl-C reaches all processes of a terminal: until a worker ignores it, it must not die by it with a traceback.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    there.close()
    return Worker(line, process, here)


def _ask_to_stop(crew: list[Worker]) -> None:
    for worker in crew:
        if not worker.is_told:
            worker.is_told = True
            with contextlib.suppress(OSError):
                worker.connection.send("stop")


def _listen(worker: Worker, display: Display) -> None:
    """Takes in all that the worker said since the last time."""
    try:
        while worker.connection.poll():
            kind, *content = worker.connection.recv()
            if kind == "began":
                worker.task = content[0]
                display.began(worker.line, worker.task)
            elif kind == "epoch":
                display.epoch(worker.line, *content)
            elif kind == "ended":
                worker.task = None
            elif kind == "log":
                name, level, text = content
                logging.getLogger(name).log(level, "%s", text)
            elif kind == "trouble":
                worker.trouble = content[0]
            else:
                worker.crash = content[0]
    except (EOFError, OSError):
        worker.is_open = False


def _bury(worker: Worker) -> bool:
    """Joins a worker that has left; returns whether it died. Raises TrialCrash with what it said before."""
    worker.process.join()
    if worker.trouble is not None:
        raise Unwritable(worker.trouble)
    if worker.crash is not None:
        raise TrialCrash(worker.crash)
    code = worker.process.exitcode
    if code:
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        logger.warning("%s died %s; its slot is tried again", worker.process.name, how)
    return code != 0


def _work(
    plans: list[StudyPlan], options: Options, settings: WandbSettings, connection: Connection, log_level: int
) -> None:
    """The life of a worker process: load the data once, then claim and run trials until nothing waits."""
    channel = PipeChannel(connection)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the search decides
    signal.signal(signal.SIGTERM, lambda number, frame: setattr(channel, "stop", True))
    logging.basicConfig(level=log_level, handlers=[PipeLog(channel)], force=True)
    logging.getLogger("search.postgresql").setLevel(logging.ERROR)  # the searching process tells of outages
    try:
        prepare_process()
        with uncollected():
            benches = open_benches(plans, options, settings)
        while not channel.stop_requested() and run_next(benches, channel):
            pass
        benches[0].wandb.close()
    except StorageLost as lost:  # the searching process sees it too, and ends the study
        logger.warning("%s", lost)
        sys.exit(1)
    except TrialCrash as crash:
        channel.send("crash", str(crash))
        sys.exit(1)
    except (OSError, Unwritable) as error:
        channel.send("trouble", str(unwritable("--results_dir", options.results_dir, error)))
        sys.exit(1)
    except Exception:  # the last door of a process: said to the searching process, which stops the study
        channel.send("crash", traceback.format_exc())
        sys.exit(1)
