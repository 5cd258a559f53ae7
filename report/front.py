"""The part of the page about searches with several objectives: which they are, and the trials on the Pareto front."""

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from report.analysis import Analysis
from report.explorer import cell
from report.interactive import MOST_OBJECTIVES
from report.metrics import HIGHER_IS_BETTER, base_name, label
from report.tables import rerun_command


def front(analysis: Analysis, interactive: Mapping[str, Mapping[str, str]]) -> str:
    """The section as HTML; empty where every study has one objective. `interactive` is that of `report.page`."""
    if not analysis.objectives:
        return ""
    note = (
        "A trial lies on the Pareto front when no other is as good in every objective and better in one. Objectives "
        "are validation values and costs of single trainings, as in the search's leaderboard. The answer above (★) "
        f"is chosen by {label(analysis.metric.ranking)} alone."
    )
    plots = {name: interactive.get(title, {}).get("pareto") for name, title in analysis.titles.items()}
    studies = "".join(_study(name, analysis, plots[name]) for name in analysis.objectives)
    return f"<section id=front class=maps><h2>Pareto front</h2><p class=quiet>{escape(note)}</p>{studies}</section>"


def _study(name: str, analysis: Analysis, plot: str | None) -> str:
    objectives, rows = analysis.objectives[name], analysis.fronts[name]
    is_open = " open" if name in set(analysis.winners["study"]) else ""
    title = f"{analysis.titles[name]}: {len(rows)} of {analysis.finished[name]} complete trials on the front"
    flag = ",".join(column.removeprefix("val_") for column in objectives)
    first = f" of the first {MOST_OBJECTIVES}" if len(objectives) > MOST_OBJECTIVES else ""
    link = f" <a href='{escape(plot, quote=True)}'>Plot of the front{first}</a>." if plot else ""
    return (
        f"<details{is_open}><summary>{escape(title)}</summary><p><code>--objectives {escape(flag)}</code> "
        f"{escape(directions(objectives))}{link}</p>{_table(rows, objectives, set(analysis.winners['run']))}"
        "</details>"
    )


def directions(objectives: Sequence[str]) -> str:
    """What a search minimises and maximises, in words."""
    raised = [label(name) for name in objectives if base_name(name) in HIGHER_IS_BETTER]
    lowered = [label(name) for name in objectives if base_name(name) not in HIGHER_IS_BETTER]
    parts = [f"{verb} {', '.join(names)}" for verb, names in (("minimises", lowered), ("maximises", raised)) if names]
    return f"{' and '.join(parts)}."


def _table(rows: pd.DataFrame, objectives: Sequence[str], winners: set[str]) -> str:
    if rows.empty:
        return ""
    heads = "".join(f"<th scope=col>{escape(name)}</th>" for name in ("trial", *map(label, objectives), "run folder"))
    lines = []
    for row in rows.to_dict("records"):
        star = " <b title='the best of its family'>★</b>" if row["run"] in winners else ""
        text = escape(rerun_command(row["path"]), quote=True)
        cells = f"<td>{escape(row['configuration'])}{star}</td>{''.join(cell(row[name]) for name in objectives)}"
        button = f"<button class=copy type=button data-text='{text}' title='the command trains it again'>copy</button>"
        lines.append(f"<tr>{cells}{cell(row['run'])}<td class=screen>{button}</td></tr>")
    return (
        f"<div class=scroll><table class=sortable><thead><tr>{heads}<th scope=col class=screen>train it again</th></tr>"
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
