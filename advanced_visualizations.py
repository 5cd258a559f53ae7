"""Draws the report of all searches in a results folder: figures, interactive pages, and one page to read.

    python advanced_visualizations.py
    python advanced_visualizations.py --models method_of_steps --families mackey --formats png,pdf

A figure of your own: paste a method into `Visualizations`,

    def create_custom_plot(self, df: pd.DataFrame) -> plt.Figure:
        ...

and it appears as custom_plot.png in the folder and on the page. `df` has one row per run; docs/report.md lists its
columns.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

logger = logging.getLogger(__name__)

FORMATS = ("png", "pdf", "svg")
WIDTHS = (7.2, 3.5)  # inches: two columns of a paper, and one
COMMAND_LINE_ERROR = 2

if TYPE_CHECKING:
    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd
    import seaborn as sns
    from matplotlib.figure import Figure
else:

    class _Library:
        """A library that is imported when it is first used, so that --help does not wait for it."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> object:
            return getattr(importlib.import_module(self._name), attribute)

    np, pd = _Library("numpy"), _Library("pandas")
    plt, sns = _Library("matplotlib.pyplot"), _Library("seaborn")


@dataclass(frozen=True)
class Options:
    """The command line."""

    results_dir: Path = Path("hyperparameter_results")
    output_dir: Path = Path("visualizations")
    models: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    metric: str = "test_rel_error"
    top: int = 10
    formats: tuple[str, ...] = ("png",)
    since: datetime | None = None
    width: float = WIDTHS[0]


class Visualizations:
    """The figures of the report. Every method `create_*` that takes `df` is called, built-in ones first.

    It returns a figure, saved as the method's name without `create_`, or a dict of figures, saved as that name and
    their key. `df` has one row per run (docs/report.md). Beside it a method may use `self.epochs`, one row per epoch,
    and `self.metric`, the metric that was asked for.
    """

    def __init__(self, options: Options | None = None) -> None:
        """Reads the run folders. Raises ReportError in one line where there is nothing to show."""
        from report.analysis import Analysis
        from report.loading import load, metric_columns
        from report.metrics import resolve_metric
        from report.style import LAYOUTS

        self.options = options or Options()
        self.layout = LAYOUTS[self.options.width]
        chosen = self.options
        self.results = load(
            chosen.results_dir, models=chosen.models, families=chosen.families, since=chosen.since
        )  # fmt: skip
        self.metric = resolve_metric(chosen.metric, metric_columns(self.results.runs))
        self.epochs = self.results.epochs
        self.analysis = Analysis(self.results.runs, self.epochs, self.metric)

    def create_model_comparison(self, df: pd.DataFrame) -> Figure:
        """Errors and costs of all trials, by family and operator."""
        from report import figures

        return figures.model_comparison(self._analysis(df), self.layout)

    def create_trajectories(self, df: pd.DataFrame) -> Figure:
        """Predictions of the best operators against the truth."""
        from report import figures

        return figures.trajectory_figure(self._analysis(df), self.layout)

    def create_convergence_analysis(self, df: pd.DataFrame) -> Figure:
        """Training curves."""
        from report import figures

        return figures.convergence_analysis(self._analysis(df), self.layout)

    def create_parameter_importance(self, df: pd.DataFrame) -> Figure:
        """Which hyperparameters mattered in each study."""
        from report import figures

        return figures.parameter_importance(self._analysis(df), self.layout)

    def create_heatmap(self, df: pd.DataFrame) -> dict[str, Figure]:
        """Errors over pairs of hyperparameters, a figure per study."""
        from report import figures

        return figures.heatmap_figures(self._analysis(df), self.layout)

    def write(self) -> list[Path]:
        """Writes everything to the output folder and returns the files."""
        from report.writing import write_report

        return write_report(self)

    def _analysis(self, df: pd.DataFrame) -> object:
        from report.analysis import Analysis

        return self.analysis if df is self.results.runs else Analysis(df, self.epochs, self.metric)


class OneLineParser(argparse.ArgumentParser):
    """Answers a usage error in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(COMMAND_LINE_ERROR, f"error: {message} (see --help)\n")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = OneLineParser(
        description=__doc__.split("\n\n")[0], allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    default = Options()
    for flag, kind, value, text in (
        ("results_dir", Path, default.results_dir, "folder with the run folders"),
        ("output_dir", Path, default.output_dir, "folder to write to"),
        ("metric", str, default.metric, "metric to show; validation chooses the best"),
        ("top", _count, default.top, "configurations of each family in the page's table"),
        ("formats", _formats, ",".join(default.formats), f"of the figures, any of {','.join(FORMATS)}"),
        ("since", _moment, None, "only runs begun at or after this ISO date or time"),
    ):
        names = dict.fromkeys((f"--{flag}", f"--{flag.replace('_', '-')}"))
        parser.add_argument(*names, type=kind, default=value, help=text, metavar=flag.upper())
    about = "of the figures in inches: over two columns of a paper, or in one, with panels stacked"
    parser.add_argument("--width", type=float, choices=WIDTHS, default=default.width, help=about)
    parser.add_argument("--models", nargs="+", default=[], metavar="MODEL", help="only these operators")
    parser.add_argument("--families", nargs="+", default=[], metavar="FAMILY", help="only these families")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more, with tracebacks of custom plots")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    given = parse_arguments(arguments)
    level = logging.DEBUG if given.verbose else logging.INFO
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    for name in (__name__, "report"):
        logging.getLogger(name).setLevel(level)
    options = Options(
        given.results_dir, given.output_dir, _names(given.models), _names(given.families), given.metric, given.top,
        given.formats, given.since, given.width,
    )  # fmt: skip
    import matplotlib

    from report import ReportError

    matplotlib.use("Agg")
    try:
        written = Visualizations(options).write()
    except (ReportError, OSError) as error:
        logger.debug("", exc_info=True)
        line = _place(error, options) if isinstance(error, OSError) else str(error)
        print(f"error: {' '.join(line.split())}", file=sys.stderr)
        return COMMAND_LINE_ERROR
    try:
        print(f"{len(written)} files in {options.output_dir}; read {options.output_dir / 'report.html'}", flush=True)
    except OSError:  # nobody reads; the report is there all the same
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 what is left in the buffer must not fail again at exit
    return 0


def _place(error: OSError, options: Options) -> str:
    """What could not be written, and why; a file's own name where it was to be renamed to it."""
    path = error.filename2 or error.filename
    return f"--output_dir {options.output_dir}: {f'{Path(path).name}: ' if path else ''}{error.strerror or error}"


def _names(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for part in given for name in part.split(",") if name)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    if not names or not set(names) <= set(FORMATS):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(FORMATS)}, got {text!r}")
    return names


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected an ISO date such as 2026-01-31, got {text!r}") from error


if __name__ == "__main__":
    sys.exit(main())
