"""A private PostgreSQL on the loopback interface: for tests, and to try a search over several machines on one.

    python tests/private_postgresql.py /tmp/server          # prints the URL, runs until Ctrl-C

Needs Debian's package `postgresql` or any other with `initdb` and `pg_ctl`. As root the server runs as `postgres`.
"""

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

USER, PASSWORD, DATABASE = "dno", "secret-for-tests", "studies"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "32MB",
}


def binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`, or None."""
    found = shutil.which("initdb")
    folders = ([Path(found).resolve().parent] if found else []) + [
        Path(path) for path in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    ]
    return next((folder for folder in folders if (folder / "pg_ctl").exists()), None)


class Server:
    """A server of its own in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._binaries = binaries()
        if self._binaries is None:
            raise FileNotFoundError("no PostgreSQL server here: apt-get install postgresql")
        folder.mkdir(parents=True, exist_ok=True)
        password = folder / "password"
        password.write_text(PASSWORD)
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            for path in (folder, password):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-D", self.data, "-U", USER, "-A", "scram-sha-256", "--pwfile", password, "--no-sync")
        lines = [f"{name} = '{value}'" for name, value in SETTINGS.items()]
        lines += [f"port = {self.port}", f"unix_socket_directories = '{folder}'"]
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        self.start()
        self.make_database(DATABASE)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = DATABASE, password: str = PASSWORD) -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def make_database(self, name: str) -> str:
        """A new empty database; returns its URL."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def start(self) -> None:
        self._run("pg_ctl", "-D", self.data, "-w", "-t", "60", "-l", self.folder / "log", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def _run(self, name: str, *arguments: object) -> None:
        command = [str(self._binaries / name), *map(str, arguments)]
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        # Not a pipe: the server that pg_ctl starts would keep it open.
        with tempfile.TemporaryFile("w+") as output:
            code = subprocess.call(command, stdout=output, stderr=subprocess.STDOUT, cwd="/", env=os.environ, **user)
            output.seek(0)
            if code:
                raise RuntimeError(f"{name} failed: {output.read()[-500:]}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def private_server(folder: Path | None = None) -> Iterator[Server]:
    """A running server; stopped and deleted at the end."""
    place = Path(tempfile.mkdtemp(prefix="dno-postgresql-")) if folder is None else folder
    try:
        server = Server(place)
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    with private_server(Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else None) as running:
        print(running.url(), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
