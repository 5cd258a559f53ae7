"""The journal survives torn tails, and studies refuse to be mixed."""

import subprocess
import sys
from pathlib import Path

import optuna
import psycopg
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError

from search.postgresql import is_outage
from search.storage import (
    JOURNAL_NAME,
    KernelLock,
    cut_torn_tail,
    fingerprint_differences,
    open_storage,
    open_study,
    search_lock,
    stored_fingerprint,
)

FINGERPRINT = {"seed": 0, "space": {"width": [8, 16], "dropout": [0.0, 0.3, "uniform"]}}


def new_study(folder: Path, n_trials: int = 3) -> optuna.Study:
    study = open_study(open_storage(folder), "one", ["minimize"], FINGERPRINT)
    for _ in range(n_trials):
        trial = study.ask()
        study.tell(trial, trial.suggest_float("x", 0, 1))
    return study


def test_journal_reads_on_after_a_cut_at_any_byte(tmp_path: Path) -> None:
    new_study(tmp_path)
    journal = tmp_path / JOURNAL_NAME
    whole = journal.read_bytes()
    last_line = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last_line + 1, len(whole), 7):
        journal.write_bytes(whole[:cut])
        study = open_study(open_storage(tmp_path), "one", ["minimize"], FINGERPRINT)
        trial = study.ask()
        study.tell(trial, 0.5)
        again = open_study(open_storage(tmp_path), "one", ["minimize"], FINGERPRINT)
        assert len(again.trials) == 4


def test_append_cuts_a_tail_that_was_torn_while_the_journal_was_open(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    with open(tmp_path / JOURNAL_NAME, "ab") as journal:
        journal.write(b'{"op_code": 4, "wor')
    study.tell(study.ask(), 0.1)
    assert len(open_study(open_storage(tmp_path), "one", ["minimize"], FINGERPRINT).trials) == 4


def test_cut_torn_tail_keeps_whole_lines_and_counts_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content, kept in ((b"a\nb\n", b"a\nb\n"), (b"a\nbc", b"a\n"), (b"abc", b""), (b"a\n" + b"x" * 9000, b"a\n")):
        path.write_bytes(content)
        assert cut_torn_tail(path) == len(content) - len(kept)
        assert path.read_bytes() == kept


def test_open_storage_refuses_a_journal_damaged_in_its_middle(tmp_path: Path) -> None:
    new_study(tmp_path)
    journal = tmp_path / JOURNAL_NAME
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[2] = b"\x00" * 20 + b"\n"
    journal.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=r"studies\.journal: damaged"):
        open_storage(tmp_path)


def test_open_study_refuses_another_fingerprint_and_names_the_difference(tmp_path: Path) -> None:
    new_study(tmp_path)
    other = FINGERPRINT | {"seed": 1}
    with pytest.raises(ValueError, match=r"study 'one' .* seed was 0, is 1; .*--study NEW"):
        open_study(open_storage(tmp_path), "one", ["minimize"], other)
    assert stored_fingerprint(tmp_path, "one") == FINGERPRINT
    assert stored_fingerprint(tmp_path, "two") is None
    assert stored_fingerprint(tmp_path / "nowhere", "one") is None
    assert not (tmp_path / "nowhere").exists()


def test_fingerprint_differences_name_nested_and_absent_entries() -> None:
    changed = {"seed": 0, "space": {"width": [8, 32]}}
    assert fingerprint_differences(FINGERPRINT, changed) == [
        'space.dropout was [0.0, 0.3, "uniform"], is absent',
        "space.width was [8, 16], is [8, 32]",
    ]


def test_search_lock_is_refused_while_held_and_free_after_kill(tmp_path: Path) -> None:
    holder = (
        "import sys, time\nfrom pathlib import Path\nfrom search.storage import search_lock\n"
        "lock = search_lock(Path(sys.argv[1]), 'one')\nprint(lock.acquire(wait=False), flush=True)\ntime.sleep(60)\n"
    )
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert process.stdout.readline().strip() == "True"
    lock: KernelLock = search_lock(tmp_path, "one")
    assert not lock.acquire(wait=False)
    process.kill()
    process.communicate()
    assert lock.acquire(wait=False)
    lock.release()


def caused(error: Exception, cause: BaseException | None, by_context: bool = False) -> Exception:
    """The error as it is after `raise … from cause`, or after an unrelated `raise` while the cause was handled."""
    if by_context:
        error.__context__ = cause
    else:
        error.__cause__ = cause
    return error


LOST = sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))
REFUSED = sqlalchemy.exc.ProgrammingError("SELEC 1", {}, Exception("syntax error"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LOST, True),
        (psycopg.OperationalError("terminating connection"), True),
        (caused(StorageInternalError("an exception"), LOST), True),
        (caused(KeyError("trial"), LOST, by_context=True), True),
        (caused(StorageInternalError("an exception"), sqlalchemy.exc.PendingRollbackError("rolled back")), True),
        (sqlalchemy.exc.DBAPIError("SELECT 1", {}, Exception(), connection_invalidated=True), True),
        (sqlalchemy.exc.DBAPIError("SELECT 1", {}, Exception()), False),
        (REFUSED, False),
        (caused(StorageInternalError("an exception"), REFUSED), False),
        (KeyError("trial"), False),
        (None, False),
    ],
)
def test_an_outage_is_told_from_a_refusal_also_as_the_cause_of_another_error(
    error: Exception | None, expected: bool
) -> None:
    assert is_outage(error) is expected
