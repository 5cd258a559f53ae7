"""visualization_report.json: the report's numbers for another program. `docs/report.md` documents the keys."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiment_tracker import write_atomically
from report.analysis import Analysis
from report.loading import PARAMETER, Results, metric_columns, parameter_columns
from report.tables import STATUSES, endings, rerun_command

SCHEMA_VERSION = 1


def summary(results: Results, analysis: Analysis, figures: Sequence[str], problems: Sequence[str]) -> dict[str, object]:
    """Everything that the page says, as plain values: numbers that are missing are None."""
    winners = {row["family"]: row for row in analysis.winners.to_dict("records")}
    best = analysis.best.to_dict("records")
    return {
        "schema_version": SCHEMA_VERSION,
        "results_dir": str(results.results_dir),
        "metric": {
            "name": analysis.metric.column,
            "ranking": analysis.metric.ranking,
            "higher_is_better": analysis.metric.higher_is_better,
        },
        "runs": {"total": len(results.runs), **_statuses(results.runs)},
        "families": {
            family: {
                "best": configuration(row, analysis),
                "operators": {one["model"]: configuration(one, analysis) for one in best if one["family"] == family},
            }
            for family, row in winners.items()
        },
        "studies": [_study(row, analysis) for row in analysis.counts.to_dict("records")],
        "configurations": [configuration(row, analysis) for row in analysis.configurations.to_dict("records")],
        "trials": [_trial(row, results.runs) for row in results.runs.to_dict("records")],
        "figures": list(figures),
        "problems": list(problems),
    }


def write_summary(content: dict[str, object], path: Path) -> None:
    """Valid JSON, complete or not there at all."""
    text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def configuration(row: dict[str, object], analysis: Analysis) -> dict[str, object]:
    """One row of the table of configurations."""
    keep = ("study", "model", "family", "configuration", "run", "path", "seed")
    keep += ("value", "spread", "ranking", "n_runs", "confirmed")
    return {name: row[name] for name in keep} | _details(row, analysis.runs)


def _trial(row: dict[str, object], runs: pd.DataFrame) -> dict[str, object]:
    """One run, however it ended."""
    keep = ("study", "model", "family", "configuration", "run", "path", "seed")
    keep += ("role", "slot", "status", "reason", "created", "seconds_total")
    return {name: row[name] for name in keep} | _details(row, runs)


def _details(row: dict[str, object], runs: pd.DataFrame) -> dict[str, object]:
    parameters = [name for name in parameter_columns(runs) if _is_there(row[name])]
    return {
        "hyperparameters": {name.removeprefix(PARAMETER): row[name] for name in parameters},
        "metrics": {name: row[name] for name in metric_columns(runs) if _is_there(row[name])},
        "command": rerun_command(str(row["path"])),
    }


def plain(value: object) -> object:
    """The value as JSON holds it: numbers that are not finite become None, numpy's become Python's."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _study(row: dict[str, object], analysis: Analysis) -> dict[str, object]:
    name = row["study"]
    objectives, front = analysis.objectives.get(name, []), analysis.fronts.get(name)
    steered = {"objectives": objectives, "front": [] if front is None else list(front["run"])}
    return {**row, **steered, "importance": analysis.importances[name].to_dict("records")}


def _statuses(runs: pd.DataFrame) -> dict[str, int]:
    ended = endings(runs)
    return {status: int((ended == status).sum()) for status in STATUSES}


def _is_there(value: object) -> bool:
    return not (isinstance(value, float) and math.isnan(value))
