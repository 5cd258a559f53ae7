"""Search hyperparameters of delay neural operators: `python hyperparameter_search.py --help` lists all flags.

python hyperparameter_search.py --search_type bayesian --model method_of_steps --family mackey --n_trials 12
python hyperparameter_search.py --search_type grid --max_combinations 50 --n_workers 2
python hyperparameter_search.py --rerun hyperparameter_results/method_of_steps_mackey_20260101-120000-000000

The same command again goes on where the last one ended, however it ended.
"""

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.batches import FamilyData
    from search.command_line import Options
    from search.plan import StudyPlan


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a search from its flags to the leaderboards; returns the exit code."""
    since = time.time() - time.process_time()  # the start of the interpreter counts too
    try:
        from search.command_line import parse_arguments
    except Exception as error:  # the search space is a Python file that the user edits: it may raise anything
        line = mistake_in_search_space(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    options = parse_arguments(sys.argv[1:] if argv is None else argv)
    configure_logging(options.verbosity)
    from search.environment import prepare_process, uncollected

    prepare_process()  # before numpy is imported
    try:
        if options.rerun is not None:
            from search.rerun import rerun

            return rerun(options)
        if options.collect:
            from search.collect import collect

            return collect(options)
        from search.places import check_places, choose_families, make_places

        families = choose_families(options)
        check_places(options)
        with uncollected():
            from search.plan import check_stored, prepare_studies, with_workers  # with torch, which takes seconds

        options = with_workers(options)
        plans, data = prepare_studies(options, families)
        if options.dry_run:
            from search.dry_run import describe

            print("\n\n".join(describe(plan, data[plan.family], options) for plan in plans))
            return 0
        check_stored(plans, options)
        make_places(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ImportError, SystemError) as error:  # SystemError: how CPython words lack of memory inside an import
        hint = "pip install -r requirements.txt in a fresh environment, and leave the process memory"
        print(f"error: {' '.join(str(error).split())}; {hint}", file=sys.stderr)
        return 2
    except MemoryError:
        print("error: out of memory before the first trial; leave the process more", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted before the first trial; the same command starts again", file=sys.stderr)
        return 130

    return search_all(plans, data, options, since)


def search_all(plans: list["StudyPlan"], data: dict[str, "FamilyData"], options: "Options", since: float) -> int:
    """Searches one study after the other, each to its leaderboard; returns the exit code."""
    from search.environment import uncollected

    with uncollected():
        from search.interruption import watched
        from search.study import StudyStopped, announce, search_study

    announce(plans, options)
    n_complete = 0
    with watched(options.timeout) as interruption:
        for plan in plans:
            try:
                outcome = search_study(plan, data[plan.family], options, interruption, since)
            except StudyStopped as stop:
                print(f"error: {stop}", file=sys.stderr)
                return stop.exit_code
            except KeyboardInterrupt:  # outside of its trials: while a study is opened or summed up
                logging.getLogger(__name__).warning("stopped at once; the same command goes on")
                break
            answer(outcome.text)
            n_complete, since = n_complete + outcome.n_complete, time.time()
            if interruption.ends_everything:
                break
    if interruption.exit_code:
        return interruption.exit_code
    if n_complete == 0:
        print("error: no trial finished; final_results.json of each run folder says why", file=sys.stderr)
    return 0 if n_complete else 1


def answer(text: str) -> None:
    """Prints a leaderboard; where nobody can take it, says so in the log and goes on."""
    try:
        print(text, flush=True)
    except OSError as error:
        logging.getLogger(__name__).warning("the leaderboard could not be printed (%s)", error.strerror)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 what is left in the buffer must not fail again at exit


def mistake_in_search_space(error: Exception) -> str | None:
    """What is wrong in hyperparameter_config.py and where, in one line; None where the error is not its."""
    path = str(Path(__file__).with_name("hyperparameter_config.py"))
    if isinstance(error, SyntaxError):
        place = f"{error.filename or path}, line {error.lineno}" if error.lineno else path
        return f"{place}: {error.msg}; correct that line"
    if isinstance(error, ImportError) and error.name == "hyperparameter_config":
        return f"{path}: {error.msg}; define SEARCH_SPACES there"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    text = " ".join(str(error).split())
    return f"{path}, line {lines[-1]}: {type(error).__name__}: {text}; correct that line" if lines else None


def configure_logging(verbosity: int) -> None:
    """Log lines go to stderr, above the progress bars."""
    level = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}[verbosity]
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for name in ("wandb", "urllib3", "matplotlib", "git", "torch"):
        logging.getLogger(name).setLevel(logging.WARNING)


def run() -> None:
    """`main` as a process of its own; Ctrl-C has an answer from its first moment to its last."""
    try:
        exit_code = main()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left to lose, and Python would end in a traceback
    except KeyboardInterrupt:  # in its first moments; all others are answered where they come
        print("interrupted before the first trial; the same command starts again", file=sys.stderr)
        exit_code = 130
    sys.exit(exit_code)


if __name__ == "__main__":
    run()
