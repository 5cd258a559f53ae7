"""Slots: exactly N are finished, whatever dies in between."""

import os
import random
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from search.slots import (
    ERROR,
    FAILED,
    INTERRUPTED,
    MAX_REPEATS,
    Tally,
    TrialEnd,
    claim,
    finished_trials,
    is_alive,
    owner_identity,
    reconcile,
    record_end,
)
from search.storage import guard_lock, held, open_storage, open_study

N = 4
DEAD = "nowhere:1:0.00"

WORKER = """
import sys, time
from pathlib import Path
from search.slots import TrialEnd, claim, owner_identity, record_end
from search.storage import guard_lock, held, open_storage, open_study
folder = Path(sys.argv[1])
study = open_study(open_storage(folder), "one", ["minimize"], {})
while True:
    with held(guard_lock(folder, "one")):
        trial = claim(study, owner_identity())
    if trial is None:
        break
    value = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("sampled", True)
    for step in range(10):
        trial.report(value, step)
        time.sleep(0.03)
    record_end(study, trial.number, TrialEnd("complete", None, (value,), {}, {}))
"""


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return open_study(open_storage(tmp_path), "one", ["minimize"], {})


def settle(study: optuna.Study, n: int = N, adopted: TrialEnd | None = None, **mark: str) -> Tally:
    return reconcile(study, n, lambda slot: {"x": 0.25} if slot == 0 else {}, lambda trial: adopted, **mark)


def complete(study: optuna.Study, owner: str = "") -> optuna.Trial:
    trial = claim(study, owner or owner_identity())
    record_end(study, trial.number, TrialEnd("complete", None, (trial.suggest_float("x", 0, 1),), {"m": 1.0}, {}))
    return trial


def of_slot(study: optuna.Study, slot: int) -> list[FrozenTrial]:
    return [trial for trial in study.trials if trial.user_attrs["slot"] == slot]


def test_reconcile_enqueues_every_slot_once(study: optuna.Study) -> None:
    assert settle(study) == settle(study) == Tally(finished=0, running=0, waiting=N)
    assert len(study.trials) == N
    assert complete(study).params == {"x": 0.25}
    assert settle(study) == Tally(1, 0, N - 1)


def test_reconcile_leaves_a_living_owner_alone(study: optuna.Study) -> None:
    settle(study)
    claim(study, owner_identity())
    assert settle(study) == Tally(0, 1, N - 1)


@pytest.mark.parametrize("owner", [DEAD, None], ids=["dead", "died before it signed"])
def test_reconcile_enqueues_the_slot_of_a_dead_owner_again(study: optuna.Study, owner: str | None) -> None:
    settle(study)
    if owner is None:
        study.ask()
    else:
        claim(study, owner)
    assert settle(study) == Tally(0, 0, N)
    assert [t.user_attrs["attempt"] for t in of_slot(study, 0)] == [0, 1]
    assert of_slot(study, 0)[0].state == TrialState.FAIL


def test_reconcile_adopts_a_result_that_was_fully_written(study: optuna.Study) -> None:
    settle(study)
    claim(study, DEAD)
    assert settle(study, adopted=TrialEnd("complete", None, (0.5,), {"m": 2.0}, {})) == Tally(1, 0, N - 1)
    assert of_slot(study, 0)[0].value == 0.5
    assert of_slot(study, 0)[0].user_attrs["metrics"] == {"m": 2.0}


def test_reconcile_gives_a_slot_up_after_five_repeats(study: optuna.Study) -> None:
    for repeat in range(MAX_REPEATS + 1):
        assert settle(study, n=1) == Tally(0, 0, 1), repeat
        claim(study, DEAD)
    assert settle(study, n=1) == Tally(1, 0, 0)
    last = of_slot(study, 0)[-1]
    assert (last.user_attrs["end"], last.user_attrs["attempt"]) == (FAILED, MAX_REPEATS)
    assert last.user_attrs["reason"] == "killed in each of 6 attempts"


@pytest.mark.parametrize("mark", [INTERRUPTED, ERROR])
def test_interruptions_and_bugs_free_a_slot_without_counting(study: optuna.Study, mark: str) -> None:
    for _ in range(MAX_REPEATS + 3):
        settle(study, n=1)
        trial = claim(study, owner_identity())
        record_end(study, trial.number, TrialEnd(mark, "why", None, {}, {}))
    assert settle(study, n=1) == Tally(0, 0, 1)
    assert of_slot(study, 0)[-1].user_attrs["attempt"] == 0


def test_a_repeated_slot_keeps_the_values_it_had_sampled(study: optuna.Study) -> None:
    settle(study)
    complete(study)
    trial = claim(study, DEAD)
    value = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("sampled", True)
    settle(study)
    for _ in range(N - 1):
        complete(study)
    assert of_slot(study, 1)[-1].params == {"x": value}


def test_claim_takes_an_interrupted_slot_before_later_ones(study: optuna.Study) -> None:
    settle(study)
    record_end(study, claim(study, owner_identity()).number, TrialEnd(INTERRUPTED, "why", None, {}, {}))
    settle(study)
    assert [claim(study, owner_identity()).user_attrs["slot"] for _ in range(N)] == list(range(N))


def test_own_failures_and_pruned_trials_finish_their_slots(study: optuna.Study) -> None:
    settle(study)
    for end in (TrialEnd(FAILED, "diverged", None, {}, {}), TrialEnd("pruned", None, None, {}, {})):
        record_end(study, claim(study, owner_identity()).number, end)
    assert settle(study) == Tally(2, 0, 2)
    assert [trial.state for trial in finished_trials(study)] == [TrialState.FAIL, TrialState.PRUNED]


def test_fewer_trials_withdraw_waiting_slots_and_more_bring_them_back(study: optuna.Study) -> None:
    settle(study)
    assert settle(study, n=2) == Tally(0, 0, 2)
    assert len(study.get_trials(states=(TrialState.WAITING,))) == 2
    assert settle(study, n=6) == Tally(0, 0, 6)


def test_claim_returns_none_where_nothing_waits(study: optuna.Study) -> None:
    assert claim(study, owner_identity()) is None
    assert study.trials == []


def test_is_alive_knows_this_process_from_one_with_its_pid() -> None:
    host, pid, started = owner_identity().rsplit(":", 2)
    assert is_alive(owner_identity())
    assert not is_alive(f"{host}:{pid}:{float(started) - 5:.2f}")
    assert not is_alive(f"other{host}:{pid}:{started}")
    assert not is_alive(None)


def test_exactly_n_slots_are_finished_under_kills(tmp_path: Path) -> None:
    """Two workers, one of them killed every now and then at a random moment."""
    generator, n, kills = random.Random(0), 12, 0
    root, environment = Path(__file__).parents[1], os.environ | {"OMP_NUM_THREADS": "1"}
    study = open_study(open_storage(tmp_path), "one", ["minimize"], {})
    crew: list[subprocess.Popen] = []
    for _ in range(400):
        with held(guard_lock(tmp_path, "one")):
            tally = settle(study, n)
        if tally.finished == n:
            break
        crew = [worker for worker in crew if worker.poll() is None]
        while len(crew) < 2:
            crew.append(subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], cwd=root, env=environment))
        try:
            crew[0].wait(timeout=generator.uniform(0.1, 0.3))
        except subprocess.TimeoutExpired:
            if tally.running and kills < 5:
                generator.choice(crew).kill()
                kills += 1
    for worker in crew:
        worker.wait()
    finished = finished_trials(study)
    assert kills >= 3
    assert [trial.user_attrs["slot"] for trial in finished] == list(range(n))
    assert all(len([t for t in of_slot(study, s) if t.state == TrialState.COMPLETE]) == 1 for s in range(n))
