"""What hovering over a trial shows in Optuna's plots: its run folder and the command that trains it again."""

import re
from collections.abc import Mapping, Sequence

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

NUMBER = re.compile(r'"number": (\d+)')
LINES = "%{customdata[0]}<br>%{customdata[1]}<extra></extra>"


def with_runs(figure: go.Figure, study: optuna.Study, kind: str) -> go.Figure:
    """The figure, whose points (lines, bars) tell the run folder and the command of their trial.

    `kind` is that of `report.interactive`; a plot whose marks are no trials is returned as it is.
    """
    trials = {trial.number: trial for trial in study.trials}
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    if kind == "history":
        _tell(figure.data[0], [trials.get(int(number)) for number in figure.data[0].x], "trial %{x}: %{y:.3g}<br>")
    elif kind in ("slice", "contour"):
        for trace in figure.data:
            if trace.type == "scatter" and trace.mode == "markers" and trace.x is not None:
                numbers = trace.marker.color if kind == "slice" else None
                found = complete if numbers is None else [trials.get(int(number)) for number in numbers]
                _tell(trace, found, "%{x}, %{y}<br>")
    elif kind == "intermediate":
        for trace in figure.data:
            number = re.fullmatch(r"Trial\s*(\d+)", trace.name or "")
            if number:
                _tell(trace, [trials.get(int(number[1]))] * len(trace.x), "epoch %{x}: %{y:.3g}<br>")
    elif kind == "parallel":
        for trace, trial in zip(figure.data, complete, strict=False):
            if trace.mode == "lines" and trace.customdata is not None:
                trace.customdata = [[*pair, *told(trial)] for pair in trace.customdata]
                trace.hovertemplate = (
                    "%{customdata[0]}: %{customdata[1]}<br>%{customdata[2]}<br>%{customdata[3]}<extra></extra>"
                )
    elif kind in ("timeline", "pareto"):
        for trace in figure.data:
            numbers = [NUMBER.search(str(text)) for text in trace.text or ()]
            values = "%{x:.3g}, %{y:.3g}<br>" if kind == "pareto" else "trial %{y}<br>"
            _tell(trace, [trials.get(int(number[1])) if number else None for number in numbers], values)
    return figure


def with_runs_of(figure: go.Figure, studies: Mapping[str, optuna.Study]) -> go.Figure:
    """The history of several studies, whose traces bear their names: points tell as those of one study do."""
    for trace in figure.data:
        if trace.mode == "markers" and trace.name in studies:
            trials = {trial.number: trial for trial in studies[trace.name].trials}
            _tell(trace, [trials.get(int(number)) for number in trace.x], "trial %{x}: %{y:.3g}<br>")
    return figure


def told(trial: FrozenTrial | None) -> tuple[str, str]:
    """Run folder and command of a trial as text: Plotly reads hover texts as markup."""
    attributes = {} if trial is None else trial.user_attrs
    return tuple(str(attributes.get(name, "")).replace("<", "‹").replace(">", "›") for name in ("run", "command"))


def _tell(trace: object, trials: Sequence[FrozenTrial | None], values: str) -> None:
    marks = trace.x if trace.x is not None else ()
    if trials and len(trials) == len(marks):
        trace.customdata = [list(told(trial)) for trial in trials]
        trace.hovertemplate = values + LINES
