"""interactive_*.html: Optuna's own plots of the rebuilt studies, as pages that work offline."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.trial import TrialState
from optuna.visualization import (
    plot_contour,
    plot_edf,
    plot_intermediate_values,
    plot_optimization_history,
    plot_parallel_coordinate,
    plot_pareto_front,
    plot_slice,
    plot_timeline,
)

from experiment_tracker import write_atomically
from report import style
from report.hover import with_runs, with_runs_of
from report.metrics import HIGHER_IS_BETTER, Metric, base_name, label, objective_columns
from report.studies import escaped, quiet

FEWEST_TRIALS = 2
MOST_CONTOURS = 4
MOST_OBJECTIVES = 3
MOST_DECADES = 2.3  # that are labelled between powers of ten
PAGE_WIDTH = "max(100%, 800px)"  # on a phone the page is moved sideways: panels side by side need room
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
WORDS = {
    "edf": "distribution of errors",
    "intermediate": "validation error by epoch",
    "parallel": "parallel coordinates",
    "pareto": "Pareto front",
}
COLOURS = "Viridis_r"  # of trials by number, the newest dark
CONFIG = {"showSendToCloud": False, "displaylogo": False, "responsive": True}


def interactive_figures(
    studies: Mapping[str, optuna.Study],
    importances: Mapping[str, pd.DataFrame],
    origin: Mapping[str, tuple[str, str]],
    runs: pd.DataFrame,
    metric: Metric,
) -> Iterator[tuple[str, str, Callable[[], go.Figure]]]:
    """(kind, study or "all", what draws it) of everything there is to draw: studies with two complete trials or more.

    `origin` holds every study's operator and family. Draw each before you ask for the next.
    """
    drawable = {name: study for name, study in studies.items() if _complete(study) >= FEWEST_TRIALS}
    value = label(metric.ranking)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for name, study in drawable.items():
            for kind, draw in _of_study(study, list(importances[name]["parameter"]), value):
                yield kind, name, partial(_with_hover, draw, study, kind)
            objectives = _objectives(study, runs, metric)
            if objectives is not None:
                yield "pareto", name, partial(_front, study, objectives)
        if len(drawable) > 1:
            together = {study.study_name: study for study in drawable.values()}
            origins = {study.study_name: origin[name] for name, study in drawable.items()}
            for kind, draw in (("history", plot_optimization_history), ("edf", _edf)):
                yield kind, "all", partial(_of_all, draw, together, origins, kind, value)


def _edf(studies: optuna.Study | list[optuna.Study], target_name: str) -> go.Figure:
    """Optuna's, which counts on an even grid: of positive errors one that is even in the logarithm."""
    listed = studies if isinstance(studies, list) else [studies]
    values = [trial.value for study in listed for trial in study.trials if trial.state == TrialState.COMPLETE]
    if min(values, default=0.0) <= 0:
        return plot_edf(studies, target_name=target_name)
    figure = plot_edf(studies, target=lambda trial: math.log10(trial.value), target_name=target_name)
    for trace in figure.data:
        trace.update(x=10.0 ** np.asarray(trace.x), line={"shape": "hv"})
    return figure


def _with_hover(draw: Callable[[], go.Figure], study: optuna.Study, kind: str) -> go.Figure:
    return _dressed(with_runs(draw(), study, kind), kind, study.study_name)


def _of_all(
    draw: Callable[..., go.Figure],
    studies: Mapping[str, optuna.Study],
    origins: Mapping[str, tuple[str, str]],
    kind: str,
    value: str,
) -> go.Figure:
    figure = _coloured(draw(list(studies.values()), target_name=value), origins)
    return _dressed(with_runs_of(figure, studies), kind, "all studies")


def undrawn(studies: Mapping[str, optuna.Study]) -> list[str]:
    """One line for every study without interactive plots."""
    return [
        f"{name}: no interactive plots: at least {FEWEST_TRIALS} complete trials are needed, it has {_complete(study)}"
        for name, study in studies.items()
        if _complete(study) < FEWEST_TRIALS
    ]


def write_page(figure: go.Figure, path: Path) -> None:
    """An HTML page that shares one plotly.min.js with the others in its folder."""
    look = {"include_plotlyjs": "directory", "config": CONFIG, "div_id": "figure", "default_width": PAGE_WIDTH}
    write_atomically(path, lambda partial: figure.write_html(partial, **look), is_flushed=False)


def _complete(study: optuna.Study) -> int:
    return sum(trial.state == TrialState.COMPLETE for trial in study.trials)


def _of_study(study: optuna.Study, important: list[str], value: str) -> Iterator[tuple[str, Callable[[], go.Figure]]]:
    varied = sorted({name for trial in study.trials for name in trial.params})
    important = important or varied
    yield "history", partial(plot_optimization_history, study, target_name=value)
    yield "timeline", partial(plot_timeline, study)
    yield "edf", partial(_edf, study, target_name=value)
    if any(trial.intermediate_values for trial in study.trials):
        yield "intermediate", partial(plot_intermediate_values, study)
    drawings: tuple[tuple[str, Callable, list[str]], ...] = (
        ("slice", plot_slice, varied),
        ("parallel", plot_parallel_coordinate, important[:8]),
        ("contour", plot_contour, important[:MOST_CONTOURS]),
    )
    for kind, draw, names in drawings:
        if len(names) >= (2 if kind == "contour" else 1):
            yield kind, partial(draw, study, params=names, target_name=value)


def _objectives(study: optuna.Study, runs: pd.DataFrame, metric: Metric) -> pd.DataFrame | None:
    """By run the objectives of a front: a study's own where it had several, else its error and its parameters.

    None with fewer than two objectives or trials.
    """
    mine = runs[(runs["study"].map(escaped) == study.study_name) & (runs["role"] == "trial")]
    asked = objective_columns(mine["objective"].iloc[0] if len(mine) else "")
    names = asked[:MOST_OBJECTIVES] if len(asked) > 1 else [metric.ranking, "n_parameters"]
    if len(set(names)) < 2 or any(name not in mine for name in names):
        return None
    values = mine.set_index("run")[names].astype(float)
    complete = [trial.user_attrs["run"] for trial in study.trials if trial.state == TrialState.COMPLETE]
    values = values[np.isfinite(values).all(axis=1) & values.index.isin(complete)]
    return values if len(values) >= FEWEST_TRIALS else None


def _front(study: optuna.Study, values: pd.DataFrame) -> go.Figure:
    """Optuna's Pareto front of these objectives."""
    names = list(values.columns)
    both = optuna.create_study(
        directions=["maximize" if base_name(name) in HIGHER_IS_BETTER else "minimize" for name in names],
        study_name=study.study_name,
    )
    for trial in study.trials:
        if trial.user_attrs["run"] in values.index:
            both.add_trial(
                optuna.create_trial(
                    values=list(values.loc[trial.user_attrs["run"]]), params=trial.params,
                    distributions=trial.distributions, user_attrs=trial.user_attrs,
                )
            )  # fmt: skip
    figure = with_runs(plot_pareto_front(both, target_names=[label(name) for name in names]), both, "pareto")
    if len(names) == 2:
        for name, update in zip(names, (figure.update_xaxes, figure.update_yaxes), strict=True):
            update(**_scale(list(values[name])))
    return _dressed(figure, "pareto", study.study_name)


def _coloured(figure: go.Figure, origins: Mapping[str, tuple[str, str]]) -> go.Figure:
    """Traces of several studies: the operator's colour, a dash per family, one legend entry per study."""
    models, families = [model for model, _ in origins.values()], sorted({family for _, family in origins.values()})
    for trace in figure.data:
        study = max((name for name in origins if trace.name.endswith(name)), key=len, default=None)
        if study is None:
            continue
        model, family = origins[study]
        colour = style.colour(model, models)
        trace.update(name=study, legendgroup=study, showlegend=trace.mode != "markers")
        if trace.mode == "markers":
            trace.marker.update(color=colour, size=4, opacity=0.5)
        else:
            trace.line.update(color=colour, dash=DASHES[families.index(family) % len(DASHES)])
    return figure


def _dressed(figure: go.Figure, kind: str, study: str) -> go.Figure:
    figure.update_layout(
        template="plotly_white", title=f"{study}: {WORDS.get(kind, kind)}", font_size=12, height=620, width=None,
        autosize=True, showlegend=kind != "intermediate",
    )  # fmt: skip
    for trace in figure.data:  # Optuna begins with white, on which the first trials cannot be seen
        if kind == "pareto" and "marker" in trace:  # two looks, which two scales side by side would hide
            is_best = (trace.marker.colorbar.title.text or "").startswith("Best")
            trace.marker = {"color": style.FRAME if is_best else style.GREY, "size": 9 if is_best else 6}
        elif "marker" in trace and trace.marker.colorscale is not None:
            trace.marker.update(colorscale=COLOURS, line={"width": 0.5, "color": "white"})
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(exponentformat="power")  # not "20µ"
        update(dtick=1, selector={"type": "log"})
    if kind in ("history", "intermediate", "slice"):
        figure.update_yaxes(**_scale(_values(figure, "y")))
    elif kind == "edf":
        figure.update_xaxes(**_scale(_values(figure, "x")))
    if kind == "intermediate":
        figure.update_layout(xaxis_title="epoch", yaxis_title=label("val_rel_error"))
    return figure


def _values(figure: go.Figure, axis: str) -> list[float]:
    arrays = [trace[axis] for trace in figure.data if trace[axis] is not None]
    return [float(value) for array in arrays for value in array if value is not None and math.isfinite(value)]


def _scale(values: list[float]) -> dict[str, object]:
    """Settings of an axis: logarithmic, with readable ticks, where positive values span more than a factor 3."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low <= 0 or high < 3 * low:
        return {}
    decades = math.log10(high / low)
    if decades > MOST_DECADES:
        return {"type": "log", "exponentformat": "power", "dtick": 1}
    digits = (1, 2, 3, 5) if decades < 1 else (1, 2, 5) if decades < 1.5 else (1, 3)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    return {"type": "log", "tickvals": ticks, "ticktext": [style.number(tick) for tick in ticks]}
