"""Where studies are kept: Optuna's journal file under a kernel lock, or a database, and the locks that keep searches
apart.
"""

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.slots import host_identity

if TYPE_CHECKING:
    from search.postgresql import AdvisoryLock

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

JOURNAL_NAME = "studies.journal"
# What Optuna raises while it replays a journal that it did not write.
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError, OSError, RuntimeError)
LOCK_FOLDER = ".locks"


class StudyBusyError(ValueError):
    """Another process is searching this study at the moment."""


class KernelLock:
    """An exclusive lock on a file of its own. The kernel drops it with its process, so it is never left behind.

    `fcntl.lockf` rather than `flock`: a forked child does not keep it alive. Its one trap is that closing *any* handle
    of the file drops the lock, so nothing else may open these files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Takes the lock; without `wait`, False where another process holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@contextmanager
def held(lock: "KernelLock | AdvisoryLock") -> Iterator[None]:
    """Holds the lock for the length of the block."""
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


class JournalLock:
    """Lock of the journal file that first cuts off a line which a killed process left unfinished.

    Without the cut, the next record is glued onto the torn one and no later process can open the journal.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = KernelLock(lock_path(journal.parent, journal.name))

    def acquire(self) -> bool:
        self._lock.acquire()
        cut_torn_tail(self._journal)
        return True

    def release(self) -> None:
        self._lock.release()


def cut_torn_tail(journal: Path) -> int:
    """Truncates the file to its last newline; returns how many bytes were cut off."""
    if not journal.exists():
        return 0
    with open(journal, "rb+") as handle:
        size = handle.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - 4096)
            handle.seek(start)
            newline = handle.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            handle.truncate(end)
            os.fsync(handle.fileno())
            logger.warning("%s: cut off %d bytes that a killed process left unfinished", journal, size - end)
    return size - end


def check_lines(journal: Path) -> None:
    """Raises ValueError for the first line that is no JSON object; Optuna would only notice it later, in a trial."""
    if not journal.exists():
        return
    with open(journal, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                is_record = isinstance(json.loads(line), dict)
            except (ValueError, RecursionError):
                is_record = False
            if not is_record:
                raise ValueError(f"line {number} is no record")


def lock_path(results_dir: Path, name: str) -> Path:
    return results_dir / LOCK_FOLDER / f"{name}.lock"


def search_lock(results_dir: Path, study_name: str, url: str | None = None) -> "KernelLock | AdvisoryLock":
    """Held by the one command that searches a study; with a storage for many machines, by one on each of them."""
    if url is not None:
        from search.postgresql import AdvisoryLock  # with SQLAlchemy and psycopg: only who needs them pays for them

        return AdvisoryLock(url, f"search of {study_name} on {host_identity()}", is_long=True)
    return KernelLock(lock_path(results_dir, f"{study_name}.search"))


def guard_lock(results_dir: Path, study_name: str, url: str | None = None) -> "KernelLock | AdvisoryLock":
    """Held for moments, while slots change hands."""
    if url is not None:
        from search.postgresql import AdvisoryLock

        return AdvisoryLock(url, f"slots of {study_name}")
    return KernelLock(lock_path(results_dir, f"{study_name}.slots"))


def open_storage(results_dir: Path, url: str | None = None) -> BaseStorage:
    """The journal of all studies of a results folder, made when it is missing; or the database of this URL."""
    if url is not None:
        from search.postgresql import open_database

        return open_database(url)
    journal = results_dir.resolve() / JOURNAL_NAME
    journal.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalLock(journal)
    try:
        lock.acquire()  # also cuts a torn tail before the first read
        try:
            check_lines(journal)
        finally:
            lock.release()
        return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))
    except DAMAGE as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(
            f"{journal}: damaged ({text}); move it away: finished trials are taken over from their run folders"
        ) from error


def patiently(url: str | None, action: Callable[[], Result]) -> Result:
    """The action's result; where a server does not answer, the action is tried again for some minutes."""
    if url is None:
        return action()
    from search.postgresql import patiently as wait_for_server

    return wait_for_server(action)


def living_machines(url: str | None) -> frozenset[str]:
    """The machines that work on studies of this storage and gave a sign of life lately."""
    if url is None:
        return frozenset()
    from search.postgresql import living_hosts

    return living_hosts(url)


def signs_of_life(url: str | None) -> AbstractContextManager[None]:
    """Tells the other machines, for the length of the block, that this one lives."""
    if url is None:
        return nullcontext()
    from search.postgresql import heartbeat

    return heartbeat(url, host_identity())


def open_study(storage: BaseStorage, name: str, directions: list[str], fingerprint: dict[str, object]) -> optuna.Study:
    """The study of this name; made with its fingerprint when it is new. Call it under the study's guard lock.

    Raises ValueError with the differences when the stored fingerprint is another one.
    """
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    stored = study.user_attrs.get("fingerprint")
    if stored is None and not study.get_trials(deepcopy=False):
        study.set_user_attr("fingerprint", fingerprint)
        stored = fingerprint
    refuse_differences(name, stored or {}, fingerprint)
    return study


def refuse_differences(name: str, stored: dict[str, object], wanted: dict[str, object]) -> None:
    """Raises ValueError with the differences between two fingerprints, if there are any."""
    differences = fingerprint_differences(stored, json.loads(json.dumps(wanted)))
    if differences:
        raise ValueError(
            f"study {name!r} was started differently: {'; '.join(differences)}; "
            "give the same values to go on, or --study NEW for a new study"
        )


def stored_fingerprint(results_dir: Path, name: str, url: str | None = None) -> dict[str, object] | None:
    """The fingerprint of a study, or None where there is no such study. Makes no study."""
    if url is None and not (results_dir / JOURNAL_NAME).exists():
        return None
    storage = open_storage(results_dir, url)
    for summary in storage.get_all_studies():
        if summary.study_name == name:
            stored = summary.user_attrs.get("fingerprint")
            if stored is None and storage.get_n_trials(summary._study_id):
                raise ValueError(f"study {name!r} was made by another program; --study NEW starts one beside it")
            return stored
    return None


def fingerprint_differences(stored: dict[str, object], wanted: dict[str, object]) -> list[str]:
    """One phrase per entry that differs, nested entries by dotted names."""
    old, new = _flat(stored), _flat(wanted)
    return [
        f"{key} was {_shown(old, key)}, is {_shown(new, key)}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    ]


def _flat(entries: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in entries.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _shown(entries: dict[str, object], key: str) -> str:
    if key not in entries:
        return "absent"
    text = json.dumps(entries[key])
    return text if len(text) <= 60 else f"{text[:57]}..."
