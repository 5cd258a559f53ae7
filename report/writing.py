"""Writes the report: calls the `create_*` methods, saves what they return, then the pages and the summary."""

import inspect
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib import pyplot
from matplotlib.figure import Figure

from report import ReportError, style
from report.figures import missing, readings
from report.interactive import interactive_figures, undrawn, write_page
from report.page import Picture
from report.page import write_page as write_report_page
from report.summary import summary, write_summary
from report.tables import slugs

if TYPE_CHECKING:
    from advanced_visualizations import Visualizations

logger = logging.getLogger(__name__)

PREFIX = "create_"
BUILT_IN = ("model_comparison", "trajectories", "convergence_analysis", "parameter_importance", "heatmap")


def write_report(visualizations: "Visualizations") -> list[Path]:
    """All files of the report, in the order in which they were written. Raises ReportError where none can be."""
    options, analysis = visualizations.options, visualizations.analysis
    folder = options.output_dir
    _make(folder)
    problems: list[str] = []
    for problem in visualizations.results.problems:
        _say(problems, problem)
    written, pictures = [], []
    sentences, slug = readings(analysis), slugs(analysis.models)
    titles = {f"heatmap_{slug[study]}": title for study, title in analysis.titles.items()}
    unfolded = {f"heatmap_{slug[study]}" for study in set(analysis.winners["study"])}
    with style.styled(visualizations.layout):
        for stem, figure in _figures(visualizations, problems):
            try:
                paths, png = style.save_and_embed(figure, folder, stem, options.formats)
            except (IsADirectoryError, PermissionError) as error:  # one name is taken; a full disk ends it all
                name = Path(str(error.filename2 or error.filename or stem)).name
                _say(problems, f"{name}: not written: {error.strerror}; remove what is there")
                continue
            written += paths
            names = tuple(path.name for path in paths)
            pictures.append(Picture(stem, sentences.get(stem, ""), png, titles.get(stem, ""), names, stem in unfolded))
            pyplot.close(figure)
            logger.debug("drew %s", stem)
    later = [*analysis.trajectories[1], *missing(analysis), *undrawn(analysis.studies)]
    for problem in later:
        _say(problems, problem)
    pages = _write_interactive(visualizations, folder, problems)
    names = [path.name for path in (*written, *(path for path, _, _ in pages))]
    write_report_page(
        folder / "report.html",
        analysis,
        pictures,
        interactive=_by_study(pages, analysis.titles),
        problems=problems,
        source=str(options.results_dir),
        top=options.top,
    )
    _remove_older(folder, names)
    write_summary(summary(visualizations.results, analysis, names, problems), folder / "visualization_report.json")
    made = [*written, *(path for path, _, _ in pages)]
    return [*made, folder / "report.html", folder / "visualization_report.json"]


def _remove_older(folder: Path, names: Sequence[str]) -> None:
    """Removes the figures that an earlier report lists and this one has not: they would look like parts of it."""
    try:
        listed = json.loads((folder / "visualization_report.json").read_text(encoding="utf-8"))["figures"]
        older = [folder / name for name in listed if name == Path(name).name and name not in names]
        for path in older:
            path.unlink(missing_ok=True)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        logger.debug("no earlier report was tidied up: %s", problem)


def create_methods(visualizations: "Visualizations") -> list[str]:
    """The `create_*` methods that take `df`: ours first, then others in the order in which they are defined."""
    defined = [name for kind in reversed(type(visualizations).__mro__) for name in vars(kind)]
    names = [name for name in dict.fromkeys(defined) if name.startswith(PREFIX) and _takes_df(visualizations, name)]
    order = [f"{PREFIX}{stem}" for stem in BUILT_IN]
    return [name for name in order if name in names] + [name for name in names if name not in order]


def _takes_df(visualizations: "Visualizations", name: str) -> bool:
    method = getattr(visualizations, name)
    return callable(method) and "df" in inspect.signature(method).parameters


def _figures(visualizations: "Visualizations", problems: list[str]) -> Iterator[tuple[str, Figure]]:
    """(file stem, figure) of every method; what a method does wrong becomes a line in `problems`."""
    runs = visualizations.results.runs
    for name in create_methods(visualizations):
        stem = name.removeprefix(PREFIX)
        result = _result(visualizations, name, runs if stem in BUILT_IN else runs.copy(), problems)
        figures = result if isinstance(result, Mapping) else {"": result}
        keys = slugs(str(key) for key in figures)
        for key, figure in figures.items():
            if isinstance(figure, Figure):
                yield f"{stem}_{keys[str(key)]}" if key != "" else stem, figure
            elif figure is not None:
                _say(problems, f"{name}: expected a matplotlib Figure, got {type(figure).__name__}")


def _result(visualizations: "Visualizations", name: str, runs: pd.DataFrame, problems: list[str]) -> object:
    """What a method returns. Any error costs its figure only: the method may be the user's, or the runs be strange."""
    try:
        result = getattr(visualizations, name)(runs)
    except Exception as error:
        _say(problems, f"{name}: no figure: {type(error).__name__}: {' '.join(str(error).split())}")
        logger.debug("", exc_info=True)
        return None
    if result is None:
        _say(problems, f"{name}: returned no figure; let it end with `return figure`")
    return result


def _say(problems: list[str], line: str) -> None:
    line = " ".join(line.split())  # names may hold anything
    problems.append(line)
    logger.warning("%s", line)


def _by_study(pages: Sequence[tuple[Path, str, str]], titles: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """For the page: title of the study -> kind -> file, all studies together first."""
    found: dict[str, dict[str, str]] = {}
    for path, kind, study in sorted(pages, key=lambda page: page[2] in titles):
        found.setdefault(titles.get(study, "all studies"), {})[kind] = path.name
    return found


def _write_interactive(
    visualizations: "Visualizations", folder: Path, problems: list[str]
) -> list[tuple[Path, str, str]]:
    """(file, kind, study or "all") of every interactive page; one that cannot be drawn becomes a line in `problems`."""
    analysis, pages = visualizations.analysis, []
    names = slugs(["all", *analysis.studies])  # "all" first: a study of this name gets another
    for kind, study, draw in interactive_figures(
        analysis.studies, analysis.importances, analysis.origins, analysis.runs, analysis.metric
    ):
        try:
            figure = draw()
        except Exception as error:  # Optuna's own plots, of runs that may be strange
            _say(problems, f"{study}: no interactive {kind}: {type(error).__name__}: {' '.join(str(error).split())}")
            continue
        path = folder / f"interactive_{kind}_{names[study] if study in analysis.studies else 'all'}.html"
        write_page(figure, path)
        pages.append((path, kind, study))
    return pages


def _make(folder: Path) -> None:
    """Makes the output folder and makes sure that files can be written there."""
    probe = folder / ".partial.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ReportError(
            f"--output_dir {folder}: expected a folder that can be written to, got {error.strerror}; name another"
        ) from error
