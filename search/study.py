"""One study from its plan to its leaderboard."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
from optuna.trial import FrozenTrial
from tqdm.contrib.logging import logging_redirect_tqdm

from data.batches import FamilyData
from experiment_tracker import WandbSettings, choose_wandb_mode
from search.collect import bring_here
from search.command_line import Options
from search.confirmation import confirm, confirmations, repetitions
from search.environment import uncollected
from search.interruption import Interruption
from search.leaderboard import Progress, Row, Times, format_leaderboard, leaderboard_rows, next_commands
from search.places import Unwritable, unwritable
from search.plan import StudyPlan, estimated_hours
from search.progress import Display
from search.sampling import discrete_values
from search.slots import SPENT_BEFORE, StorageLost, finished_trials, host_identity
from search.storage import patiently, search_lock, signs_of_life
from search.study_log import live_study
from search.trials import Bench, TrialCrash, open_bench
from search.winner import keep_winner
from search.workers import enough_found, search_here, search_with_workers, settle, slots_of

logger = logging.getLogger(__name__)


class StudyStopped(Exception):
    """The study cannot go on; its text is for the user."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Outcome:
    """What a search of one study came to."""

    text: str
    n_complete: int


def announce(plans: Sequence[StudyPlan], options: Options) -> None:
    """Logs how much is ahead."""
    n_trials = sum(plan.n_slots for plan in plans)
    hours = estimated_hours(list(plans), options.n_workers)
    length = f"{hours:.1f} hours" if hours >= 1 else f"{max(1, round(60 * hours))} min"
    logger.info(
        "%s, %s of at most %s; roughly %s with %s, less where trials stop early",
        *(counted(len(plans), "study", "studies"), counted(n_trials, "trial"), counted(options.max_epochs, "epoch")),
        *(length, counted(options.n_workers, "worker")),
    )
    for note in options.notes:
        logger.info("%s", note)
    for plan in plans:
        for line in (*plan.dropped, *plan.changes):
            logger.info("%s on %s: %s", plan.model, plan.family, line)
        lists = discrete_values(plan.space)
        if lists is not None and plan.n_slots > math.prod(map(len, lists)):
            n = counted(math.prod(map(len, lists)), "configuration")
            logger.info("%s on %s: the space holds %s; later trials repeat one", plan.model, plan.family, n)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def search_study(
    plan: StudyPlan, data: FamilyData, options: Options, interruption: Interruption, since: float
) -> Outcome:
    """Finishes every slot of the study, confirms the best, and returns the leaderboard.

    `since` is the time (Unix seconds) from which this study's seconds are counted. Raises StudyStopped with exit code 2
    when another process searches this study or a folder cannot be written to, with 1 when a trial hit a bug.
    """
    lock = search_lock(options.results_dir, plan.name, options.storage)
    if not lock.acquire(wait=False):
        elsewhere = "" if options.storage is None else " on this machine (DNO_HOST_ID tells machines of one name apart)"
        raise StudyStopped(
            f"study {plan.name!r} is being searched by another process{elsewhere}; --study NEW starts another", 2
        )
    with explained(plan, options), contextlib.ExitStack() as until_the_end:
        until_the_end.callback(lock.release)
        until_the_end.enter_context(signs_of_life(options.storage))
        settings = WandbSettings(options.wandb_mode, options.wandb_project, options.wandb_entity, options.results_dir)
        try:
            with uncollected():
                bench = open_bench(plan, options, choose_wandb_mode(settings), data)
        except ValueError as error:
            raise StudyStopped(str(error), 2) from error
        settle([bench])
        with uncollected():
            live = until_the_end.enter_context(live_study(bench))
        idle = 0.0
        try:
            idle = run_slots([bench], interruption, live.update)
            for reason in filter(None, (interruption.enough, _late(interruption, options))):
                logger.info("study %s ends early: %s", plan.name, reason)
            interruption.enough = None
            if options.confirm_top and not interruption.is_requested:
                idle += confirm(bench, interruption, run_slots)
        except KeyboardInterrupt:
            logger.warning("stopped at once")
        studies = patiently(options.storage, lambda: confirmations(bench))
        rows = leaderboard_rows(bench.study, plan, repetitions(studies))
        kept = keep_best(bench, rows, studies)
        live.finish(rows, with_pictures=not interruption.is_requested)
        times = spent(bench, list(studies.values()), since, idle)
        return Outcome(_text(bench, rows, times, kept), len(rows))


@contextlib.contextmanager
def explained(plan: StudyPlan, options: Options) -> Iterator[None]:
    """Words for the user where a study cannot go on."""
    try:
        yield
    except StorageLost as lost:
        raise StudyStopped(f"{lost}; the same command goes on where this ended", 1) from lost
    except (OSError, Unwritable) as error:
        problem = unwritable("--results_dir", options.results_dir, error)
        raise StudyStopped(f"{problem}; the same command goes on where this ended", 2) from error
    except TrialCrash as crash:
        raise StudyStopped(f"a trial of study {plan.name!r} hit a bug, which stops the study; {crash}", 1) from crash


def keep_best(bench: Bench, rows: Sequence[Row], again: Mapping[int, optuna.Study]) -> Path | None:
    """Puts the winner where it stays; what of it another machine has trained is fetched first."""
    plan, options = bench.plan, bench.options
    if not rows:
        return None
    winner = rows[0]
    if options.storage is not None:
        bring_here(bench.study, options, winner.slot)
        if winner.slot in again:
            bring_here(again[winner.slot], options)
    kept = keep_winner(plan, winner, options, bench.data, again.get(winner.slot))
    if kept is not None:
        logger.info("the best model of %s on %s is kept as %s", plan.model, plan.family, kept)
    return kept


def _late(interruption: Interruption, options: Options) -> str | None:
    return f"the {options.timeout:g} minutes of --timeout are over" if interruption.is_late else None


def run_slots(
    benches: Sequence[Bench], interruption: Interruption, on_finished: Callable[[], None] = lambda: None
) -> float:
    """Trains until every slot of these studies is finished, or a signal came; returns idle seconds of workers.

    Calls `on_finished` whenever more slots are.
    """
    plan, options, n_slots = benches[0].plan, benches[0].options, slots_of(benches)
    name = plan.name if plan.origin is None else f"{plan.parent}, fresh seeds"
    finished = settle(benches).finished
    if finished == n_slots:
        logger.info("study %s: every slot is finished", name)
        return 0.0
    n_lines = min(options.n_workers, n_slots)
    display = Display(name, n_slots, finished, n_lines, plan.max_epochs, on_finished, quiet=options.verbosity < 0)
    try:
        with logging_redirect_tqdm():
            return (search_here if options.n_workers == 1 else search_with_workers)(benches, interruption, display)
    finally:
        display.close()


def spent(bench: Bench, again: Sequence[optuna.Study], since: float, idle: float) -> Times:
    """Where the time of this command went: what its trials recorded, out of wall time times workers."""
    ended = [
        trial
        for study in (bench.study, *again)
        for trial in study.get_trials(deepcopy=False)
        if trial.datetime_complete is not None and trial.datetime_complete.timestamp() >= since and _is_ours(trial)
    ]
    return Times(
        training=_spent("training", ended),
        evaluation=_spent("evaluation", ended),
        everything=(time.time() - since) * bench.options.n_workers,
        idle=idle,
        n_workers=bench.options.n_workers,
    )


def _is_ours(trial: FrozenTrial) -> bool:
    """Whether a process of this command trained it: on this machine, and begun no earlier than this process."""
    host, _, begun = str(trial.user_attrs.get("owner", "::0")).rsplit(":", 2)
    return host == host_identity() and float(begun) >= psutil.Process().create_time() - 0.1


def _spent(activity: str, trials: Sequence[FrozenTrial]) -> float:
    """Seconds of an activity in trials; what one took over from a checkpoint was told by another, or lost."""
    return sum(
        trial.user_attrs.get("seconds", {}).get(activity, 0.0)
        - trial.user_attrs.get(SPENT_BEFORE, {}).get(activity, 0.0)
        for trial in trials
        if "seconds" in trial.user_attrs
    )


def _text(bench: Bench, rows: Sequence[Row], times: Times, kept: Path | None) -> str:
    """Leaderboard, times of this command, next commands."""
    plan, options = bench.plan, bench.options
    table = format_leaderboard(bench.study, plan, rows, options.results_dir)
    commands = next_commands(plan, rows, options, kept, _progress(bench))
    return "\n".join(["", table, times.line(), commands])


def _progress(bench: Bench) -> Progress:
    n_slots = bench.plan.n_slots
    if len(finished_trials(bench.study, n_slots)) == n_slots:
        return Progress.FINISHED
    return Progress.UNFINISHED if enough_found(bench) is None else Progress.ENOUGH
