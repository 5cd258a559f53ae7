"""Bad flags, folders, run folders, journals and search spaces: one line, the right exit code, nothing written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hyperparameter_config
from tests.bad_inputs import SECRET, Case, Place, assert_refused, case, flags
from tests.faults import tiny
from tests.runs import finished_run

ROOT = Path(__file__).parents[1]


LONG = "x" * 300

FLAGS = {
    "unknown strategy": case(flags("--search_type", "annealing"), "--search_type", "annealing", "bayesian"),
    "unknown model": case(flags("--model", "fno"), "--model", "fno", "memory_kernel"),
    "unknown family": case(flags("--family", "lorenz"), "--family", "lorenz", "mackey"),
    "empty family": case(flags("--family", ""), "--family", "mackey"),
    "family outside": case(flags("--family", "../data/cosine"), "--family", "../data/cosine", "name"),
    "family of two names": case(flags("--family", "./cosine"), "--family", "./cosine", "name"),
    "family with an absolute path": case(flags("--family", "/etc"), "--family", "/etc", "name"),
    "no trials": case(flags("--n_trials", 0), "--n_trials", "at least 1"),
    "negative trials": case(flags("--n_trials=-3"), "--n_trials", "at least 1"),
    "half a trial": case(flags("--n_trials", 2.5), "--n_trials", "whole number", "2.5"),
    "trials without end": case(flags("--n_trials", 10**18), "--n_trials", "at most"),
    "more digits than a number has": case(flags("--n_trials", "9" * 5000), "--n_trials", "whole number"),
    "cells without end": case(
        flags("--search_type", "grid", "--max_combinations", 10**18), "--max_combinations", "at most"
    ),
    "workers without end": case(flags("--n_workers", 10**6), "--n_workers", "at most"),
    "no workers": case(flags("--n_workers", 0), "--n_workers", "at least 1"),
    "no epochs": case(flags("--max_epochs", 0), "--max_epochs", "at least 1"),
    "no patience": case(flags("--patience", 0), "--patience", "at least 1"),
    "seconds that are no number": case(flags("--max_seconds", "nan"), "--max_seconds", "positive"),
    "seconds without end": case(flags("--max_seconds", "inf"), "--max_seconds", "positive"),
    "negative seed": case(flags("--seed=-1"), "--seed", "at least 0"),
    "seed of many digits": case(flags("--seed", 10**30), "--seed", "at most"),
    "unknown objective": case(flags("--objectives", "loss"), "--objectives", "loss", "rel_error"),
    "no objective": case(flags("--objectives", ""), "--objectives", "rel_error"),
    "objective without its data": case(flags("--objectives", "stability_score"), "--objectives", "val_noise.h5"),
    "study with a slash": case(flags("--study", "a/b"), "--study", "file name"),
    "study above": case(flags("--study", ".."), "--study", "file name"),
    "study without a name": case(flags("--study", ""), "--study", "file name"),
    "study in two lines": case(flags("--study", "a\nb"), "--study", "file name"),
    "study of 300 characters": case(flags("--study", LONG), "--study", "at most"),
    "unknown W&B mode": case(flags("--wandb_mode", "cloud"), "--wandb_mode", "offline"),
    "half a flag": case(flags("--n_trial", 3), "--n_trial", "unrecognized"),
    "a word too many": case(flags("mackey"), "mackey", "unrecognized"),
    "flag without value": case(flags("--study"), "--study", "expected one argument"),
    "loud and quiet": case(flags("-v", "-q"), "-q", "not allowed with"),
    "unknown device": case(flags("--device", "tpu9"), "--device", "tpu9", "cuda:N"),
    "device that is not there": case(flags("--device", "cuda:99"), "--device", "cuda:99", "--device cpu"),
    "device without numbers": case(flags("--device", "meta"), "--device", "meta", "cuda:N"),
    "unknown metric of the report": case(
        lambda place: [finished_run(place.results), *place.report("--metric", "beauty")][1:], "--metric", "beauty"
    ),
    "top of nothing": case(lambda place: place.report("--top", 0), "--top", "from 1"),
    "pictures of an unknown format": case(lambda place: place.report("--formats", "gif"), "--formats", "png"),
    "no date": case(lambda place: place.report("--since", "yesterday"), "--since", "yesterday", "ISO"),
    "unknown flag of the report": case(lambda place: place.report("--colour", "red"), "--colour", "unrecognized"),
    "nothing to generate": case(lambda place: ["generate"], "--family", "required"),
    "unknown family to generate": case(lambda place: ["generate", "--family", "lorenz"], "--family", "mackey"),
    "no trajectories": case(lambda place: ["generate", "--family", "mackey", "--n_train", "0"], "--n_train", "from 1"),
    "nothing to check": case(lambda place: ["generate", "--check", "none.h5"], "none.h5", "no such dataset"),
}


def touched(path: Path) -> Path:
    path.write_text("")
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


FOLDERS = {
    "results in a file": case(lambda p: p.search("--results_dir", touched(p.root / "file")), "--results_dir", "file"),
    "results under a file": case(
        lambda p: p.search("--results_dir", touched(p.root / "file") / "below"), "--results_dir", "file"
    ),
    "results where nothing can be made": case(
        lambda p: p.search("--results_dir", "/proc/results"), "--results_dir", "/proc", "another folder"
    ),
    "results of 300 characters": case(lambda p: p.search("--results_dir", p.root / LONG), "--results_dir", "too long"),
    "results in a circle of links": case(lambda p: p.search("--results_dir", loop(p.root / "l")), "--results_dir"),
    "no data folder": case(lambda p: p.search("--data_root", p.root / "none"), "cosine", "none", "--family"),
    "data of 300 characters": case(lambda p: p.search("--data_root", p.root / LONG), "--data_root", "too long"),
    "data in a file": case(lambda p: p.search("--data_root", touched(p.root / "file")), "file", "name a folder"),
    "data in a circle of links": case(lambda p: p.search("--data_root", loop(p.root / "l")), "--family"),
    "pictures in a file": case(
        lambda p: [finished_run(p.results), *p.report("--output_dir", touched(p.root / "file"))][1:], "--output_dir"
    ),
    "pictures where nothing can be made": case(
        lambda p: [finished_run(p.results), *p.report("--output_dir", "/proc/pictures")][1:], "--output_dir", "/proc"
    ),
    "report of nothing": case(lambda p: p.report(), "--results_dir", "hyperparameter_search.py"),
    "report of a file": case(lambda p: p.report("--results_dir", touched(p.root / "file")), "--results_dir"),
    "datasets where nothing can be made": case(
        lambda p: ["generate", "--family", "mackey", "--data_root", "/proc/data"], "--data_root", "/proc"
    ),
    "datasets in a file": case(
        lambda p: ["generate", "--family", "mackey", "--data_root", touched(p.root / "file")], "file"
    ),
}


def rerun(**changes: object) -> Callable[[Place], list[object]]:
    """A run folder with these changes in its config.json, trained again."""

    def prepare(place: Place) -> list[object]:
        folder = finished_run(place.results)
        config = json.loads((folder / "config.json").read_text())
        fine = {"family": "cosine", "data_root": str(place.data), "dataset_sha256": {}, "model": "method_of_steps"}
        fine["hyperparameters"] = {"width": 4}
        (folder / "config.json").write_text(json.dumps(config | fine | changes))
        return ["search", "--rerun", folder, "--results_dir", place.results, "--wandb_mode", "disabled"]

    return prepare


def damaged_config(content: bytes, command: str = "rerun") -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        folder = finished_run(place.results)
        (folder / "config.json").write_bytes(content)
        return rerun()(place)[:1] + ["--rerun", folder] if command == "rerun" else place.report()

    return prepare


RUN_FOLDERS = {
    "rerun of nothing": case(flags("--rerun", "none"), "--rerun", "none", "run folder"),
    "rerun of a file": case(lambda p: p.search("--rerun", touched(p.root / "file")), "--rerun", "run folder"),
    "rerun of half a config": case(damaged_config(b'{"study": "a", "sl'), "config.json", "valid JSON"),
    "rerun of bytes": case(damaged_config(b"\xff\x00\x01"), "config.json", "UTF-8"),
    "rerun of a deep config": case(damaged_config(b"[" * 10**5), "config.json", "nested"),
    "rerun of an unknown model": case(rerun(model="fno"), "config.json", "fno", "memory_kernel"),
    "rerun of an unknown hyperparameter": case(rerun(hyperparameters={"depth": 3}), "config.json", "depth", "width"),
    "rerun with a width of 0": case(rerun(hyperparameters={"width": 0}), "config.json", "width", "positive"),
    "rerun with a text as rate": case(rerun(hyperparameters={"learning_rate": "x"}), "config.json", "learning_rate"),
    "rerun of a family above": case(rerun(family="../data/cosine"), "config.json", "family", "plain name"),
    "rerun of lost data": case(rerun(data_root="/nowhere"), "/nowhere", "no such dataset"),
    "rerun of other data": case(rerun(dataset_sha256={"train": "0" * 64}), "--rerun", "other data", "train"),
    "rerun on no device": case(rerun(device="tpu"), "tpu", "--device"),
    "rerun with no threads": case(rerun(threads=0), "config.json", "threads", "at least 1"),
    "rerun with a million threads": case(rerun(threads=10**6), "config.json", "threads"),
    "rerun without epochs": case(rerun(max_epochs=0), "config.json", "max_epochs", "at least 1"),
    "rerun of another version": case(rerun(schema_version=9), "config.json", "schema_version"),
    "report of damaged folders alone": case(damaged_config(b"", "report"), "1 unreadable", "--results_dir"),
    "report of a deep folder alone": case(damaged_config(b"{" * 10**5, "report"), "1 unreadable"),
}


def journal(content: bytes) -> Callable[[Place], list[object]]:
    def prepare(place: Place) -> list[object]:
        place.results.mkdir()
        (place.results / "studies.journal").write_bytes(content)
        return place.search()

    return prepare


def journal_folder(place: Place) -> list[object]:
    (place.results / "studies.journal").mkdir(parents=True)
    return place.search()


JOURNALS = {
    "journal of text": case(journal(b"hello\n"), "studies.journal", "damaged", "move it away"),
    "journal of bytes": case(journal(b"\xff\xfe\x00\n"), "studies.journal", "damaged"),
    "journal of a list": case(journal(b"[]\n"), "studies.journal", "damaged"),
    "journal of nothing": case(journal(b"null\n"), "studies.journal", "damaged"),
    "journal without operations": case(journal(b"{}\n"), "studies.journal", "damaged"),
    "journal of unknown operations": case(journal(b'{"op_code": 99, "worker_id": "a"}\n'), "studies.journal"),
    "journal with a damaged line": case(
        journal(b'{"op_code": 0, "worker_id": "a", "study_name": "s", "directions": [1]}\n{"op_c\xf0de": 4}\n{}\n'),
        "studies.journal",
        "line 2",
    ),
    "journal with deep nesting": case(journal(b"[" * 10**5 + b"\n"), "studies.journal", "damaged"),
    "journal that is a folder": case(journal_folder, "studies.journal", "damaged"),
}
ADDRESS, HERE = "postgresql://USER@HOST:PORT/DATABASE", f"postgresql://dno:{SECRET}@127.0.0.1"


def storage(url: str) -> Callable[[Place], list[object]]:
    return flags("--storage", url)


STORAGES = {
    "storage of nothing": case(storage(""), "--storage", ADDRESS),
    "storage in a file": case(storage("studies.journal"), "--storage", ADDRESS),
    "storage of SQLite": case(storage("sqlite:///studies.db"), "--storage", ADDRESS, "sqlite"),
    "storage of MySQL": case(storage(f"mysql://dno:{SECRET}@127.0.0.1/db"), "--storage", ADDRESS, "mysql"),
    "storage with a driver": case(storage(f"postgresql+psycopg2://dno:{SECRET}@127.0.0.1/db"), "--storage", ADDRESS),
    "storage in two lines": case(storage(f"{HERE}:1/db\n"), "--storage", ADDRESS),
    "storage where nobody listens": case(storage(f"{HERE}:1/db"), "--storage", "does not answer", "refused"),
    "storage at no host": case(
        storage(f"postgresql://dno:{SECRET}@nowhere.invalid/db"), "--storage", "does not answer"
    ),
    "storage at half a host": case(storage(f"postgresql://dno:{SECRET}@[::1/db"), "--storage", ADDRESS),
    "storage at no port": case(storage(f"{HERE}:port/db"), "--storage", ADDRESS),
    "storage at a port too high": case(storage(f"{HERE}:99999/db"), "--storage", ADDRESS),
    "storage with an unknown option": case(storage(f"{HERE}:1/db?colour=red"), "--storage", ADDRESS),
    "storage with a wrong option": case(storage(f"{HERE}:1/db?sslmode=wild"), "--storage", ADDRESS),
    "storage with its password behind": case(
        storage(f"postgresql://127.0.0.1:1/db?password={SECRET}"), "does not answer"
    ),
    "artifacts without a storage": case(flags("--artifacts", "shared"), "--artifacts", "--storage"),
    "collecting from no storage": case(flags("--collect"), "--collect", "--storage"),
}
IN_PROCESS = {**FLAGS, **FOLDERS, **RUN_FOLDERS, **JOURNALS, **STORAGES}


@pytest.mark.parametrize("name", IN_PROCESS)
def test_bad_input_is_refused_in_one_line(place: Place, name: str) -> None:
    assert_refused(place, IN_PROCESS[name])


CONFIG_FILES = {
    "syntax": ("SEARCH_SPACES = {\n    'a': (1 2),\n}\n", ["hyperparameter_config.py, line 2"]),
    "unknown name": ("SEARCH_SPACES = {'a': {'width': [mid]}}\n", ["hyperparameter_config.py, line 1", "mid"]),
    "division": ("SEARCH_SPACES = {}\nx = 1 / 0\n", ["hyperparameter_config.py, line 2", "division"]),
    "no search spaces": ("SPACES = {}\n", ["hyperparameter_config", "SEARCH_SPACES"]),
    "indentation": ("SEARCH_SPACES = {}\n  x = 1\n", ["hyperparameter_config.py, line 2"]),
    "bytes": ("SEARCH_SPACES = {}\n\0", ["hyperparameter_config"]),
}


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_bad_configuration_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    text, words = CONFIG_FILES[name]
    (tmp_path / "search").symlink_to(ROOT / "search")
    (tmp_path / "hyperparameter_search.py").write_text((ROOT / "hyperparameter_search.py").read_text())
    (tmp_path / "hyperparameter_config.py").write_text(text)
    command = [sys.executable, "hyperparameter_search.py", "--n_trials", "1"]
    environment = os.environ | {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "hyperparameter_config.py",
        "hyperparameter_search.py",
        "search",
    ]


def test_a_missing_database_driver_is_said_in_one_line(place: Place) -> None:
    (place.root / "psycopg.py").write_text("raise ImportError('no pq wrapper available')\n")
    command = [sys.executable, tiny.__file__, *map(str, place.search("--storage", f"{HERE}/db")[1:])]
    environment = os.environ | {"PYTHONPATH": str(place.root)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and SECRET not in done.stderr, done.stderr
    assert "no pq wrapper available" in done.stderr and "pip install -r requirements.txt" in done.stderr
    assert not place.results.exists()


SPACE_ENTRIES = {
    "dict of nothing": ({}, ["method_of_steps", "at least one parameter"]),
    "list of models": ([1], ["method_of_steps", "expected a dict"]),
    "negative width": ({"width": [-32]}, ["['width']", "-32"]),
    "text as width": ({"width": ["32"]}, ["['width']", "'32'"]),
    "no scale": ({"learning_rate": (1e-5, 1e-2)}, ["['learning_rate']", "(low, high, scale)"]),
    "unknown scale": ({"learning_rate": (1e-5, 1e-2, "logarithmic")}, ["['learning_rate']", "'log'"]),
    "swapped": ({"learning_rate": (1e-2, 1e-5, "log")}, ["['learning_rate']", "swap"]),
    "log of zero": ({"learning_rate": (0, 1e-2, "log")}, ["['learning_rate']", "low > 0"]),
    "infinite": ({"weight_decay": (0, float("inf"), "uniform")}, ["['weight_decay']", "finite"]),
    "misspelt": ({"wdith": [8]}, ["['wdith']", "did you mean 'width'"]),
    "no choices": ({"width": []}, ["['width']", "at least one"]),
    "trailing comma": ({"width": ([8, 16],)}, ["['width']", "trailing comma"]),
    "a value alone": ({"width": 8}, ["['width']", "[8]"]),
    "dropout of one": ({"dropout": (0, 1, "uniform")}, ["['dropout']", "below 1"]),
    "unknown schedule": ({"schedule": ["cosine"]}, ["schedule", "one_cycle"]),
    "text as clip": ({"gradient_clip": ["strong"]}, ["gradient_clip", "above 0"]),
    "width without end": ({"width": [10**12]}, ["width"]),
    "batches without end": ({"batch_size": (1, 10**15, "int")}, ["batch_size"]),
}


@pytest.mark.parametrize("name", SPACE_ENTRIES)
def test_bad_search_space_is_refused_in_one_line(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space, words = SPACE_ENTRIES[name]
    monkeypatch.setitem(hyperparameter_config.SEARCH_SPACES, "method_of_steps", space)
    assert_refused(place, Case(lambda given: given.search(), tuple(words)))


def test_the_tables_hold_all_their_cases() -> None:
    from tests import test_bad_checkpoints, test_bad_circumstances, test_bad_datasets

    others = test_bad_datasets.DATASETS, test_bad_checkpoints.CHECKPOINTS, test_bad_circumstances.CIRCUMSTANCES
    assert sum(map(len, (IN_PROCESS, CONFIG_FILES, SPACE_ENTRIES, *others))) >= 250
