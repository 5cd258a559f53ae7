"""The winner of a search in a place that stays: results_dir/best/{model}_{family}/, a model and its card."""

import shutil
from pathlib import Path

from experiment_tracker import ARTIFACTS, RecordError, Run, read_run, write_atomically
from search.command_line import Options
from search.leaderboard import Row, confirmed_line
from search.plan import StudyPlan

BEST, MODEL, CARD = "best", "best_model.pt", "MODEL_CARD.md"
ERRORS = {  # by split
    "validation": "val_rel_error",
    "test": "test_rel_error",
    "test, larger delays": "tau_rel_error",
    "test, rougher histories": "history_rel_error",
    "test, twice the horizon": "test_rollout_error",
}


def keep_winner(plan: StudyPlan, row: Row, options: Options) -> Path | None:
    """Copies the model of the best trial and writes its card; None where its folder lies on another machine."""
    folder = options.results_dir / row.run_folder
    if not row.run_folder or not (folder / ARTIFACTS / MODEL).is_file():
        return None
    try:
        run = read_run(folder)
    except (FileNotFoundError, RecordError):
        return None
    place = options.results_dir / BEST / f"{plan.model}_{plan.family}"
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(place / MODEL, lambda partial: shutil.copyfile(folder / ARTIFACTS / MODEL, partial))
    write_atomically(place / CARD, lambda partial: partial.write_text(model_card(run, row), encoding="utf-8"))
    return place / MODEL


def model_card(run: Run, row: Row) -> str:
    """What the model is, how good, and how it was made, as Markdown."""
    config, metrics = run.config, run.results.metrics if run.results else {}
    errors = [f"| {name} | {metrics[key]:.4g} |" for name, key in ERRORS.items() if isinstance(metrics.get(key), float)]
    lines = [
        f"# {config.model} on {config.family}",
        "",
        f"Winner of the study `{config.study}`, slot {config.slot}, run folder `{run.name}`.",
        "",
        "| split | relative L2 error over the horizon |",
        "|---|---|",
        *errors,
        "",
        *([f"Trained again {confirmed_line(row.confirmed)}.", ""] if row.confirmed else []),
        f"Made on {config.created} by `{config.command}`, training seed {config.seed}.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in config.versions.items()) + ".",
        "",
        "Datasets (sha256): " + ", ".join(f"{k} {v[:16]}" for k, v in sorted(config.dataset_sha256.items())) + ".",
        "",
        "| hyperparameter | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in config.hyperparameters.items()),
        "",
        f'Use: `dno.load("{MODEL}").predict(history, tau, params, times)`.',
    ]
    return "\n".join(lines) + "\n"
