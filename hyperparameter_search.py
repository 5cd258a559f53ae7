"""Search hyperparameters of delay neural operators: `python hyperparameter_search.py --help` lists all flags.

python hyperparameter_search.py --search_type bayesian --model method_of_steps --family mackey --n_trials 12
python hyperparameter_search.py --search_type grid --max_combinations 50 --n_workers 2
python hyperparameter_search.py --rerun hyperparameter_results/method_of_steps_mackey_20260101-120000-000000

The same command again goes on where the last one ended, however it ended.
"""

import logging
import sys
import time
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a search from its flags to the leaderboards; returns the exit code."""
    since = time.time() - time.process_time()  # the start of the interpreter counts too
    try:
        from search.command_line import parse_arguments
    except SyntaxError as error:
        print(f"error: {error.filename}, line {error.lineno}: {error.msg}; correct that line", file=sys.stderr)
        return 2
    options = parse_arguments(sys.argv[1:] if argv is None else argv)
    configure_logging(options.verbosity)
    from search.environment import prepare_process

    prepare_process()  # before numpy is imported
    try:
        from search.plan import check_stored, prepare_studies, with_workers

        if options.rerun is not None:
            from search.rerun import rerun

            return rerun(options)
        if options.collect:
            from search.collect import collect

            return collect(options)
        options = with_workers(options)
        plans, data = prepare_studies(options)
        if options.dry_run:
            from search.dry_run import describe

            print("\n\n".join(describe(plan, data[plan.family], options) for plan in plans))
            return 0
        check_stored(plans, options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted before the first trial; the same command starts again", file=sys.stderr)
        return 130

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
            print(outcome.text, flush=True)
            n_complete, since = n_complete + outcome.n_complete, time.time()
            if interruption.ends_everything:
                break
    if interruption.exit_code:
        return interruption.exit_code
    if n_complete == 0:
        print("error: no trial finished; final_results.json of each run folder says why", file=sys.stderr)
    return 0 if n_complete else 1


def configure_logging(verbosity: int) -> None:
    """Log lines go to stderr, above the progress bars."""
    level = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}[verbosity]
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for name in ("wandb", "urllib3", "matplotlib", "git"):
        logging.getLogger(name).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
