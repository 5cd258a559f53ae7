"""Every figure in both widths can be printed as it is: large letters, nothing clipped, no overlap, one page."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from report import comparison, figures, heatmaps, importance
from report.analysis import Analysis
from report.loading import load
from report.metrics import Metric
from report.style import LAYOUTS, SMALLEST, Layout, log_axis, styled
from tests.run_folders import make_results

PAGE = 9.5  # inches of a page below its head
TOUCH = 1.5  # points by which the boxes round two texts may overlap: they hold some air above the letters
LONGEST = "method_of_steps_reaction_diffusion_bayesian"


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Twelve studies, with pruned and failed trials and confirmations."""
    folder = tmp_path_factory.mktemp("layout") / "results"
    make_results(folder, trials=7, confirmations=1, seed=1)
    results = load(folder)
    return Analysis(results.runs, results.epochs, Metric("test_rel_error", "val_rel_error"))


def draw(analysis: Analysis, layout: Layout) -> dict[str, Figure]:
    """One figure of each kind. Every study shows the importances of one, as those of all would take their time."""
    study = analysis.studies[LONGEST]
    table = importance.importance(analysis.runs[analysis.runs["study"] == LONGEST], study, analysis.metric)
    columns = [f"param_{name}" for name in table["parameter"]]
    pairs = {pair: heatmaps.heatmap_table(analysis.runs, analysis.metric, *pair) for pair in heatmaps.pairs(columns)}
    tables, titles = dict.fromkeys(analysis.models, table), analysis.titles
    return {
        "model_comparison": figures.model_comparison(analysis, layout),
        "trajectories": figures.trajectory_figure(analysis, layout),
        "convergence_analysis": figures.convergence_analysis(analysis, layout),
        "parameter_importance": importance.draw_importance(
            tables, analysis.finished, analysis.models, titles, analysis.metric, layout
        ),
        "heatmap": heatmaps.draw_heatmap(pairs, titles[LONGEST], analysis.metric, 5, layout),
    }


def test_diverged_trials_leave_the_others_their_scale(analysis: Analysis) -> None:
    runs = analysis.runs.copy()
    first = runs.index[(runs["status"] == "complete") & (runs["role"] == "trial")][0]
    runs.loc[first, ["test_rel_error", "val_rel_error"]] = 1e9
    table = comparison.comparison_table(runs, analysis.metric)
    figure = comparison.draw_comparison(table, analysis.best, analysis.metric, LAYOUTS[7.2])
    main = next(axes for axes in figure.findobj(Axes) if "relative L2 error" in axes.get_ylabel())
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in main.lines])
    assert drawn.max() == 10 and 10 < main.get_ylim()[1] < 100
    assert any(text.get_text() == "10 and more" for text in main.texts)
    mine = runs[runs["study"] == runs.loc[first, "study"]]
    medians, numbers = heatmaps.heatmap_table(mine, analysis.metric, "param_width", "param_learning_rate")
    assert np.nanmax(medians.to_numpy()) == 1e9  # the table holds what was measured
    drawn = heatmaps.draw_heatmap({("a", "b"): (medians, numbers)}, "", analysis.metric, 5, LAYOUTS[7.2])
    (mesh,) = [mesh for axes in drawn.axes for mesh in axes.collections if mesh.get_array() is not None][:1]
    assert mesh.norm.vmax == 10


@pytest.fixture(scope="module", params=list(LAYOUTS))
def drawn(request: pytest.FixtureRequest, analysis: Analysis) -> tuple[float, dict[str, Figure]]:
    """A width, and the figures in it, laid out; pixels are points."""
    layout = LAYOUTS[request.param]
    with styled(layout):
        pictures = draw(analysis, layout)
        for figure in pictures.values():
            figure.set_dpi(72)
            figure.draw_without_rendering()
    return request.param, pictures


def texts(figure: Figure) -> Iterator[Text]:
    """Every text that is drawn; of an axis only what stands at ticks within its limits."""
    unseen: set[Text] = set()
    for axes in figure.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not axes.axison or not low <= tick.get_loc() <= high:
                    unseen |= {tick.label1, tick.label2}
            unseen |= set() if axes.axison else {axis.label}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in unseen:
            yield text


def corners(found: list[Text]) -> np.ndarray:
    """(n, 4): left, bottom, right, top in points."""
    return np.array([text.get_window_extent().extents for text in found])


def test_letters_are_large_enough(drawn: tuple[float, dict[str, Figure]]) -> None:
    width, pictures = drawn
    for stem, figure in pictures.items():
        assert figure.get_size_inches()[0] == width, stem
        found = list(texts(figure))
        assert len(found) > 30, stem
        assert not [text.get_text() for text in found if text.get_fontsize() < SMALLEST], stem


def test_nothing_is_clipped_and_a_figure_fits_on_a_page(drawn: tuple[float, dict[str, Figure]]) -> None:
    for stem, figure in drawn[1].items():
        found = list(texts(figure))
        places, (width, height) = corners(found), figure.bbox.size
        is_out = (places[:, :2] < -0.5).any(axis=1) | (places[:, 2:] > np.array([width, height]) + 0.5).any(axis=1)
        assert not [text.get_text() for text, out in zip(found, is_out, strict=True) if out], stem
        assert height / 72 <= PAGE, stem


def test_no_two_texts_overlap(drawn: tuple[float, dict[str, Figure]]) -> None:
    for stem, figure in drawn[1].items():
        level = [text for text in texts(figure) if math.isclose(text.get_rotation() % 90, 0)]  # others fill no box
        places = corners(level)
        low = np.maximum(places[:, None, :2], places[None, :, :2])
        high = np.minimum(places[:, None, 2:], places[None, :, 2:])
        pairs = np.argwhere(np.triu((high - low > TOUCH).all(axis=2), k=1))
        assert not [(level[i].get_text(), level[j].get_text()) for i, j in pairs], stem


@pytest.mark.parametrize("most", [3, 4, 6])
@pytest.mark.parametrize("low", [3e-6, 0.0123, 0.5, 7.0, 2e5])
@pytest.mark.parametrize("factor", [1.05, 1.8, 3.3, 12.0, 70.0, 400.0, 1e5, 1e9])
def test_log_axis_has_labels_that_fit(low: float, factor: float, most: int) -> None:
    axis = Figure(figsize=(1.5, 0.8)).subplots().yaxis
    log_axis(axis, [low, low * factor], most)
    bottom, top = axis.get_view_interval()
    labels = [axis.get_major_formatter()(tick) for tick in axis.get_majorticklocs() if bottom <= tick <= top]
    assert 1 < len(labels) <= most + 1 and len(set(labels)) == len(labels)
    assert all(labels) and max(map(len, labels)) <= len("$\\mathdefault{10^{-10}}$")
