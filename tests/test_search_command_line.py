"""Flags: spellings, defaults, and one line for what is wrong."""

import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from search.command_line import parse_arguments

ROOT = Path(__file__).parents[1]


def test_parse_arguments_gives_the_documented_defaults() -> None:
    options = parse_arguments([])
    assert (options.search_type, options.n_trials, options.max_combinations, options.max_epochs) == (
        "random",
        50,
        50,
        200,
    )
    assert (options.model, options.family, options.n_workers, options.patience) == (None, None, None, 20)
    assert (options.wandb_project, options.wandb_entity, options.wandb_mode) == ("dno-search", None, "online")
    assert (options.data_root, options.objectives, options.seed) == (Path("data"), ("rel_error",), 0)


def test_parse_arguments_takes_dashes_and_underscores_alike() -> None:
    dashed = parse_arguments(["--n-trials", "3", "--data-root=my-data/x-y", "--search-type", "grid", "--dry-run"])
    assert (dashed.n_trials, dashed.data_root, dashed.search_type, dashed.dry_run) == (
        3,
        Path("my-data/x-y"),
        "grid",
        True,
    )


def test_parse_arguments_reads_the_entity_none_as_none() -> None:
    assert parse_arguments(["--wandb_entity", "None"]).wandb_entity is None
    assert parse_arguments(["--wandb_entity", "team"]).wandb_entity == "team"


def test_parse_arguments_takes_the_test_error_as_the_validation_error() -> None:
    options = parse_arguments(["--objectives", "test_rel_error,stability_score"])
    assert options.objectives == ("rel_error", "stability_score")
    assert len(options.notes) == 2
    assert "val" in options.notes[0] and "no trial is stopped early" in options.notes[1]
    assert parse_arguments(["--objectives", "rel_error"]).notes == ()


@pytest.mark.parametrize(
    ("arguments", "flag", "expected"),
    [
        (["--search_type", "annealing"], "--search_type", "bayesian"),
        (["--model", "fno"], "--model", "memory_kernel"),
        (["--n_trials", "0"], "--n_trials", "at least 1"),
        (["--n_trials", "2.5"], "--n_trials", "whole number"),
        (["--max_seconds", "-1"], "--max_seconds", "positive"),
        (["--max_seconds", "nan"], "--max_seconds", "positive"),
        (["--sampler", "gp"], "--sampler", "bayesian"),
        (
            ["--search_type", "bayesian", "--sampler", "cmaes", "--objectives", "rel_error,noise_gain"],
            "--sampler",
            "one",
        ),
        (
            ["--search_type", "bayesian", "--sampler", "cmaes", "--storage", "postgresql://there/x"],
            "--sampler",
            "pickle",
        ),
        (["--timeout", "0"], "--timeout", "positive number of minutes"),
        (["--target_error", "-1"], "--target_error", "positive"),
        (["--collect"], "--collect", "needs --storage"),
        (["--storage", "mysql://me:hunter2@there/x"], "--storage", "got mysql://…;"),
        (["--storage", "postgresql://me:hun@ter2@there/x"], "--storage", "%40"),
        (["--storage", "postgresql://me:hunter2 there/x"], "--storage", "%XX"),
        (["--storage", "postgresql://me:hunter2/x"], "--storage", "PGPASSWORD"),
        (["--storage", "postgresql://me:hun%ter2@there/x"], "--storage", "%25"),
        (["--storag", "postgresql://me:hun ter2@there/x"], "--storag", "unrecognized"),
        (["--storag=postgresql://me:hunter2@there/x"], "--storag", "unrecognized"),
        (["--study", "postgresql://me:hunter2@there/x"], "--study", "file name"),
        (["--storage", "postgresql://there/x", "--artifacts", ""], "--artifacts", "folder"),
        (["--storage", "postgresql://there/x", "--artifacts", "s3:/bucket"], "--artifacts", "mount"),
        (["--storage", "postgresql://there/x", "--artifacts", "s3://bucket"], "--artifacts", "mount"),
        (["--search_type", "grid", "--pruner", "hyperband"], "--pruner", "a grid trains each"),
        (["--search_type", "grid", "--warm_start", "earlier"], "--warm_start", "a grid trains each"),
        (["--objectives", "loss"], "--objectives", "rel_error"),
        (["--objectives", "rel_error,test_rel_error"], "--objectives", "twice"),
        (["--study", "a/b"], "--study", "file name"),
        (["--wandb_mode", "cloud"], "--wandb_mode", "offline"),
        (["--n_trial", "3"], "--n_trial", "unrecognized"),
        (["-v", "-q"], "-q", "not allowed with"),
    ],
)
def test_parse_arguments_answers_in_one_line(
    arguments: list[str], flag: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_arguments(arguments)
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert flag in message
    assert expected in message
    assert "hun" not in message


def test_passwords_never_enter_the_command() -> None:
    url = "postgresql://me:p%3Aas%40s@host/studies?sslpassword=hidden&application_name=x"
    for arguments in (["--storage", url], [f"--storage={url}"]):
        options = parse_arguments(arguments)
        assert options.storage == url
        assert "me@host/studies?application_name=x" in options.command
        assert "p%3A" not in options.command + repr(options) and "hidden" not in options.command + repr(options)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://",
        "postgresql:///studies",
        "postgresql://dno@db.example.org:5433/studies",
        "postgresql://dno@one:5432,two:5433/studies?target_session_attrs=read-write",
        "postgresql://dno@[::1]:5432/studies",
        "postgresql:///studies?host=/run/postgresql&user=dno",
    ],
)
def test_storage_takes_what_psycopg_takes(url: str) -> None:
    assert parse_arguments(["--storage", url]).storage == url
    psycopg.conninfo.conninfo_to_dict(url)


def test_help_imports_nothing_heavy_and_answers_at_once() -> None:
    code = (
        "import sys\nfrom hyperparameter_search import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'torch', 'optuna', 'wandb', 'pandas', 'h5py', 'psutil', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    assert "--max_combinations" in done.stdout
    assert seconds < 1.0  # 0.1 s on an idle machine; the limit leaves room for a busy one
