"""report.html: one page that works offline and is read top to bottom, the answer first."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from experiment_tracker import write_atomically
from report.analysis import Analysis
from report.answer import answer
from report.explorer import cell, explorer
from report.figures import NOTES, TITLES
from report.front import front
from report.metrics import DEFINITIONS
from report.tables import endings

HEATMAP = "heatmap_"
PNG_WIDTH = slice(16, 20)  # where a PNG tells its width
SMALL = 1500  # pixels: a figure of one column
KINDS = ("history", "timeline", "slice", "contour", "parallel", "intermediate", "edf", "pareto")


@dataclass(frozen=True)
class Picture:
    """A figure on the page. `png` are its bytes; `files` are the names of its files beside the page."""

    stem: str
    reading: str
    png: bytes
    title: str = ""
    files: tuple[str, ...] = ()
    is_open: bool = True  # whether a folded figure begins unfolded


def write_page(
    path: Path,
    analysis: Analysis,
    pictures: Sequence[Picture],
    *,
    interactive: Mapping[str, Mapping[str, str]],
    problems: Sequence[str],
    source: str,
    top: int,
) -> None:
    """Writes the page under a temporary name, then renames it.

    `interactive` holds for every study (or "all studies") the file of every kind.
    """
    figures, explore, links = _figures(pictures), explorer(analysis, top), _links(interactive)
    fronts = front(analysis, interactive)
    body = [
        "<header><h1>Delay neural operators: which one, and why</h1>",
        f"<p class=quiet>{escape(_runs_sentence(analysis, source))}</p>",
        _navigation(pictures, bool(fronts), "id=explore>" in explore, bool(links)),
        "</header><main>",
        answer(analysis),
        fronts,
        _problems(problems),
        *figures,
        explore,
        _studies(analysis),
        links,
        _definitions(analysis),
        "</main>",
    ]
    folder = Path(__file__).parent
    text = _TEMPLATE.replace("{css}", (folder / "page.css").read_text(encoding="utf-8"))
    head, tail = text.replace("{js}", (folder / "page.js").read_text(encoding="utf-8")).split("{body}")
    page = head + "\n".join(part for part in body if part) + tail
    write_atomically(path, lambda partial: partial.write_text(page, encoding="utf-8"), is_flushed=False)


def _runs_sentence(analysis: Analysis, source: str) -> str:
    counts = endings(analysis.runs).value_counts()
    parts = ", ".join(f"{number} {status}" for status, number in counts.items())
    days = sorted({created[:10] for created in analysis.runs["created"] if created})
    when = f" {days[0]}" if len(days) == 1 else f" {days[0]} to {days[-1]}" if days else ""
    return (
        f"{_count(len(analysis.runs), 'run')} of {_count(len(analysis.models), 'study', 'studies')} in {source},"
        f"{when}: {parts}."
    )


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _navigation(pictures: Sequence[Picture], has_fronts: bool, has_explorer: bool, has_links: bool) -> str:
    entries = [("answer", "Answer")] + ([("front", "Pareto front")] if has_fronts else [])
    entries += [(picture.stem, _title(picture)) for picture in pictures if not picture.stem.startswith(HEATMAP)]
    entries += [("maps", "Landscapes")] if any(picture.stem.startswith(HEATMAP) for picture in pictures) else []
    entries += [("explore", "Explore")] if has_explorer else []
    entries += [("studies", "Studies")] + ([("interactive", "Interactive")] if has_links else [])
    links = "".join(f"<a href='#{escape(name, quote=True)}'>{escape(text)}</a>" for name, text in entries)
    return f"<nav aria-label=sections>{links}</nav>"


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    lines = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    number = _count(len(problems), "remark")
    return f"<details id=remarks><summary>{number} on what was read and drawn</summary><ul>{lines}</ul></details>"


def _figures(pictures: Sequence[Picture]) -> list[str]:
    """A section per figure, the heatmaps folded in one."""
    maps = [picture for picture in pictures if picture.stem.startswith(HEATMAP)]
    sections, is_begun = [], False
    for picture in pictures:
        if picture not in maps:
            title = escape(_title(picture))
            sections.append(f"<section id='{_quoted(picture.stem)}'><h2>{title}</h2>{_figure(picture)}</section>")
        elif not is_begun:
            folded = "".join(
                f"<details{' open' if one.is_open else ''}><summary>{escape(_title(one))}</summary>{_figure(one)}"
                "</details>"
                for one in maps
            )
            sections.append(
                f"<section id=maps class=maps><h2>{TITLES['heatmap']}</h2><p class=quiet>"
                f"{escape(NOTES['heatmap'])}</p>{folded}</section>"
            )
            is_begun = True
    return sections


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    note = f"<p class=quiet>{escape(NOTES[picture.stem])}</p>" if picture.stem in NOTES else ""
    files = " · ".join(f"<a href='{_quoted(name)}'>{escape(name)}</a>" for name in picture.files)
    reading = f"<p class=reading>{escape(picture.reading)}</p>" if picture.reading else ""
    small = " class=small" if int.from_bytes(picture.png[PNG_WIDTH]) < SMALL else ""
    image = (
        f"<img{small} data-figure='{_quoted(picture.stem)}' alt='{_quoted(_title(picture))}' "
        f"src='data:image/png;base64,{data}'>"
    )
    return (
        f"{reading}<figure><div class=scroll>{image}</div><figcaption>{note}<p class=quiet>{files}</p></figcaption>"
        "</figure>"
    )


def _title(picture: Picture) -> str:
    return picture.title or TITLES.get(picture.stem, picture.stem.replace("_", " "))


def _studies(analysis: Analysis) -> str:
    columns = [name for name, values in analysis.counts.items() if name == "complete" or values.any()]
    heads = "".join(f"<th scope=col>{escape(name)}</th>" for name in ["study", "operator", *columns[2:]])
    rows = "".join(
        "<tr>" + "".join(cell(row[name]) for name in columns) + "</tr>" for row in analysis.counts.to_dict("records")
    )
    return (
        f"<h2 id=studies>Studies</h2><div class=scroll><table class=sortable><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _links(interactive: Mapping[str, Mapping[str, str]]) -> str:
    """A row per study with the plots that it has."""
    if not interactive:
        return ""
    rows = "".join(
        f"<tr><td>{escape(title)}</td><td>"
        + " ".join(f"<a href='{_quoted(files[kind])}'>{kind}</a>" for kind in KINDS if kind in files)
        + "</td></tr>"
        for title, files in interactive.items()
    )
    return (
        "<h2 id=interactive>Interactive plots</h2><p class=quiet>Files beside this page, which work offline as well."
        f"</p><div class=scroll><table class=links><tbody>{rows}</tbody></table></div>"
    )


def _definitions(analysis: Analysis) -> str:
    there = [(name, words) for name, words in DEFINITIONS.items() if analysis.runs.get(name) is not None]
    if not there:
        return ""
    lines = "".join(f"<li><b>{escape(name)}</b>: {escape(words)}</li>" for name, words in there)
    return f"<details><summary>What the metrics mean</summary><ul class=quiet>{lines}</ul></details>"


def _quoted(text: str) -> str:
    return escape(text, quote=True)


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>Delay neural operators: report</title><style>
{css}</style></head><body>
{body}
<script>
{js}</script></body></html>
"""
