"""The winner of a search in a place that stays: results_dir/best/{study}/, a model and its card."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState

import dno
from data.batches import FamilyData
from experiment_tracker import RecordError, Run, read_run, write_atomically
from search.command_line import Options
from search.leaderboard import MODEL, Row, confirmed_line
from search.plan import StudyPlan

logger = logging.getLogger(__name__)

BEST, ENSEMBLE, CARD = "best", "ensemble.pt", "MODEL_CARD.md"
ERRORS = {  # by split
    "validation": "val_rel_error",
    "test": "test_rel_error",
    "test, larger delays": "tau_rel_error",
    "test, rougher histories": "history_rel_error",
    "test, twice the horizon": "test_rollout_error",
}


def keep_winner(
    plan: StudyPlan, row: Row, options: Options, data: FamilyData, again: optuna.Study | None
) -> Path | None:
    """Copies the model of the best trial and writes its card; None where its folder lies on another machine.

    Its trainings with fresh seeds, the study `again`, are kept as an ensemble that estimates its own error.
    """
    folder = options.results_dir / row.run_folder
    if not row.run_folder or not (folder / MODEL).is_file():
        return None
    try:
        run = read_run(folder)
    except (FileNotFoundError, RecordError):
        return None
    place = options.results_dir / BEST / plan.name
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(place / MODEL.name, lambda partial: shutil.copyfile(folder / MODEL, partial))
    members = _members(again, options)
    card = model_card(run, row, [member.name for member in members])
    is_known = (place / CARD).is_file() and (place / CARD).read_text(encoding="utf-8") == card
    if not (is_known and (place / ENSEMBLE).is_file()):
        _keep_ensemble(place / ENSEMBLE, members, data)
    write_atomically(place / CARD, lambda partial: partial.write_text(card, encoding="utf-8"))
    return place / MODEL.name


def _members(again: optuna.Study | None, options: Options) -> list[Path]:
    """The run folders of this machine that hold the trainings with fresh seeds; none where there is but one."""
    trials = again.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if again is not None else []
    folders = [options.results_dir / trial.user_attrs.get("run_folder", "") for trial in trials]
    folders = [folder for folder in folders if (folder / MODEL).is_file()]
    return folders if len(folders) > 1 else []


def _keep_ensemble(path: Path, members: Sequence[Path], data: FamilyData) -> None:
    """Writes the calibrated ensemble of the members; removes an older one where there is none."""
    path.unlink(missing_ok=True)
    if not members:
        return
    split = data.splits["val"]
    try:
        ensemble = dno.Ensemble([dno.load(folder / MODEL) for folder in members]).to(split.tau.device)
        ensemble.calibrate(split.history, split.tau, split.params, split.solution, split.mask)
    except ValueError as problem:
        logger.warning("no ensemble is kept: %s", problem)
        return
    write_atomically(path, lambda partial: dno.save(ensemble, partial))


def model_card(run: Run, row: Row, members: Sequence[str]) -> str:
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
        f'Use: `dno.load("{MODEL.name}").predict(history, tau, params, times)`.',
        *(_ensemble_lines(members) if members else []),
    ]
    return "\n".join(lines) + "\n"


def _ensemble_lines(members: Sequence[str]) -> list[str]:
    return [
        "",
        f"`{ENSEMBLE}` is the mean of the trainings with fresh seeds ({', '.join(f'`{name}`' for name in members)}). "
        f'`dno.load("{ENSEMBLE}").predict_with_error(history, tau, params, times)` gives an error estimate beside it: '
        "their spread, scaled so that it covers 90 % of the validation trajectories.",
    ]
