"""The part of the page that answers questions: every trial as a point, and the table of the best configurations."""

import json
import math
from html import escape

import pandas as pd

from report import style
from report.analysis import Analysis
from report.answer import chip, number
from report.loading import PARAMETER
from report.metrics import label
from report.studies import is_numeric
from report.summary import plain
from report.tables import endings, rerun_command, varying_parameters

MEASURES = (
    "rollout_error",
    "stability_score",
    "tau_rel_error",
    "train_seconds",
    "n_parameters",
    "inference_ms",
    "epochs",
)
TABLE_MEASURES = ("rollout_error", "stability_score", "train_seconds", "n_parameters")
_SHAPES = {"o": "●", "s": "■", "^": "▲"}
MOST_TRIALS = 5000  # in the plot, newest first


def explorer(analysis: Analysis, top: int) -> str:
    """The section as HTML; `top` configurations of each family are rows of the table."""
    data = _trials(analysis)
    if not data["rows"]:
        return f"{_embedded(data)}"
    axes = data["axes"]
    first_x = "train_seconds" if "train_seconds" in axes else next(iter(axes))
    options = {
        name: "".join(
            f"<option value='{escape(key, quote=True)}'{' selected' if key == chosen else ''}>{escape(text)}</option>"
            for key, text in axes.items()
        )
        for name, chosen in (("x", first_x), ("y", analysis.metric.column))
    }
    tools = (
        f"<div class=tools>{_select('family', 'family', analysis.runs['family'])}"
        f"{_select('model', 'operator', style.model_order(analysis.runs['model']))}"
        "<label>text <input id=filter type=search placeholder='run, value, operator …'></label>"
        "<span class=quiet id=count></span></div>"
    )
    legend = "".join(
        f"<span><b style='color:{look['colour']}'>{_SHAPES.get(look['marker'], '◆')}</b> {escape(model)}</span>"
        for model, look in data["models"].items()
    )
    plot = (
        f"<div id=explore-plot><div class=tools><label>across <select id=x>{options['x']}</select></label>"
        f"<label>up <select id=y>{options['y']}</select></label></div>"
        f"<div class='legend quiet'>{legend}</div><div id=plot><svg role=img aria-label='every trial as a point'></svg>"
        "<div id=tip hidden></div></div>"
        "<p class=quiet>Every complete trial is a point, a paused or pruned one ×. Point at one to see its run folder "
        "and the command that trains it again.</p></div>"
    )
    return (
        f"<h2 id=explore>Every trial, and the best {top} configurations of each family</h2>{tools}{plot}"
        f"{_table(analysis, top)}{_embedded(data)}"
    )


def _trials(analysis: Analysis) -> dict[str, object]:
    """What the script draws: the trials, the axes that can be chosen, the looks of operators."""
    runs, metric = analysis.runs, analysis.metric
    runs = runs[runs["status"].isin(("complete", "pruned"))].sort_values("created").tail(MOST_TRIALS)
    numeric = [name for name in varying_parameters(runs) if is_numeric(runs[name])]
    names = dict.fromkeys([metric.column, metric.ranking, *MEASURES, *numeric])
    names = [name for name in names if name in runs and runs[name].notna().any()]
    rows = [
        {
            **{name: row[name] for name in ("run", "model", "family", "study", "status", "role", "slot")},
            "command": rerun_command(row["path"]),
            "v": {name: plain(row[name]) for name in names},
        }
        for row in runs.assign(status=endings(runs)).to_dict("records")
    ]
    models = style.model_order(runs["model"])
    looks = {model: {"colour": style.colour(model, models), "marker": style.marker(model, models)} for model in models}
    axes = {name: _words(name) if name.startswith(PARAMETER) else label(name) for name in names}
    return {"rows": rows, "axes": axes, "models": looks}


def _embedded(data: dict[str, object]) -> str:
    text = json.dumps(plain(data), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"<script type='application/json' id=trials>{text}</script>"


def _select(name: str, words: str, values: object) -> str:
    options = "".join(
        f"<option value='{escape(value, quote=True)}'>{escape(value)}</option>"
        for value in dict.fromkeys(sorted(values))
    )
    return f"<label>{words} <select id={name}><option value=''>all</option>{options}</select></label>"


def _table(analysis: Analysis, top: int) -> str:
    table, metric = analysis.configurations, analysis.metric
    if table.empty:
        return ""
    is_first = table.groupby("family").cumcount() < top
    shown = table[is_first | table["run"].isin(analysis.winners["run"])].sort_values(["family"], kind="stable")
    parameters = varying_parameters(shown)
    measures = [name for name in TABLE_MEASURES if name in shown and name not in (metric.column, metric.ranking)]
    head = ["family", "operator", label(metric.ranking), label(metric.column), "±", "trainings"]
    head += [*map(label, measures), "run folder"]
    screen_head = [*map(_words, parameters), "train it again"]  # too wide for paper
    rows, winners = [], set(analysis.winners["run"])
    for row in shown.to_dict("records"):
        star = " <b title='the best of its family'>★</b>" if row["run"] in winners else ""
        numbers = [row["ranking"], row["value"], row["spread"], row["n_runs"]]
        cells = [f"<td>{escape(row['family'])}</td><td>{chip(row['model'], analysis)}{star}</td>"]
        cells += [cell(value) for value in [*numbers, *(row[name] for name in measures), row["run"]]]
        cells += [cell(row[name], "screen") for name in parameters]
        cells += [f"<td class=screen><code>{escape(rerun_command(row['path']))}</code> ",
                  "<button class=copy type=button>copy</button></td>"]  # fmt: skip
        names = {"run": row["run"], "family": row["family"], "model": row["model"]}
        data = " ".join(f"data-{name}='{escape(value, quote=True)}'" for name, value in names.items())
        rows.append(f"<tr {data}>{''.join(cells)}</tr>")
    heads = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    heads += "".join(f"<th scope=col class=screen>{escape(name)}</th>" for name in screen_head)
    return (
        "<p class=quiet>Configurations that were trained again come first, with means over these trainings; each kind "
        "best by validation first. ★ the answer above. Click a heading to sort.</p>"
        f"<div class=scroll><table id=configurations class=sortable><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def cell(value: object, kind: str = "") -> str:
    """A table cell that sorts by its value; `kind` is a further class."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return f"<td class='n {kind}' data-v=''>–</td>"
    if isinstance(value, int | float) and not isinstance(value, bool):
        known = float(value)
        return f"<td class='n {kind}' data-v='{known if math.isfinite(known) else ''}'>{number(known)}</td>"
    return f"<td class='{kind}'>{escape(str(value))}</td>"


def _words(name: str) -> str:
    return name.removeprefix(PARAMETER).replace("_", " ")
