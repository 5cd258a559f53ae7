"""Where the study of an episode lies: in a journal file, or on a PostgreSQL that fails as well."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optuna.storages import BaseStorage

from search.storage import JOURNAL_NAME, open_storage
from tests.private_postgresql import Server, private_server


@dataclass(frozen=True)
class Journal:
    """Optuna's journal file. It fails with the machine that writes it: no kinds of its own."""

    kinds: tuple[str, ...] = ()

    def arguments(self) -> list[object]:
        return []

    def open(self, results_dir: Path) -> BaseStorage:
        return open_storage(results_dir)

    def signs_of_life(self, results_dir: Path) -> tuple[int, int]:
        """Size of the journal and number of folders."""
        journal = results_dir / JOURNAL_NAME
        size = journal.stat().st_size if journal.exists() else 0
        return size, sum(1 for _ in results_dir.iterdir())


@dataclass(frozen=True)
class Postgresql:
    """A database of its own for each episode, on a server that is stopped and started meanwhile."""

    server: Server
    url: str
    kinds: tuple[str, ...] = ("server stopped", "server killed", "search and server killed")

    def arguments(self) -> list[object]:
        return ["--storage", self.url]

    def open(self, results_dir: Path) -> BaseStorage:
        return open_storage(results_dir, self.url)

    def signs_of_life(self, results_dir: Path) -> tuple[int, int]:
        """Bytes of all epochs and number of folders."""
        folders = [path for path in results_dir.iterdir() if (path / "metrics.csv").exists()]
        return sum((path / "metrics.csv").stat().st_size for path in folders), len(folders)

    def fail(self, kind: str, random: np.random.Generator) -> None:
        """Stops the server for some seconds; "fast" says good-bye to its clients, "immediate" is a crash."""
        self.server.stop("fast" if kind == "server stopped" else "immediate")
        time.sleep(float(random.uniform(0, 3)))

    def recover(self) -> None:
        self.server.start()


@contextmanager
def storages(kind: str) -> Iterator:
    """A function that makes the storage of an episode of this name."""
    if kind == "journal":
        yield lambda name: Journal()
        return
    with private_server() as server:
        yield lambda name: Postgresql(server, server.make_database(name.replace(" ", "_")))
