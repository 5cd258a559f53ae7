"""report.html: one page that works offline and is read top to bottom, the answer first."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from report import style
from report.analysis import Analysis
from report.loading import PARAMETER
from report.metrics import label as metric_label
from report.tables import rerun_command, varying_parameters

TITLES = {
    "model_comparison": "Operators side by side",
    "trajectories": "What the best operators predict",
    "convergence_analysis": "How training went",
    "parameter_importance": "Which hyperparameters mattered",
}
NOTES = {
    "parameter_importance": "Rank correlation shows a direction and misses effects that rise and fall again; MDI and "
    "fANOVA are forests' shares of the variance without direction, and mean little below some twenty trials. Bayesian "
    "search samples good regions more often, which weakens all three.",
    "model_comparison": "Every complete trial is a point and the small numbers count them; boxes hold the middle half.",
    "trajectories": "Time in delays; the error is |prediction - truth| over the RMS of the true trajectory.",
    "convergence_analysis": "Errors are the best so far of each trial, held after its end; pruned trials are not in "
    "the bands.",
}


HEATMAP = "heatmap_"
HEATMAP_NOTE = (
    "Colours are medians of the trials in a cell, numbers their count; grey cells are empty. The pairs are those of "
    "the four most important hyperparameters of each study."
)


@dataclass(frozen=True)
class Picture:
    """A figure on the page. `png` are its bytes."""

    stem: str
    reading: str
    png: bytes


def write_page(
    path: Path,
    analysis: Analysis,
    pictures: Sequence[Picture],
    *,
    interactive: Sequence[str],
    problems: Sequence[str],
    source: str,
    top: int,
) -> None:
    """Writes the page under a temporary name, then renames it. `interactive` names files beside it."""
    body = [
        "<h1>Delay neural operators: which one, and why</h1>",
        f"<p class=quiet>{escape(_runs_sentence(analysis, source))}</p>",
        _answer(analysis),
        _problems(problems),
        *_figures(pictures),
        _configurations(analysis, top),
        _studies(analysis),
        _links(interactive),
    ]
    text = _TEMPLATE.replace("{body}", "\n".join(part for part in body if part))
    partial = path.with_name(f".partial.{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _runs_sentence(analysis: Analysis, source: str) -> str:
    counts = analysis.runs["status"].value_counts()
    parts = ", ".join(f"{number} {status}" for status, number in counts.items())
    return f"{len(analysis.runs)} runs of {len(analysis.models)} studies in {source}: {parts}."


def _answer(analysis: Analysis) -> str:
    if analysis.winners.empty:
        return "<h2>The answer</h2><p>No trial is complete yet, so no operator can be named.</p>"
    metric, items = analysis.metric, []
    for winner in analysis.winners.to_dict("records"):
        others = analysis.best[
            (analysis.best["family"] == winner["family"]) & (analysis.best["model"] != winner["model"])
        ]
        ranked = others.sort_values("ranking", ascending=not metric.higher_is_better).to_dict("records")
        against = ", ".join(f"{row['model']} {_number(row['value'])}" for row in ranked)
        items.append(
            f"<li><span class=family>{escape(winner['family'])}</span> {_chip(winner['model'], analysis)} "
            f"<b>{_number(winner['value'])}</b>{_spread(winner)}"
            f"{f'<span class=quiet>; {escape(against)}</span>' if against else ''}"
            f"<br><code>{escape(rerun_command(winner['path']))}</code></li>"
        )
    note = (
        f"Chosen by {metric_label(metric.ranking)}, shown with {metric.label}; test values never choose. The command "
        "trains the configuration again. ± is the standard deviation over trainings with fresh seeds, where the "
        "configuration was confirmed."
    )
    return (
        f"<h2>The best operator of each family</h2><ul class=answer>{''.join(items)}</ul>"
        f"<p class=quiet>{escape(note)}</p>"
    )


def _spread(row: Mapping[str, object]) -> str:
    spread = row["spread"]
    if math.isfinite(spread):
        return f" ± {_number(spread)} <span class=quiet>({row['n_runs']} trainings)</span>"
    return " <span class=quiet>(one training)</span>"


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    lines = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return f"<details><summary>{len(problems)} remarks on what was read and drawn</summary><ul>{lines}</ul></details>"


def _figures(pictures: Sequence[Picture]) -> list[str]:
    """A section per figure, the heatmaps together in one."""
    maps = [picture for picture in pictures if picture.stem.startswith(HEATMAP)]
    sections, is_begun = [], False
    for picture in pictures:
        if picture not in maps:
            sections.append(f"<section><h2>{escape(_title(picture.stem))}</h2>{_figure(picture)}</section>")
        elif not is_begun:
            body = "".join(f"<section>{_figure(one)}</section>" for one in maps)
            sections.append(f"<h2>Where good configurations lie</h2><p class=quiet>{escape(HEATMAP_NOTE)}</p>{body}")
            is_begun = True
    return sections


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    note = f"<p class=quiet>{escape(NOTES[picture.stem])}</p>" if picture.stem in NOTES else ""
    return (
        f"<p>{escape(picture.reading)}</p><div class=wide><img id='{escape(picture.stem, quote=True)}' "
        f"alt='{escape(_title(picture.stem), quote=True)}' src='data:image/png;base64,{data}'></div>{note}"
    )


def _title(stem: str) -> str:
    return TITLES.get(stem, stem.replace("_", " "))


def _configurations(analysis: Analysis, top: int) -> str:
    table = analysis.configurations
    if table.empty:
        return ""
    shown = table.groupby("family", sort=True).head(top).sort_values(["family"], kind="stable")
    parameters = varying_parameters(shown)
    head = ["family", "operator", _words(analysis.metric.ranking), _words(analysis.metric.column), "±", "trainings"]
    head += [name.removeprefix(PARAMETER).replace("_", " ") for name in parameters] + ["run folder", "train it again"]
    rows = []
    for row in shown.to_dict("records"):
        numbers = [row["ranking"], row["value"], row["spread"], row["n_runs"]]
        cells = [f"<td>{escape(row['family'])}</td><td>{_chip(row['model'], analysis)}</td>"]
        cells += [_cell(value) for value in [*numbers, *(row[name] for name in parameters)]]
        cells += [f"<td>{escape(row['run'])}</td><td><code>{escape(rerun_command(row['path']))}</code></td>"]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    return (
        f"<h2>The best {top} configurations of each family</h2><p class=quiet>Click a heading to sort; type to filter: "
        "<input id=filter type=search placeholder='operator, family, run' aria-label='filter rows'></p>"
        f"<div class=wide><table id=configurations class=sortable><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _studies(analysis: Analysis) -> str:
    columns = list(analysis.counts.columns)
    heads = "".join(f"<th>{escape(name)}</th>" for name in columns)
    rows = "".join(
        "<tr>" + "".join(_cell(row[name]) for name in columns) + "</tr>" for row in analysis.counts.to_dict("records")
    )
    return (
        f"<h2>Studies</h2><div class=wide><table class=sortable><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _links(files: Sequence[str]) -> str:
    if not files:
        return ""
    items = "".join(
        f"<li><a href='{escape(name, quote=True)}'>{escape(Path(name).stem.removeprefix('interactive_'))}</a></li>"
        for name in files
    )
    return f"<h2>Interactive plots</h2><p class=quiet>Files beside this page.</p><ul class=columns>{items}</ul>"


def _chip(model: str, analysis: Analysis) -> str:
    colour = style.colour(model, analysis.runs["model"])
    return f"<span class=chip style='background:{colour}'></span>{escape(model)}"


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "<td class=n data-v=''>–</td>"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"<td class=n data-v='{float(value)!r}'>{_number(value)}</td>"
    return f"<td>{escape(str(value))}</td>"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{int(value)}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.3g}"


def _words(name: str) -> str:
    return name.replace("_", " ")


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Delay neural operators: report</title><style>
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:1080px;margin:0 auto;padding:1.2rem}
h1{font-size:1.5rem;line-height:1.25;margin:.4rem 0}
h2{font-size:1.1rem;margin:2.2rem 0 .4rem;border-top:1px solid #ddd;padding-top:.8rem}
p{margin:.4rem 0}.quiet{color:#666;font-size:.87em}img{display:block;max-width:100%;height:auto;margin:.8rem auto}
.wide{overflow-x:auto}code{white-space:pre}table{border-collapse:collapse;font-size:.84rem;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #e5e5e5;white-space:nowrap;vertical-align:top}
th{color:#444;font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums}
.sortable th{cursor:pointer}.sortable th[aria-sort=ascending]::after{content:" ▲"}
.sortable th[aria-sort=descending]::after{content:" ▼"}
code{font-size:.9em;background:#f4f4f4;padding:.1em .3em;border-radius:3px;user-select:all}
.chip{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.4em}
.answer{list-style:none;padding:0}.answer li{margin:.7rem 0}
.family{display:inline-block;min-width:10.5rem;font-weight:600}
.answer code{white-space:normal;overflow-wrap:anywhere}
.wide img{min-width:min(100%,640px)}@media(max-width:640px){.wide img{max-width:none;width:640px}}
.columns{columns:2 22rem;overflow-wrap:anywhere;padding-left:1.2rem;font-size:.84rem}
input{font:inherit;padding:.1rem .4rem}
details{margin:1rem 0}
@media print{body{max-width:none;padding:0;font-size:10pt}section{break-inside:avoid}
#filter{display:none}.wide{overflow:visible}
td,th{white-space:normal;overflow-wrap:anywhere;font-size:7pt;padding:.1rem .2rem}}
</style></head><body>
{body}
<script>
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[i].dataset.v ?? row.cells[i].textContent;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }));
}
const filter = document.getElementById("filter");
if (filter) filter.addEventListener("input", () => {
  for (const row of document.querySelectorAll("#configurations tbody tr"))
    row.hidden = !row.textContent.toLowerCase().includes(filter.value.toLowerCase());
});
</script></body></html>
"""
