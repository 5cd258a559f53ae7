"""The flags of a search. Only the standard library is imported here, so that `--help` answers at once."""

import argparse
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from hyperparameter_config import SEARCH_SPACES
from search.objectives import OBJECTIVES, parse_objectives

DEFAULT_RESULTS_DIR = Path("hyperparameter_results")
MOST = 100_000  # trials, cells, repetitions
MOST_WORKERS = 1024
LONGEST_NAME = 120  # bytes of a study's name, which becomes part of file names
SEARCH_TYPES = ("grid", "random", "bayesian")
SAMPLERS = ("tpe", "gp", "cmaes", "random")
LONGEST_PROJECT = 128  # what W&B takes
PRUNERS = ("promote", "hyperband", "median", "none")
HOST = r"([^\s/?#@:\[\],]*|\[[\da-fA-F:.]+\])(:\d{1,5})?"
STORAGE_URL = re.compile(
    rf"postgres(ql)?://([^\s/?#@:]*(:[^\s/?#@:]*)?@)?{HOST}(,{HOST})*"  # user, password, one or several hosts
    r"(/[^\s/?#@]*)?(\?\w+=[^\s#&]*(&\w+=[^\s#&]*)*)?"  # database, options
)
DESCRIPTION = """\
Search hyperparameters of delay neural operators. The same command again goes on where the last one ended.

  python hyperparameter_search.py --search_type bayesian --model method_of_steps --family mackey --n_trials 12
  python hyperparameter_search.py --dry_run            show the space and the data, train nothing
"""
EPILOG = """\
Flags may be spelt with underscores or dashes. Exit codes: 0 done, 1 no trial finished or a trial hit a bug,
2 wrong usage, data or a folder that cannot be written to, 130 Ctrl-C, 143 SIGTERM.
"""


@dataclass(frozen=True)
class Options:
    """All flags, checked as far as that goes without data."""

    search_type: str
    model: str | None
    family: str | None
    n_trials: int
    max_combinations: int
    objectives: tuple[str, ...]
    seed: int
    study: str | None
    sampler: str | None  # of a Bayesian search; None: tpe
    pruner: str
    warm_start: Path | None
    timeout: float | None  # minutes
    target_error: float | None
    stop_when_flat: int | None
    confirm_top: int
    confirm_seeds: int
    max_epochs: int
    patience: int
    max_seconds: float | None
    checkpoint_every: int
    data_root: Path
    results_dir: Path
    storage: str | None = field(repr=False)  # may hold a password
    artifacts: Path | None
    device: str
    n_workers: int | None  # None: as many as the machine has cores, or GPUs
    workers_per_gpu: int | None
    wandb_project: str
    wandb_entity: str | None
    wandb_mode: str
    dry_run: bool
    rerun: Path | None
    collect: bool
    verbosity: int
    notes: tuple[str, ...]
    arguments: tuple[str, ...]  # without passwords

    @property
    def command(self) -> str:
        """The command line, ready to paste."""
        return "python hyperparameter_search.py " + shlex.join(self.arguments)


def without_password(text: str) -> str:
    """The text without the passwords of a URL that `--storage` takes: what is left works with PGPASSWORD."""
    text = re.sub(r"(?<=://)([^:/@\s]*):[^/@\s]*@", r"\1@", text)
    text = re.sub(r"(?i)([?&])\w*password=[^&\s]*&?", r"\1", text)
    return re.sub(r"[?&]$", "", text)


class OneLineParser(argparse.ArgumentParser):
    """Answers a usage error in one line, without the usage text and without what follows :// in `given`."""

    given: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        for word in self.given:
            if "://" in word:
                for secret in (word, word.partition("=")[2] or word):
                    message = message.replace(secret, f"{secret.partition('://')[0]}://…")
        self.exit(2, f"error: {message} (see --help)\n")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description and shows defaults, where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _integer(low: int, high: int = MOST) -> type:
    def whole(text: str) -> int:
        if len(text) > 40:
            raise argparse.ArgumentTypeError(f"expected a whole number of at most {high}, got {len(text)} characters")
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, got {text}")
        if value > high:
            raise argparse.ArgumentTypeError(f"expected a whole number of at most {high}, got {text}")
        return value

    whole.__name__ = f"whole number of at least {low}"
    return whole


def _positive(unit: str) -> Callable[[str], float]:
    def positive(text: str) -> float:
        value = float(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a positive number{unit}, got {text}")
        return value

    positive.__name__ = f"positive number{unit}"
    return positive


def _storage_url(text: str) -> str:
    # What is malformed is not shown: who knows where its password begins.
    if not STORAGE_URL.fullmatch(text) or re.search(r"%(?![\da-fA-F]{2})", text):
        scheme, mark, _ = text.partition("://")
        got = f", got {scheme}://…" if mark and re.fullmatch(r"[\w+]{1,20}", scheme) else ""
        raise argparse.ArgumentTypeError(
            f"expected postgresql://USER@HOST:PORT/DATABASE{got}; leave the password to PGPASSWORD or ~/.pgpass, or "
            "write its special characters as %XX (@ is %40, % is %25)"
        )
    return text.replace("postgres://", "postgresql://", 1)


def _folder(text: str) -> Path:
    if not text or re.match(r"\w{2,}:/", text):
        raise argparse.ArgumentTypeError(f"expected a folder that all machines see, got {text!r}; mount it as one")
    return Path(text)


def _workers(text: str) -> int | None:
    return None if text == "auto" else _integer(1, MOST_WORKERS)(text)


_workers.__name__ = "whole number of at least 1, or auto"


def _project(text: str) -> str:
    if not text.strip() or len(text) > LONGEST_PROJECT or not text.isprintable() or set(text) & set("/\\#?%:"):
        raise argparse.ArgumentTypeError(
            f"expected a name of at most {LONGEST_PROJECT} characters without / \\ # ? % :, got {text[:40]!r}"
        )
    return text


def _study_name(text: str) -> str:
    if not text or text != text.strip() or any(c in text for c in "/\\\0") or text.startswith("."):
        raise argparse.ArgumentTypeError(f"expected a name that can be part of a file name, got {text!r}")
    if not text.isprintable():
        raise argparse.ArgumentTypeError(f"expected a name of one line that can be part of a file name, got {text!r}")
    if len(text.encode()) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"expected at most {LONGEST_NAME} bytes, got {len(text.encode())}")
    return text


def _add_study_flags(parser: argparse.ArgumentParser) -> None:
    """What is searched, and how."""
    what = parser.add_argument_group("what is searched")
    what.add_argument("--search_type", choices=SEARCH_TYPES, default="random", help="search strategy")
    what.add_argument("--model", choices=tuple(SEARCH_SPACES), default=None, help="operator; without it, all of them")
    what.add_argument(
        "--family",
        metavar="NAME",
        default=None,
        help="dataset family: mackey, delayed_logistic, neutral, reaction_diffusion, any other of data/families.py, or "
        "a folder of --data_root; without it, all of data/families.py",
    )
    what.add_argument(
        "--n_trials", type=_integer(1), default=50, metavar="N", help="trials of a random or bayesian study"
    )
    what.add_argument("--max_combinations", type=_integer(1), default=50, metavar="N", help="cells of a grid study")
    what.add_argument(
        "--objectives",
        default="rel_error",
        metavar="A,B",
        help=f"metrics of the validation split to optimise, several for a Pareto front: {', '.join(OBJECTIVES)}",
    )
    what.add_argument("--seed", type=_integer(0, 2**63 - 1), default=0, metavar="INT", help="seed of the whole search")
    what.add_argument(
        "--study", type=_study_name, default=None, metavar="NAME", help="its name; else {model}_{family}_{search_type}"
    )
    what.add_argument(
        "--sampler", choices=SAMPLERS, default=None, help="of a bayesian search, by Optuna's name (default: tpe)"
    )
    what.add_argument(
        "--pruner",
        choices=PRUNERS,
        default=None,
        help="what pauses bad trials (promote) or stops them (default: promote; with --max_seconds hyperband)",
    )
    what.add_argument(
        "--warm_start",
        type=Path,
        default=None,
        metavar="RESULTS_DIR",
        help="begin with the best configurations of the same operator in earlier results, one of each family",
    )


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    """When a search ends, and how each trial trains."""
    budget = parser.add_argument_group("when a search ends before its last trial; the same command goes on")
    budget.add_argument("--timeout", type=_positive(" of minutes"), default=None, metavar="MIN", help="after minutes")
    budget.add_argument(
        "--target_error", type=_positive(""), default=None, metavar="E", help="when the first objective is at most E"
    )
    budget.add_argument(
        "--stop_when_flat",
        type=_integer(1),
        default=None,
        metavar="N",
        help="after N trials without 1 %% gain",
    )
    trial = parser.add_argument_group("each trial")
    trial.add_argument(
        "--max_epochs", type=_integer(1, 10**9), default=200, metavar="N", help="training epochs at most"
    )
    trial.add_argument(
        "--patience",
        type=_integer(1, 10**9),
        default=20,
        metavar="N",
        help="epochs without progress before a trial stops",
    )
    trial.add_argument(
        "--max_seconds",
        type=_positive(" of seconds"),
        default=None,
        metavar="S",
        help="seconds at most; such trials do not repeat exactly",
    )
    trial.add_argument(
        "--checkpoint_every",
        type=_integer(1),
        default=1,
        metavar="N",
        help="epochs that a killed trial loses at most, or 200 times what saving takes",
    )


def _add_other_flags(parser: argparse.ArgumentParser) -> None:
    """All that does not change what a study finds."""
    confirm = parser.add_argument_group("after the search")
    confirm.add_argument(
        "--confirm_top", type=_integer(0), default=3, metavar="K", help="train the best K again with fresh seeds"
    )
    confirm.add_argument(
        "--confirm_seeds", type=_integer(1), default=3, metavar="N", help="fresh seeds for each of them"
    )
    where = parser.add_argument_group("where")
    where.add_argument("--data_root", type=Path, default=Path("./data"), metavar="PATH", help="root directory for data")
    where.add_argument(
        "--results_dir", type=Path, default=DEFAULT_RESULTS_DIR, metavar="PATH", help="run folders and studies"
    )
    where.add_argument(
        "--storage",
        type=_storage_url,
        default=None,
        metavar="URL",
        help="postgresql://USER@HOST:PORT/DATABASE, for several machines that run the same command (docs/cluster.md); "
        "without it, a journal file in --results_dir",
    )
    where.add_argument(
        "--artifacts",
        type=_folder,
        default=None,
        metavar="PATH",
        help="with --storage: folder that all machines see, for models and predictions",
    )
    where.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N")
    where.add_argument(
        "--n_workers",
        type=_workers,
        default=None,
        metavar="N",
        help="processes of one thread each (default: auto, one for every core, or by GPUs); 1 repeats bit for bit",
    )
    per_gpu = "of these, on each GPU (default: 1, or 16 where nvidia-cuda-mps-control runs)"
    where.add_argument("--workers_per_gpu", type=_integer(1), metavar="N", help=per_gpu)
    track = parser.add_argument_group("tracking")
    track.add_argument("--wandb_project", type=_project, default="dno-search", metavar="STR", help="W&B project name")
    track.add_argument("--wandb_entity", default=None, metavar="STR", help="W&B entity name; None for your own")
    track.add_argument("--wandb_mode", choices=("online", "offline", "disabled"), default="online", help="W&B mode")
    instead = parser.add_argument_group("instead of searching")
    instead.add_argument("--dry_run", action="store_true", help="show space, data and one configuration; train nothing")
    instead.add_argument(
        "--rerun",
        type=Path,
        default=None,
        metavar="RUN_FOLDER",
        help="train this folder's configuration again and compare",
    )
    instead.add_argument(
        "--collect",
        action="store_true",
        help="with --storage: write the run folders of all trials that ran on other machines",
    )
    talk = parser.add_argument_group("talk").add_mutually_exclusive_group()
    talk.add_argument("-v", "--verbose", action="store_true", help="say more")
    talk.add_argument("-q", "--quiet", action="store_true", help="warnings and the leaderboard only")


def underscored(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--n-trials` spelt `--n_trials`."""
    spelt = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
        spelt.append(name + equals + value)
    return spelt


def parse_arguments(arguments: Sequence[str]) -> Options:
    """The options of a command line; exits with code 2 and one line where it is wrong."""
    parser = OneLineParser(
        prog="hyperparameter_search.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    _add_study_flags(parser)
    _add_training_flags(parser)
    _add_other_flags(parser)
    parser.given = underscored(arguments)
    values = vars(parser.parse_args(parser.given))
    try:
        objectives, notes = parse_objectives(values.pop("objectives"))
    except ValueError as error:
        parser.error(f"argument --objectives: {error}")
    for flag in ("artifacts", "collect"):
        if values[flag] and values["storage"] is None:
            parser.error(f"argument --{flag}: needs --storage, which says where the machines meet")
    if values["sampler"] is not None and values["search_type"] != "bayesian":
        parser.error("argument --sampler: goes with --search_type bayesian")
    if values["sampler"] == "cmaes" and len(objectives) > 1:
        parser.error("argument --sampler: cmaes takes one objective; tpe and gp take several")
    if values["sampler"] == "cmaes" and values["storage"] is not None:
        parser.error(
            "argument --sampler: cmaes keeps its state as a pickle in the study, by which whoever writes to a database "
            "could run code here; with --storage take tpe or gp"
        )
    if objectives != ("rel_error",) and values["search_type"] != "grid":
        notes.append("no trial is stopped early: pruners see rel_error alone, which does not decide these objectives")
    if values["search_type"] == "grid":
        for flag in ("pruner", "warm_start"):
            if values[flag] not in (None, "none"):
                parser.error(f"argument --{flag}: a grid trains each of its cells to the end; leave it out")
    if values["pruner"] == "promote" and values["max_seconds"] is not None:
        parser.error("argument --pruner: promote compares trials at equal epochs; leave out --max_seconds")
    values["pruner"] = values["pruner"] or ("promote" if values["max_seconds"] is None else "hyperband")
    verbosity = values.pop("verbose") - values.pop("quiet")
    if values["family"] == "all":
        values["family"] = None
    if values["wandb_entity"] in ("None", "none", ""):
        values["wandb_entity"] = None
    return Options(
        objectives=objectives,
        notes=tuple(notes),
        verbosity=verbosity,
        arguments=tuple(map(without_password, arguments)),
        **values,
    )
