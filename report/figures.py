"""Every figure of the report from an `Analysis`, each with its sentence; the door for other programs.

figures = draw_results(Path("hyperparameter_results"), studies=["mackey_search"])   # file stem -> Figure
"""

import multiprocessing
from collections.abc import Sequence
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from matplotlib.figure import Figure

from report import comparison, convergence, heatmaps, importance, style, trajectories
from report.analysis import Analysis
from report.loading import load, metric_columns
from report.metrics import DEFAULT_METRIC, resolve_metric
from report.style import WIDE, Layout
from report.tables import slugs

TITLES = {
    "model_comparison": "Operators side by side",
    "trajectories": "What the best operators predict",
    "convergence_analysis": "How training went",
    "parameter_importance": "Which hyperparameters mattered",
    "heatmap": "Where good configurations lie",
}
NOTES = {  # how to read a figure, what it cannot say
    "parameter_importance": "Rank correlation shows a direction and misses effects that rise and fall again; MDI and "
    "fANOVA are forests' shares of the variance without direction, and mean little below some twenty trials. Bayesian "
    "search samples good regions more often, which weakens all three.",
    "model_comparison": "Every complete trial is a point and the small numbers count them; boxes hold the middle half. "
    "Relative errors above 10 are drawn at 10. "
    "In the last row the line joins the trials that no other beats in both parameters and error.",
    "trajectories": "Time in delays; the error is |prediction - truth| over the RMS of the true trajectory. Images of "
    "truth and prediction share the scale of their truth, x. At the right, or below, the error of each delay interval "
    "over all trajectories of a split.",
    "convergence_analysis": "Errors are the lowest so far of each trial, held after its end, and means over the at "
    "most 64 validation trajectories that steer a training: tables count all of them. Pruned and paused trials are not "
    "in the bands. The learning rate is that of the best trials.",
    "heatmap": "Colours are medians of the trials in a cell, numbers their count; hatched grey cells are empty, the "
    "frame marks the best. The pairs are those of the four most important hyperparameters of each study.",
}


def model_comparison(analysis: Analysis, layout: Layout = WIDE) -> Figure:
    table = comparison.comparison_table(analysis.runs, analysis.metric)
    if table.empty:
        return style.sentence("No trial is complete yet: nothing to compare.")
    return comparison.draw_comparison(table, analysis.best, analysis.metric, layout)


def parameter_importance(analysis: Analysis, layout: Layout = WIDE) -> Figure:
    return importance.draw_importance(
        analysis.importances, analysis.finished, analysis.models, analysis.titles, analysis.metric, layout
    )


def convergence_analysis(analysis: Analysis, layout: Layout = WIDE) -> Figure:
    return convergence.draw_convergence(analysis.runs, analysis.epochs, analysis.best, layout)


def trajectory_figure(analysis: Analysis, layout: Layout = WIDE) -> Figure:
    return trajectories.draw_trajectories(analysis.trajectories[0], layout)


def heatmap_figures(analysis: Analysis, layout: Layout = WIDE) -> dict[str, Figure]:
    """The figure of every study, by its slug."""
    names = slugs(analysis.models)
    return {
        names[study]: heatmaps.draw_heatmap(
            panels, analysis.titles[study], analysis.metric, analysis.finished[study], layout
        )
        for study, panels in analysis.heatmaps.items()
        if panels
    }


def missing(analysis: Analysis) -> list[str]:
    """A line for every study that has too few trials for importances and a landscape."""
    return [
        f"{study}: no importances and no landscape: {analysis.finished[study]} complete trials; at least "
        f"{importance.FEWEST_TRIALS} that differ in a hyperparameter and in their error are needed"
        for study, table in analysis.importances.items()
        if table.empty
    ]


def readings(analysis: Analysis) -> dict[str, str]:
    """File stem -> the figure in one sentence made from its numbers."""
    names = slugs(analysis.models)
    sentences = {
        "model_comparison": comparison.reading(analysis.configurations, analysis.metric),
        "parameter_importance": importance.reading(analysis.importances),
        "convergence_analysis": convergence.reading(analysis.runs, analysis.configurations),
        "trajectories": trajectories.reading(analysis.trajectories[0]),
    }
    for study, panels in analysis.heatmaps.items():
        sentences[f"heatmap_{names[study]}"] = heatmaps.reading(panels, analysis.metric)
    return sentences


def draw_results(
    results_dir: Path, *, studies: Sequence[str] = (), metric: str = DEFAULT_METRIC, layout: Layout = WIDE
) -> dict[str, Figure]:
    """File stem -> figure for the runs of a results folder, or of some of its studies."""
    with style.styled(layout):
        return _drawn(_analysis(results_dir, studies, metric), layout)


def save_study(results_dir: Path, study: str, folder: Path) -> dict[str, tuple[Path, str]]:
    """The figures of one study as PNG files for a screen in `folder`: name -> (file, caption).

    They become pixels side by side, in forked processes: this one should have no threads. Raises RuntimeError where one
    of them fails.
    """
    analysis = _analysis(results_dir, [study], DEFAULT_METRIC)
    sentences, saved, drawing = readings(analysis), {}, []
    fork = multiprocessing.get_context("fork")
    problems = fork.SimpleQueue()
    with style.styled():
        for stem, figure in _drawn(analysis, WIDE).items():
            name = "heatmap" if stem.startswith("heatmap_") else stem
            drawing.append(fork.Process(target=_save, args=(figure, folder, name, problems), name=name))
            drawing[-1].start()
            saved[name] = (folder / f"{name}.png", f"{TITLES[name]}. {sentences[stem]} {NOTES[name]}")
    for process in drawing:
        process.join()
    if not problems.empty():
        raise RuntimeError(problems.get())
    died = [process.name for process in drawing if process.exitcode]
    if died:
        raise RuntimeError(f"the process that draws {died[0]} died")
    return saved


def _save(figure: Figure, folder: Path, name: str, problems: SimpleQueue) -> None:
    try:
        figure.savefig(folder / f"{name}.png", dpi=style.SCREEN_DPI)
    except Exception as error:
        problems.put(f"{name}: {error}")


def _analysis(results_dir: Path, studies: Sequence[str], metric: str) -> Analysis:
    results = load(results_dir, studies=studies)
    return Analysis(results.runs, results.epochs, resolve_metric(metric, metric_columns(results.runs)))


def _drawn(analysis: Analysis, layout: Layout) -> dict[str, Figure]:
    figures = {
        "model_comparison": model_comparison(analysis, layout),
        "trajectories": trajectory_figure(analysis, layout),
        "convergence_analysis": convergence_analysis(analysis, layout),
        "parameter_importance": parameter_importance(analysis, layout),
    }
    return figures | {f"heatmap_{slug}": figure for slug, figure in heatmap_figures(analysis, layout).items()}
