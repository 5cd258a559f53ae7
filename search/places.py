"""Where a search reads and writes, checked before anything heavy is loaded."""

import logging
import os
import tempfile
from pathlib import Path

from data.families import FAMILIES
from data.generate import DEFAULT_DATA_ROOT
from search.command_line import Options

logger = logging.getLogger(__name__)


class Unwritable(Exception):
    """A folder of results cannot be written to any more; its text is for the user."""


def unwritable(flag: str, path: Path, error: OSError | Unwritable) -> Unwritable:
    """The error in words for the user, unless it has some already."""
    if isinstance(error, Unwritable):
        return error
    reason = error.strerror or str(error)
    return Unwritable(f"{flag} {shortened(path)}: cannot be written to ({reason}); make room, or name another folder")


def uses_default_root(data_root: Path) -> bool:
    return data_root.resolve() == DEFAULT_DATA_ROOT.resolve()


def choose_families(options: Options) -> list[str]:
    """The families to search: the one asked for, or all there are."""
    try:
        if options.data_root.exists() and not options.data_root.is_dir():
            raise ValueError(f"--data_root {shortened(options.data_root)}: is a file; name a folder")
    except OSError as error:
        raise ValueError(
            f"--data_root {shortened(options.data_root)}: {error.strerror}; name another folder"
        ) from error
    found = sorted(path.parent.name for path in options.data_root.glob("*/train.h5"))
    known = list(FAMILIES) + [name for name in found if name not in FAMILIES]
    if options.family is not None:
        name = options.family
        is_plain = name == Path(name).name and not name.startswith(".")
        if name not in known and not (is_plain and (options.data_root / name).is_dir()):
            raise ValueError(
                f"--family: expected one of {', '.join(known)}, or a folder of {options.data_root} with files of your "
                f"own (its plain name), got {options.family!r}"
            )
        return [options.family]
    if uses_default_root(options.data_root) or not found:
        return known
    absent = [name for name in FAMILIES if name not in found]
    if absent:
        logger.info("%s has no %s: not searched", options.data_root, ", ".join(absent))
    return found


def places_of_results(options: Options) -> dict[str, Path]:
    """The folders that a search writes to, by flag."""
    places = {"--results_dir": options.results_dir, "--artifacts": options.artifacts}
    return {flag: path for flag, path in places.items() if path is not None}


def check_places(options: Options) -> None:
    """Refuses folders that nothing can be made in. Makes nothing."""
    for flag, path in places_of_results(options).items():
        try:
            existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
        except OSError as error:
            raise ValueError(f"{flag} {shortened(path)}: {error.strerror}; name another folder") from error
        if not existing.is_dir():
            raise ValueError(f"{flag} {path}: {existing} is a file; name a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise ValueError(f"{flag} {path}: {existing} cannot be written to; name another folder")


def make_places(options: Options) -> None:
    """Makes the folders, and a file in each: some that look writable are not (full disks, /proc)."""
    for flag, path in places_of_results(options).items():
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path) as probe:
                probe.write(b"0" * 4096)
        except OSError as error:
            raise ValueError(f"{flag} {path}: cannot be written to ({error.strerror}); name another folder") from error


def shortened(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 120 else f"{text[:117]}..."
