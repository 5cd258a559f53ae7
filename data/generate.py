"""Makes, checks and seals dataset files.

python -m data.generate --family mackey                      # all splits of one family under ./data/mackey
python -m data.generate --family all --n_train 2000 --seed 1 --data_root /scratch/dde
python -m data.generate --check data/mackey/*.h5
python -m data.generate --seal data/my_family/train.h5

Files that exist, are complete and were made with the same settings are kept. Exit codes: 0 done, 1 the disk or the
solver failed, 2 wrong usage or a file that something is wrong with, 130 and 143 interrupted.
"""

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from threadpoolctl import threadpool_limits

from data.families import FAMILIES, Family
from data.schema import REQUIRED_SPLITS, SPLITS, dataset_path

logger = logging.getLogger(__name__)

DEFAULT_DATA_ROOT = Path("data")
NOISY_TRAJECTORIES = 100


@dataclass(frozen=True)
class Counts:
    """How many trajectories the splits get; `test` is the size of each of the four test splits."""

    train: int = 1000
    val: int = 200
    test: int = 200

    def of(self, split: str) -> int:
        """Returns how many draws a split is made of; a noise split holds each of them at every noise level."""
        count = getattr(self, split.split("_")[0])
        return min(NOISY_TRAJECTORIES, count) if split.endswith("_noise") else count


@dataclass
class Summary:
    """What the generation of one family did, for its closing line."""

    written: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    rejections: int = 0
    solver_error: float = float("nan")
    sha256: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def line(self, family: str) -> str:
        """Returns the closing line."""
        if not self.written:
            return f"{family}: all {len(self.kept)} splits are there already, made with these settings: kept"
        kept = f", kept {', '.join(self.kept)}" if self.kept else ""
        sizes = ", ".join(f"{split} {size}" for split, size in self.written.items())
        digest = f"; sha256 of train {self.sha256['train'][:12]}" if "train" in self.sha256 else ""
        return (
            f"{family}: wrote {sizes}{kept}; {self.rejections} draws rejected; "
            f"solver error at most {self.solver_error:.1e}; {self.seconds:.1f} s{digest}"
        )


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Holds the lock of a family's folder; waits while another process generates there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{folder} cannot be made ({error.strerror}); name another folder"
        raise ValueError(f"--data_root {folder.parent}: {reason}") from error
    with open(folder / ".generate.lock", "w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is generating in %s: waiting for it", folder)
            fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def _difference(found: dict[str, object], wanted: dict[str, object]) -> str:
    """Returns in a few words where two generator configurations differ."""
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    return ", ".join(f"{name} is {found.get(name)!r}, asked is {wanted.get(name)!r}" for name in names)


def _is_kept(path: Path, config: dict[str, object]) -> bool:
    """Returns whether the file at `path` is complete and made with `config`, False when there is none.

    Raises ValueError for a file that would be lost: damaged, differently made, or not made by this command.
    """
    from data import store

    if not path.exists():
        return False
    way_out = "add --overwrite to replace it, or choose another --data_root"
    problems = store.check(path)
    if problems:
        raise store.DatasetError(f"{path}: {problems[0]}; {way_out}")
    provenance = store.read_provenance(path)
    if provenance is None:
        raise ValueError(f"{path}: is somebody's own file, not made by this command; {way_out}")
    difference = _difference(dict(provenance.generator_config), config)
    if difference:
        raise ValueError(f"{path}: was made with other settings: {difference}; {way_out}")
    return True


def generate(
    family: Family,
    data_root: Path,
    *,
    counts: Counts,
    seed: int = 0,
    splits: Sequence[str] = SPLITS,
    overwrite: bool = False,
    has_progress: bool = True,
) -> Summary:
    """Makes the missing splits of one family under `data_root` and returns what was done.

    Nothing is written before all existing files have been found to fit; a killed run is completed by the next one.
    """
    from tqdm import tqdm

    from data import store, trajectories

    started, summary = time.perf_counter(), Summary()
    paths = {split: dataset_path(data_root, family.name, split) for split in splits}
    # Two BLAS threads on these small products, on busy cores: 240 s instead of 19.
    with _only_writer(Path(data_root) / family.name), threadpool_limits(1):
        configs = {split: trajectories.generator_config(family, split, counts.of(split), seed) for split in splits}
        if not overwrite:
            summary.kept = [split for split in splits if _is_kept(paths[split], configs[split])]
        missing = [split for split in splits if split not in summary.kept]
        is_quiet = None if has_progress else True  # None: no bar where nobody watches
        with tqdm(missing, family.name, unit="split", disable=is_quiet, leave=False) as bar:
            for split in bar:
                bar.set_postfix_str(f"{split} {counts.of(split)}")
                store.remove_partial_files(paths[split])
                made = trajectories.make_split(family, split, counts.of(split), seed)
                provenance = store.Provenance(family.equation, seed, configs[split], made.solver, made.rejections)
                summary.sha256[split] = store.write(paths[split], made.dataset, provenance)
                summary.written[split] = len(made.dataset.tau)
                summary.rejections += made.rejections
                summary.solver_error = max(made.solver["largest_error"], summary.solver_error)
    summary.seconds = time.perf_counter() - started
    return summary


def ensure_datasets(family: str, data_root: Path, *, is_default_root: bool, counts: Counts | None = None) -> None:
    """Makes sure that the splits a training needs are there.

    In the default root the missing splits of a known family are made, with the seed and the sizes of those that exist.
    In a root that the user named, or for an unknown family, a missing one raises FileNotFoundError with the command.
    Files that exist are not verified here: reading does that.
    """
    from data import store

    paths = {split: dataset_path(data_root, family, split) for split in SPLITS}
    missing = [split for split in SPLITS if not paths[split].exists()]
    required = [split for split in REQUIRED_SPLITS if split in missing]
    if family not in FAMILIES or not is_default_root:
        if required:
            command = store.generate_command(paths[required[0]])
            known = (
                "" if family in FAMILIES else f", known families are {', '.join(FAMILIES)}; data/README.md tells more"
            )
            raise FileNotFoundError(f"{paths[required[0]]}: no such dataset; make it: {command}{known}")
        return
    found = {split: store.read_provenance(paths[split]) for split in SPLITS if split not in missing}
    is_foreign = any(provenance is None for provenance in found.values())
    if not missing or (is_foreign and not required):
        return
    seeds = {provenance.seed for provenance in found.values() if provenance is not None}
    sizes = {
        split.split("_")[0]: provenance.generator_config["count"]
        for split, provenance in found.items()
        if provenance is not None and not split.endswith("_noise")
    }
    counts = counts or Counts()
    counts = Counts(**{name: sizes.get(name, getattr(counts, name)) for name in ("train", "val", "test")})
    logger.info("making the missing datasets of %s in %s", family, data_root)
    seed = min(seeds, default=0)
    summary = generate(FAMILIES[family], Path(data_root), counts=counts, seed=seed, splits=missing)
    logger.info("%s", summary.line(family))


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    """Returns an argparse type for whole numbers in [low, high]."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return value

    return parse


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (python -m data.generate --help lists the flags)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m data.generate",
        description="Make, check and seal dataset files; data/README.md describes them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--family", choices=(*FAMILIES, "all"), help="make the datasets of this family")
    action.add_argument("--check", nargs="+", type=Path, metavar="PATH", help="say what is wrong with these files")
    action.add_argument("--seal", type=Path, metavar="PATH", help="check a file of your own and complete it")
    sizes = Counts()
    for name, meaning in (("train", "training"), ("val", "validation"), ("test", "each test split's")):
        flags = (f"--n_{name}", f"--n-{name}")
        parser.add_argument(
            *flags, type=_whole_number(1, 10**7), default=getattr(sizes, name), help=f"{meaning} trajectories"
        )
    parser.add_argument("--seed", type=_whole_number(0, 2**63 - 1), default=0, help="equal seeds give equal files")
    parser.add_argument("--data_root", "--data-root", type=Path, default=DEFAULT_DATA_ROOT, help="where datasets lie")
    parser.add_argument("--overwrite", action="store_true", help="replace files made with other settings")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-v", "--verbose", action="store_true", help="log more")
    volume.add_argument("-q", "--quiet", action="store_true", help="no progress bar, errors only")
    return parser


def _check(paths: Sequence[Path]) -> int:
    from data import store

    bad = 0
    for path in paths:
        try:
            problems = store.check(path)
        except FileNotFoundError as error:
            print(f"error: {error}", file=sys.stderr)
            bad += 1
            continue
        for problem in problems:
            print(f"error: {path}: {problem}; {store.fix(path, problem)}", file=sys.stderr)
        bad += bool(problems)
        if not problems:
            dataset = store.read(path)
            size = f"{len(dataset.tau)} trajectories, {len(dataset.solution)} steps"
            elsewhere = f"; {store.misplaced(path, dataset)}" if store.misplaced(path, dataset) else ""
            print(f"{path}: fine ({dataset.family} {dataset.split}, {size}, sha256 {dataset.sha256[:12]}){elsewhere}")
    return 2 if bad else 0


def _run(arguments: argparse.Namespace) -> int:
    """Carries out what was asked and returns the exit code."""
    if arguments.check:
        return _check(arguments.check)
    if arguments.seal:
        from data import store

        print(f"{arguments.seal}: sealed, sha256 {store.seal(arguments.seal)[:12]}")
        return 0
    counts = Counts(arguments.n_train, arguments.n_val, arguments.n_test)
    for name in FAMILIES if arguments.family == "all" else [arguments.family]:
        summary = generate(
            FAMILIES[name],
            arguments.data_root,
            counts=counts,
            seed=arguments.seed,
            overwrite=arguments.overwrite,
            has_progress=not arguments.quiet,
        )
        if not arguments.quiet:
            print(summary.line(name), flush=True)
    return 0


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def send_again(lost: "sys.UnraisableHookArgs") -> None:
    """Python drops what a signal raises inside a destructor (1 of 40 Ctrl-C here): the signal is sent once more."""
    number = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}.get(lost.exc_type)
    if number is None:
        sys.__unraisablehook__(lost)
    else:  # a moment later, when the destructor has returned
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = _parser().parse_args(argv)
    level = logging.DEBUG if arguments.verbose else logging.ERROR if arguments.quiet else logging.INFO
    logging.basicConfig(level=level, format="%(message)s")
    logging.getLogger("h5py").setLevel(logging.WARNING)  # -v is about this project
    signal.signal(signal.SIGTERM, _stop)  # so that temporary files are removed
    hook, sys.unraisablehook = sys.unraisablehook, send_again
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the splits that are finished", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError) as error:
        logger.debug("where it happened:", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot write under --data_root {arguments.data_root}: {error}", file=sys.stderr)
        return 1
    finally:
        sys.unraisablehook = hook


if __name__ == "__main__":
    sys.exit(main())
