"""Studies on a PostgreSQL server, for many machines: connections, locks, signs of life, and patience with outages."""

import contextlib
import hashlib
import logging
import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import optuna
import psycopg
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, scoped_session

from search.command_line import without_password
from search.slots import StorageLost

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10
PATIENCE_SECONDS = 600.0  # how long a search waits for a server that was there when it began
BEAT_SECONDS = float(os.environ.get("DNO_HEARTBEAT_SECONDS", "10"))  # between two signs of life of a machine
NO_ANSWER = "the server does not answer"
MISSED_BEATS = 6  # then its trials are taken over
# A machine that vanished with its network must not keep its locks for TCP's two hours.
KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
BEATS = "CREATE TABLE IF NOT EXISTS dno_heartbeats (host text PRIMARY KEY, beat timestamptz NOT NULL)"
# By the server's clock alone; while the server was down nobody could give a sign.
ALIVE = """SELECT host FROM dno_heartbeats
WHERE now() - greatest(beat, pg_postmaster_start_time()) < make_interval(secs => %s)"""

FOREIGN = ("42703", "42P01", "42804")  # undefined column, undefined table, other type

Result = TypeVar("Result")


class NoAnswer(ValueError):
    """The server of a storage could not be reached; its text is for the user."""


def connect(url: str) -> psycopg.Connection:
    """An own connection, each statement its own transaction."""
    return psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS, options=KEEPALIVE)


def is_outage(error: BaseException | None) -> bool:
    """Whether the server could not be reached, rather than refused what it was asked; also where that is the cause.

    A session that an outage has broken answers later statements by errors of its own: a fresh one will do.
    """
    lost = (NoAnswer, psycopg.OperationalError, sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
    while error is not None:
        if isinstance(error, (*lost, sqlalchemy.exc.PendingRollbackError)):
            return True
        if isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__ or error.__context__
    return False


def patiently(action: Callable[[], Result]) -> Result:
    """The action's result, tried again while the server does not answer; StorageLost after PATIENCE_SECONDS."""
    since, pause = None, 0.5
    while True:
        try:
            result = action()
        except (NoAnswer, psycopg.Error, sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            since = since or time.monotonic()
            if not is_outage(error):
                raise
            if time.monotonic() - since > PATIENCE_SECONDS:
                raise StorageLost(f"the storage did not answer for {PATIENCE_SECONDS:.0f} s") from error
            if pause == 0.5:
                logger.warning("the storage does not answer; trying again for %.0f minutes", PATIENCE_SECONDS / 60)
            time.sleep(pause)
            pause = min(2 * pause, 10.0)
        else:
            if since is not None:
                logger.warning("the storage answers again, after %.0f s", time.monotonic() - since)
            return result


def open_database(url: str) -> "BatchingStorage":
    """Optuna's storage on this server. ValueError in one line, without password, for what the user can mend."""
    try:
        with connect(url) as connection:
            # Tables are made once: several machines may begin at the same moment.
            connection.execute("SELECT pg_advisory_lock(%s)", [lock_key("tables")])
            connection.execute(BEATS)
            connection.execute("SELECT host, beat FROM dno_heartbeats LIMIT 0")
            engine = {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS, "options": KEEPALIVE}}
            scheme, _, rest = url.partition("://")
            return BatchingStorage(f"{scheme}+psycopg://{rest}", engine_kwargs=engine)
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError, RuntimeError, ValueError) as error:
        reason = _reason(error)
        kind = NoAnswer if reason.startswith(NO_ANSWER) else ValueError
        raise kind(f"--storage {without_password(url)}: {reason}") from None


def _reason(error: Exception) -> str:
    """One line for a person. Texts of unknown errors are left out: they quote a malformed URL, password and all."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError):
        return (
            f"made by another version of Optuna; here is {optuna.__version__}. Name a new database, or upgrade it: "
            "`optuna storage upgrade --storage postgresql+psycopg://…`"
        )
    if "password authentication failed" in text or "no password supplied" in text:
        return "the server refuses this user or password; PGPASSWORD and ~/.pgpass are read too"
    if "does not exist" in text and "database" in text:
        return "the server has no such database; make it with `createdb`"
    is_malformed = re.search(r"\binvalid (port|integer|URI|connection|\w+ value)", text)
    if isinstance(error, psycopg.OperationalError) and not is_malformed:
        return f"{NO_ANSWER} ({textwrap.shorten(text.removeprefix('connection failed: '), 200, placeholder=' …')})"
    if "permission denied" in text:
        return "this user may not make tables there; GRANT CREATE ON SCHEMA public"
    if getattr(getattr(error, "orig", error), "sqlstate", None) in FOREIGN:
        return "holds tables that are not Optuna's; name an empty database, as `createdb` makes it"
    return f"not an address of a database ({type(error).__name__}); expected postgresql://USER@HOST:PORT/DATABASE"


class _Sessions:
    """Stands in for SQLAlchemy's scoped session: inside a transaction every caller gets the same open one."""

    def __init__(self, scoped: scoped_session) -> None:
        self._scoped, self._thread = scoped, threading.local()

    def __call__(self) -> object:
        return getattr(self._thread, "open", None) or patiently(self._connected)

    def _connected(self) -> Session:
        """A session with a connection that was just tested."""
        session = self._scoped()
        try:
            session.connection()
        except BaseException:
            session.close()
            raise
        return session

    def remove(self) -> None:
        self._scoped.remove()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        if getattr(self._thread, "open", None) is not None:
            yield  # a part of the transaction around it
            return
        session = patiently(self._connected)
        self._thread.open = held = _HeldSession(session)
        try:
            yield
            if held.is_broken:
                raise StorageInternalError("a part of the transaction was refused") from held.cause
            session.commit()
        except sqlalchemy.exc.SQLAlchemyError as error:
            session.rollback()
            raise StorageInternalError("the transaction was refused") from error
        except BaseException:
            session.rollback()
            raise
        finally:
            self._thread.open = None
            session.close()


class _HeldSession:
    """A session whose commit waits for the end of the transaction."""

    def __init__(self, session: Session) -> None:
        self._session, self.is_broken = session, False
        self.cause: BaseException | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def commit(self) -> None:
        self._session.flush()

    def rollback(self) -> None:
        self.is_broken, self.cause = True, self.cause or sys.exc_info()[1]

    def close(self) -> None:
        pass


class BatchingStorage(RDBStorage):
    """Optuna's storage with one commit for many writes. One commit for each of a trial's 20 reports, its parameters
    and attributes is what limits a server with many small trials.
    """

    def __init__(self, url: str, **given: object) -> None:
        super().__init__(url, **given)
        self.scoped_session = _Sessions(self.scoped_session)

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """All that the block writes is committed at its end, or nothing of it."""
        return self.scoped_session.transaction()

    def report_all(self, trial_id: int, values: dict[int, float]) -> None:
        """Adds finite errors by epoch in one statement; those that are there already stay."""
        model = models.TrialIntermediateValueModel
        kind = model.TrialIntermediateValueType.FINITE
        rows = [
            {"trial_id": trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": kind}
            for step, value in values.items()
        ]
        with self.transaction():
            session = self.scoped_session()
            self.check_trial_is_updatable(trial_id, models.TrialModel.find_or_raise_by_id(trial_id, session).state)
            session.execute(insert(model).on_conflict_do_nothing(), rows)

    def lowest_waiting(self, study_id: int) -> tuple[int, int] | None:
        """Id and number of the waiting trial with the lowest slot, by one small query: under the guard lock every
        worker waits for it, and Optuna reads all unfinished trials anew.
        """
        trial, attribute = models.TrialModel, models.TrialUserAttributeModel
        session = self.scoped_session()
        try:
            rows = (
                session.query(trial.trial_id, trial.number, attribute.value_json)
                .join(attribute, attribute.trial_id == trial.trial_id)
                .filter(trial.study_id == study_id, trial.state == TrialState.WAITING, attribute.key == "slot")
                .all()
            )
        finally:
            session.close()
        return tuple(min(rows, key=lambda row: int(row[2]))[:2]) if rows else None


def lock_key(name: str) -> int:
    """PostgreSQL's locks have numbers of 64 bits for names."""
    return int.from_bytes(hashlib.sha256(f"dno {name}".encode()).digest()[:8], "big", signed=True)


class AdvisoryLock:
    """A lock by name for all machines. The server drops it with its connection, so it is never left behind."""

    _shared: dict[str, psycopg.Connection] = {}  # noqa: RUF012 connections of this process, for locks held for moments

    def __init__(self, url: str, name: str, is_long: bool = False) -> None:
        self._url, self._key, self._is_long = url, lock_key(name), is_long
        self._connection: psycopg.Connection | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Takes the lock; without `wait`, False where another process holds it."""
        return patiently(lambda: self._take(wait))

    def _take(self, wait: bool) -> bool:
        connection = None if self._is_long else self._shared.get(self._url)
        try:
            if connection is None or connection.closed:
                connection = connect(self._url)
            word = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
            taken = connection.execute(f"SELECT {word}(%s)", [self._key]).fetchone()[0] is not False
        except psycopg.Error:
            self._shared.pop(self._url, None)
            raise
        if self._is_long and not taken:
            connection.close()
            return False
        if not self._is_long:
            self._shared[self._url] = connection
        self._connection = connection if taken else None
        return taken

    def release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(psycopg.Error):  # a lost connection has dropped the lock already
            if self._is_long:
                connection.close()
            else:
                connection.execute("SELECT pg_advisory_unlock(%s)", [self._key])


@contextmanager
def heartbeat(url: str | None, host: str) -> Iterator[None]:
    """Gives this machine's signs of life for the length of the block, from a thread of its own."""
    if url is None:
        yield
        return
    is_over = threading.Event()
    patiently(lambda: beat(url, host))
    thread = threading.Thread(target=_beat_on, args=(url, host, is_over), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(CONNECT_SECONDS)


def _beat_on(url: str, host: str, is_over: threading.Event) -> None:
    connection = None
    while not is_over.wait(BEAT_SECONDS):
        try:
            connection = connect(url) if connection is None or connection.closed else connection
            beat(url, host, connection)
        except psycopg.Error as error:
            logger.debug("no sign of life could be given: %s", error)
            connection = None


def beat(url: str, host: str, connection: psycopg.Connection | None = None) -> None:
    """One sign of life."""
    with contextlib.nullcontext(connection) if connection else connect(url) as open_connection:
        open_connection.execute(
            "INSERT INTO dno_heartbeats VALUES (%s, now()) ON CONFLICT (host) DO UPDATE SET beat = now()", [host]
        )


def living_hosts(url: str) -> frozenset[str]:
    """The machines that gave a sign of life lately."""
    connection = AdvisoryLock._shared.get(url)
    with contextlib.nullcontext(connection) if connection and not connection.closed else connect(url) as usable:
        rows = usable.execute(ALIVE, [MISSED_BEATS * BEAT_SECONDS]).fetchall()
    return frozenset(row[0] for row in rows)
