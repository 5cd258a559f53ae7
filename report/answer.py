"""The head of the page: which operator wins on each family, by how much, at what cost, and how sure that is."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape

from report import style
from report.analysis import Analysis
from report.metrics import Metric, label
from report.tables import endings, rerun_command

FAR = 3.0  # times: an error this far above another one is worth a warning
MOST_REASONS = 5  # of failures, the most frequent ones
FACTS = (  # what a card says of its configuration: column, words
    ("rollout_error", "{} over twice the horizon"),
    ("tau_rel_error", "{} at larger delays"),
    ("stability_score", "stability {}"),
    ("n_parameters", "{} parameters"),
    ("train_seconds", "{} s of training"),
    ("inference_ms", "{} ms a trajectory"),
)


def answer(analysis: Analysis) -> str:
    """The section as HTML."""
    if analysis.winners.empty:
        return f"<h2 id=answer>The answer</h2><p>No operator can be named yet.</p>{_reasons(analysis)}"
    metric = analysis.metric
    cards = "".join(_card(winner, analysis) for winner in analysis.winners.to_dict("records"))
    note = (
        f"Chosen by {label(metric.ranking)}, shown with {metric.label}; test values never choose. Each command trains "
        "its configuration again. ± is the standard deviation over trainings with fresh seeds; where there are such "
        "trainings, all numbers are means over them. Errors are means over trajectories."
    )
    return (
        f"<h2 id=answer>The best operator of each family</h2><p class=headline>{escape(headline(analysis))}</p>"
        f"<div class=cards>{cards}</div><p class=quiet>{escape(note)}</p>"
    )


def headline(analysis: Analysis) -> str:
    """The answer in one sentence."""
    families: dict[str, list[str]] = defaultdict(list)
    for row in analysis.winners.to_dict("records"):
        families[row["model"]].append(row["family"])
    rivals = analysis.best.groupby("family")["model"].nunique()
    alone = [row["family"] for row in analysis.winners.to_dict("records") if rivals[row["family"]] == 1]
    note = f" No other operator has a complete trial on {_listed(alone)}." if alone else ""
    ordered = sorted(families.items(), key=lambda item: -len(item[1]))
    if len(ordered) == 1 and len(analysis.winners) > 1 and not alone:
        return f"Use {ordered[0][0]}: it is ahead on all {len(analysis.winners)} families."
    return f"Use {'; '.join(f'{model} on {_listed(names)}' for model, names in ordered)}.{note}"


def caution(
    winner: Mapping[str, object], rivals: Sequence[Mapping[str, object]], *, higher_is_better: bool = False
) -> str | None:
    """Why the answer of a family is not settled, or None.

    `rivals` are the other operators' best, best first. Confirmed answers are settled when no rival is better by the
    metric that is shown, and the runner-up lies farther away than both spreads together.
    """
    sign = -1 if higher_is_better else 1
    ahead = [row["model"] for row in rivals if sign * row["value"] < sign * winner["value"]]
    verb = "is" if len(ahead) == 1 else "are"
    by_value = (
        f"Not settled: validation chose, but by the value shown {_listed(ahead)} {verb} ahead." if ahead else None
    )
    if not winner["confirmed"] or winner["n_runs"] < 2:
        once = (
            "Confirmed by one fresh seed: with more (--confirm_seeds 3) the spread would be known."
            if winner["confirmed"]
            else "One training only: --confirm_top 3 trains the best again with fresh seeds."
        )
        return f"{once} {by_value}" if by_value else once
    near = [row for row in rivals if abs(row["value"] - winner["value"]) <= winner["spread"] + _known(row["spread"])]
    if near:
        verb = "lies" if len(near) == 1 else "lie"
        return f"Not settled: {_listed([row['model'] for row in near])} {verb} within the spread."
    return by_value


def _reasons(analysis: Analysis) -> str:
    """Why there is no answer: what became of the runs, and what the failed ones say."""
    counts = endings(analysis.runs).value_counts()
    lines = [f"{number} {status}" for status, number in counts.items()]
    failed = analysis.runs.loc[analysis.runs["status"] == "failed", "reason"].value_counts().head(MOST_REASONS)
    lines += [f"{number} × failed: {reason or 'no reason given'}" for reason, number in failed.items()]
    missing = analysis.configurations
    if len(missing):
        lines.append(f"no complete run has the metric {analysis.metric.ranking}, which chooses")
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def contradiction(winner: Mapping[str, object], metric: Metric) -> str | None:
    """Where an error is far above that on validation, or above its own median: a few trajectories make it, or None."""
    value, chosen, median = (_number(winner.get(name)) for name in ("value", "ranking", f"{metric.column}_median"))
    if metric.higher_is_better or not metric.column.startswith("test_") or not math.isfinite(value):
        return None
    said = []
    if metric.ranking == metric.column.replace("test_", "val_") and value > FAR * chosen:
        said.append(f"Validation promised {number(chosen)}: do not rely on this operator before it is trained again.")
    if value > FAR * median:
        said.append(f"The error is a mean over trajectories, and a few make it: the median is {number(median)}.")
    return " ".join(said) or None


def number(value: float) -> str:
    """A number for reading: whole, or three digits."""
    if not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{int(value):,}".replace(",", "\u202f") if abs(value) >= 1e4 else f"{int(value)}"
    return f"{value:#.3g}".removesuffix(".") if 1e-4 <= abs(value) < 1e6 else f"{value:.2e}".replace("e-0", "e-")


def chip(model: str, analysis: Analysis) -> str:
    """The operator's name with its colour."""
    return f"<span class=chip style='--colour:{style.colour(model, analysis.runs['model'])}'></span>{escape(model)}"


def command(path: object) -> str:
    """The command that trains a run again, with a button that copies it."""
    text = escape(rerun_command(str(path)))
    return f"<div class=command><code>{text}</code><button class=copy type=button>copy</button></div>"


def _card(winner: Mapping[str, object], analysis: Analysis) -> str:
    metric, colour = analysis.metric, style.colour(str(winner["model"]), analysis.runs["model"])
    of_family = analysis.best[analysis.best["family"] == winner["family"]]
    ordered = of_family.sort_values("ranking", ascending=not metric.higher_is_better).to_dict("records")
    rivals = [row for row in ordered if row["model"] != winner["model"]]
    spread = f" <small>± {winner['spread']:.2g}</small>" if math.isfinite(winner["spread"]) else ""
    facts = [words.format(number(winner[name])) for name, words in FACTS if _has(winner, name, metric.column)]
    doubts = caution(winner, rivals, higher_is_better=metric.higher_is_better), contradiction(winner, metric)
    doubt = " ".join(filter(None, doubts))
    once = "one training with a fresh seed" if winner["confirmed"] else "one training"
    trainings = f"mean of {winner['n_runs']} trainings" if winner["n_runs"] > 1 else once
    return (
        f"<article class=card style='--colour:{colour}'><h3>{escape(str(winner['family']))}</h3>"
        f"<div class=operator>{chip(str(winner['model']), analysis)}</div>"
        f"<div class=value>{number(winner['value'])}{spread}</div>"
        f"<div class=quiet>{escape(metric.label)}, {trainings}</div>{_rivals([winner, *rivals], analysis)}"
        f"<div class=quiet>{escape('; '.join(facts))}</div>"
        f"{f'<p class={chr(34)}quiet warn{chr(34)}>{escape(doubt)}</p>' if doubt else ''}{command(winner['path'])}"
        "</article>"
    )


def _rivals(rows: Sequence[Mapping[str, object]], analysis: Analysis) -> str:
    """A bar for every operator's best."""
    values = [float(row["value"]) for row in rows]
    longest = max((value for value in values if math.isfinite(value)), default=0.0)
    if len(rows) < 2 or longest <= 0:
        return ""
    lines = []
    for row, value in zip(rows, values, strict=True):
        width = 100 * value / longest if math.isfinite(value) and value > 0 else 0
        colour = style.colour(str(row["model"]), analysis.runs["model"])
        spread = f" ± {row['spread']:.1g}" if math.isfinite(row["spread"]) else ""
        lines.append(
            f"<span>{escape(str(row['model']))}</span><span class=bar style='width:{width:.1f}%;--colour:{colour}'>"
            f"</span><span class=n>{number(value)}{spread}</span>"
        )
    return f"<div class=rivals>{''.join(lines)}</div>"


def _has(row: Mapping[str, object], name: str, shown: str) -> bool:
    return name != shown and isinstance(row.get(name), int | float) and math.isfinite(row[name])


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
