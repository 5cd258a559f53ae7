"""Studies on a real PostgreSQL: locks, signs of life, outages, several machines, and passwords that stay secret."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import psycopg
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from private_postgresql import PASSWORD, Server, binaries, private_server
from small_search import SMALL, start

from experiment_tracker import read_run
from hyperparameter_search import main
from search import postgresql
from search.postgresql import AdvisoryLock, beat, living_hosts, open_database, patiently
from search.slots import TrialEnd, claim, finished_trials, one_transaction, reconcile, record_end, report_all
from search.storage import open_study

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server here: apt-get install postgresql"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with private_server() as running:
        yield running


@pytest.fixture
def url(server: Server, request: pytest.FixtureRequest) -> str:
    return server.make_database(re.sub(r"\W", "_", request.node.name)[:60])


def make_study(url: str) -> optuna.Study:
    return open_study(open_database(url), "one", ["minimize"], {})


def settle(study: optuna.Study, n: int, **given: object) -> object:
    return reconcile(study, n, lambda slot: {}, lambda trial: None, **given)


def test_one_transaction_commits_all_or_nothing(url: str) -> None:
    study, other = make_study(url), make_study(url)
    settle(study, 2)
    trial = claim(study, "a:1:0.00")
    with one_transaction(study):
        trial.suggest_float("x", 0, 1)
        report_all(trial, dict.fromkeys(range(20), 0.5))
        assert other.trials[0].intermediate_values == {}
    assert len(other.trials[0].intermediate_values) == 20
    with pytest.raises(ZeroDivisionError), one_transaction(study):
        trial.set_user_attr("end", "complete")
        _ = 1 / 0
    assert "end" not in make_study(url).trials[0].user_attrs
    record_end(study, trial.number, TrialEnd("complete", None, (0.25,), {"m": 1.0}, {}))
    with pytest.raises(UpdateFinishedTrialError):
        report_all(trial, {21: 0.5})
    ended = other.trials[0]
    assert (ended.state, ended.value, ended.user_attrs["metrics"]) == (TrialState.COMPLETE, 0.25, {"m": 1.0})


def test_a_lock_is_exclusive_and_free_when_its_connection_dies(url: str) -> None:
    holder, other = AdvisoryLock(url, "one", is_long=True), AdvisoryLock(url, "one", is_long=True)
    assert holder.acquire(wait=False)
    assert not other.acquire(wait=False)
    assert AdvisoryLock(url, "two", is_long=True).acquire(wait=False)
    holder._connection.close()
    assert other.acquire(wait=True)
    other.release()
    shared = AdvisoryLock(url, "three")
    assert shared.acquire()
    shared.release()
    assert AdvisoryLock(url, "three", is_long=True).acquire(wait=False)


def test_a_machine_without_signs_of_life_loses_its_trials(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "BEAT_SECONDS", 0.1)
    study = make_study(url)
    settle(study, 1)
    claim(study, "far:1:0.00")
    time.sleep(0.7)  # since the server's start no sign was due
    beat(url, "far")
    assert settle(study, 1, living_hosts=living_hosts(url)).running == 1
    time.sleep(0.7)
    assert settle(study, 1, living_hosts=living_hosts(url)).waiting == 1
    assert [t.user_attrs["attempt"] for t in study.trials] == [0, 1]


def test_a_search_waits_for_a_server_that_restarts(server: Server, url: str, caplog: pytest.LogCaptureFixture) -> None:
    study = make_study(url)
    settle(study, 3)
    trial = claim(study, "a:1:0.00")
    server.stop()
    thread = threading.Timer(1.5, server.start)
    thread.start()
    try:
        patiently(lambda: record_end(study, trial.number, TrialEnd("complete", None, (0.5,), {}, {})))
    finally:
        thread.join()
    assert "answers again" in caplog.text
    assert patiently(lambda: settle(study, 3)).finished == 1


def test_a_worker_that_begins_while_the_server_restarts_waits_for_it(server: Server, url: str) -> None:
    open_database(url)
    server.stop("immediate")
    with pytest.raises(ValueError, match="does not answer"):
        open_database(url)
    thread = threading.Timer(1.0, server.start)
    thread.start()
    try:
        assert patiently(lambda: open_database(url)).get_all_studies() == []
    finally:
        thread.join()


def run(arguments: list[object], **environment: str) -> subprocess.CompletedProcess[str]:
    previous = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        process = start(*arguments)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)
    finally:
        for name, value in previous.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.mark.slow
def test_two_machines_finish_exactly_n_trials_when_one_is_killed(
    url: str, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, shared = 4, tmp_path / "shared"
    monkeypatch.setenv("DNO_HEARTBEAT_SECONDS", "0.3")
    common = [*SMALL, "--data_root", data_root, "--storage", url, "--artifacts", shared, "--n_trials", n]
    common += ["--max_epochs", 12]
    machines = {}
    for host in ("alpha", "beta"):
        monkeypatch.setenv("DNO_HOST_ID", host)
        machines[host] = start(*common, "--results_dir", tmp_path / host)
    until = time.time() + 60
    while not list((tmp_path / "beta").glob("*/checkpoints/*.pt")) and time.time() < until:
        time.sleep(0.05)
    for process in (*psutil.Process(machines["beta"].pid).children(recursive=True), machines["beta"]):
        process.kill()
    machines["beta"].communicate()
    out, err = machines["alpha"].communicate(timeout=180)
    assert machines["alpha"].returncode == 0, err
    assert f"{n} of {n} slots finished" in out

    study = optuna.load_study(study_name="method_of_steps_mackey_random", storage=open_database(url))
    finished = finished_trials(study)
    assert [trial.user_attrs["slot"] for trial in finished] == list(range(n))
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    assert len([t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]) == n
    assert any(trial.user_attrs.get("end") == "killed" for trial in study.trials)

    collected = tmp_path / "collected"
    monkeypatch.setenv("DNO_HOST_ID", "gamma")  # a third machine: only the winner's model comes to it
    board = run([*common, "--results_dir", collected]).stdout
    assert f"{n} of {n} slots finished" in board
    winner = str(collected / str(study.best_trial.user_attrs["run_folder"]))
    elsewhere = [t for t in finished if t.state == TrialState.COMPLETE and t.number != study.best_trial.number]
    assert winner in board and all(f"{t.user_attrs['run_folder']} on " in board for t in elsewhere)
    model = Path(board.split("dno.load('")[1].split("')")[0])
    kept = collected / "best" / "method_of_steps_mackey_random" / "best_model.pt"
    assert model.parents[2] == collected and model.read_bytes() == kept.read_bytes()
    done = run([*common, "--results_dir", collected, "--collect"])
    assert done.returncode == 0, done.stderr
    assert f"{n - 1} run folders written, 1 were here already" in done.stdout
    folders = sorted(path.parent for path in collected.glob("*/final_results.json"))
    assert [f.name for f in folders] == sorted(t.user_attrs["run_folder"] for t in finished)
    for folder in folders:
        original = next(path for host in ("alpha", "beta") if (path := tmp_path / host / folder.name).exists())
        before, after = (json.loads((f / "final_results.json").read_text()) for f in (original, folder))
        names = before["files"] if before["status"] == "complete" else ("config.json", "metrics.csv")
        for name in names:
            assert (folder / name).read_bytes() == (original / name).read_bytes(), name
        assert before["metrics"] == after["metrics"]
        assert read_run(folder).problems == ()

    written = [path for folder in (tmp_path / "alpha", collected) for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]
    assert PASSWORD not in out + err
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT value_json FROM trial_user_attributes").fetchall()
    assert rows and not [row for row in rows if PASSWORD in row[0]]


def test_collecting_fetches_models_that_an_earlier_collection_left_behind(
    url: str,
    data_root: Path,
    tmp_path: Path,
    small_spaces: None,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared, there, here = (tmp_path / name for name in ("shared", "there", "here"))
    common = [*SMALL, "--data_root", data_root, "--storage", url]

    def answer(*more: object) -> tuple[int, str, str]:
        code = main(list(map(str, [*common, *more])))
        return code, *capsys.readouterr()

    (tmp_path / "file").touch()
    code, out, err = answer("--results_dir", there, "--n_trials", 1, "--artifacts", tmp_path / "file")
    assert (code, out, err.count("\n")) == (2, "", 1) and "--artifacts" in err and not there.exists()
    assert answer("--results_dir", there, "--n_trials", 1, "--artifacts", shared)[0] == 0
    (model,) = there.glob("method*/artifacts/best_model.pt")

    code, out, err = answer("--results_dir", here, "--collect", "--artifacts", tmp_path / "typo")
    assert (code, out, err.count("\n")) == (2, "", 1) and "no such folder" in err and not here.exists()
    code, out, err = answer("--results_dir", here, "--collect")
    assert code == 0 and "1 run folders written, 0 were here already" in out and "stay where they are" in caplog.text
    (tmp_path / "empty").mkdir()
    code, out, err = answer("--results_dir", here, "--collect", "--artifacts", tmp_path / "empty")
    assert code == 2 and err.count("\n") == 1 and "missing there" in err
    code, out, err = answer("--results_dir", here, "--collect", "--artifacts", shared)
    assert code == 0 and "1 were here without their models, which came" in out
    collected = here / model.parents[1].name
    assert (collected / "artifacts" / "best_model.pt").read_bytes() == model.read_bytes()
    assert read_run(collected).problems == () and read_run(collected).changed_artifacts() == []

    for file in shared.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    code, out, err = answer("--results_dir", tmp_path / "third", "--collect", "--artifacts", shared)
    assert code == 2 and "missing there or damaged" in err and not list((tmp_path / "third").glob("*/artifacts/*"))


@pytest.mark.parametrize("table", ["studies", "dno_heartbeats"])
def test_a_database_of_other_tables_is_refused(url: str, table: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"CREATE TABLE {table} (id int)")
    with pytest.raises(ValueError, match="holds tables that are not Optuna's"):
        open_database(url)


def test_what_is_wrong_with_a_storage_is_one_line_without_password(
    server: Server, url: str, data_root: Path, tmp_path: Path
) -> None:
    arguments = [*SMALL, "--data_root", data_root, "--results_dir", tmp_path, "--n_trials", 1, "--storage"]
    made_elsewhere = server.make_database("older")
    open_database(made_elsewhere)
    with psycopg.connect(made_elsewhere, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v3.0.0.a'")
    secret = "hunter2"
    cases = {
        server.url(password=secret): "refuses this user or password",
        f"postgresql://dno:{secret}@127.0.0.1:1/studies": "does not answer",
        server.url("nowhere", PASSWORD): "no such database",
        made_elsewhere: "another version of Optuna",
        f"postgresql://dno:{secret}/x@127.0.0.1/studies": "",
        f"mysql://dno:{secret}@127.0.0.1/studies": "expected postgresql://",
    }
    for address, words in cases.items():
        done = run([*arguments, address])
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
        assert "--storage" in done.stderr and words in done.stderr, done.stderr
        assert secret not in done.stderr and PASSWORD not in done.stderr, done.stderr


def test_the_same_search_twice_on_one_machine_is_refused(url: str, data_root: Path, tmp_path: Path) -> None:
    lock = AdvisoryLock(url, "search of method_of_steps_mackey_random on alpha", is_long=True)
    assert lock.acquire(wait=False)
    arguments = [*SMALL, "--data_root", data_root, "--results_dir", tmp_path, "--n_trials", 1, "--storage", url]
    done = run(arguments, DNO_HOST_ID="alpha")
    lock.release()
    assert done.returncode == 2
    assert "is being searched by another process on this machine" in done.stderr
