"""What several figures share: configurations, rebuilt studies, importances; each worked out once, when asked for."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import optuna
import pandas as pd

from report import tables
from report.heatmaps import FEWEST_TRIALS, heatmap_table, pairs
from report.importance import importance
from report.loading import PARAMETER, predictions
from report.metrics import Metric, objective_columns
from report.studies import rebuild
from report.style import model_order, words
from report.trajectories import Trajectories, trajectory_table


@dataclass(frozen=True)
class Analysis:
    """Runs and epochs as `report.loading` makes them, and the metric that is shown."""

    runs: pd.DataFrame
    epochs: pd.DataFrame
    metric: Metric

    @cached_property
    def configurations(self) -> pd.DataFrame:
        return tables.configurations(self.runs, self.metric)

    @cached_property
    def best(self) -> pd.DataFrame:
        """The best configuration of every operator on every family."""
        return tables.best_by_operator(self.configurations)

    @cached_property
    def winners(self) -> pd.DataFrame:
        """The best configuration of every family."""
        return tables.best_by_family(self.configurations, self.metric)

    @cached_property
    def counts(self) -> pd.DataFrame:
        return tables.counts(self.runs)

    @cached_property
    def models(self) -> dict[str, str]:
        """The operator of every study, families side by side."""
        order = model_order(self.counts["model"])
        rows = self.counts[["family", "model", "study"]].itertuples(index=False)
        ordered = sorted(rows, key=lambda row: (row.family, order.index(row.model), row.study))
        return {row.study: row.model for row in ordered}

    @cached_property
    def titles(self) -> dict[str, str]:
        """Every study in words: its operator and family where no other study has both, else its name."""
        pairs = Counter(self.origins.values())
        return {
            study: words(f"{model} on {family}" if pairs[model, family] == 1 else study)
            for study, (model, family) in self.origins.items()
        }

    @cached_property
    def origins(self) -> dict[str, tuple[str, str]]:
        """The operator and family of every study."""
        rows = self.counts[["study", "model", "family"]].itertuples(index=False)
        return {row.study: (row.model, row.family) for row in rows}

    @cached_property
    def studies(self) -> dict[str, optuna.Study]:
        return {name: rebuild(self.runs, self.epochs, self.metric, name) for name in self.models}

    @cached_property
    def importances(self) -> dict[str, pd.DataFrame]:
        return {name: importance(self._of(name), study, self.metric) for name, study in self.studies.items()}

    @cached_property
    def finished(self) -> dict[str, int]:
        """Complete trials of every study."""
        trials = self.runs[(self.runs["status"] == "complete") & (self.runs["role"] == "trial")]
        return {name: int((trials["study"] == name).sum()) for name in self.models}

    @cached_property
    def objectives(self) -> dict[str, list[str]]:
        """The metrics that steered every study with several objectives."""
        asked = self.runs.groupby("study")["objective"].first()
        found = {name: objective_columns(asked[name]) for name in self.models}
        return {name: columns for name, columns in found.items() if len(columns) > 1}

    @cached_property
    def fronts(self) -> dict[str, pd.DataFrame]:
        """The complete trials of these studies that lie on the Pareto front, best by the first objective first."""
        trials = self.runs[(self.runs["status"] == "complete") & (self.runs["role"] == "trial")]
        return {
            name: tables.pareto_front(trials[trials["study"] == name], columns)
            for name, columns in self.objectives.items()
        }

    @cached_property
    def heatmaps(self) -> dict[str, dict[tuple[str, str], tuple[pd.DataFrame, pd.DataFrame]]]:
        """For every study the (medians, counts) of the pairs of its most important hyperparameters."""
        return {name: self._heatmaps(name) for name in self.models}

    @cached_property
    def trajectories(self) -> tuple[list[Trajectories], list[str]]:
        """The predictions of every family's best operator, and one line for each that has none."""
        found, problems = [], []
        for row in self.winners.to_dict("records"):
            tables_of_row, problem = self._trajectories(row)
            found += tables_of_row
            problems += [problem] if problem else []
        return found, problems

    def _trajectories(self, row: Mapping[str, object]) -> tuple[list[Trajectories], str | None]:
        """The predictions of a configuration's run, or of another of its runs; else why its own are not there."""
        same = (self.runs["study"] == row["study"]) & (self.runs["configuration"] == row["configuration"])
        others = self.runs[same & (self.runs["status"] == "complete") & (self.runs["run"] != row["run"])]
        first_problem = None
        for run, path in ((row["run"], row["path"]), *zip(others["run"], others["path"], strict=True)):
            arrays, problem = predictions(path)
            table = trajectory_table(row["family"], row["model"], run, arrays)
            if table.cases or table.by_interval:
                return [table], None
            problem = problem or f"{run}: no trajectories: predictions.npz holds none of their arrays"
            first_problem = first_problem or problem
        return [], first_problem

    def _of(self, study: str) -> pd.DataFrame:
        return self.runs[self.runs["study"] == study]

    def _heatmaps(self, study: str) -> dict[tuple[str, str], tuple[pd.DataFrame, pd.DataFrame]]:
        runs = self._of(study)
        rows = runs[(runs["status"] == "complete") & (runs["role"] == "trial")]
        if self.metric.ranking not in rows or rows[self.metric.ranking].notna().sum() < FEWEST_TRIALS:
            return {}
        parameters = [f"{PARAMETER}{name}" for name in self.importances[study]["parameter"]]
        return {(x, y): heatmap_table(runs, self.metric, x, y) for x, y in pairs(parameters)}
