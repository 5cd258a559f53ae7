"""The learning curves of benchmarks/accuracy.py: validation error over CPU seconds, a panel per family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.pictures import GREY, STYLE

LOOKS = {  # the report's colours; every operator has a line style of its own, for print in grey
    "stacked_history": ("#0072B2", "-"),
    "method_of_steps": ("#D55E00", "--"),
    "memory_kernel": ("#009E73", "-."),
    "joint_fno": (GREY, ":"),
}
WORDS = {"joint_fno": "Fourier operator, joint grid"}


def draw(records: Sequence[dict[str, object]], path: Path) -> None:
    """One thin line per training, its last value marked; written to `path`."""
    families = list(dict.fromkeys(str(r["family"]) for r in records if r.get("curve")))
    if not families:
        return
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.4), layout="constrained")
        panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
        for axes, family in zip(panels, families, strict=True):
            for record in records:
                if record["family"] == family and record.get("curve"):
                    color, dashes = LOOKS[str(record["operator"])]
                    seconds, errors = zip(*record["curve"], strict=True)
                    axes.semilogy(seconds, errors, color=color, linestyle=dashes, linewidth=1.0)
                    axes.plot(seconds[-1], errors[-1], ".", color=color, markersize=5)
            axes.set(title=family, xlabel="CPU seconds")
        panels[0].set_ylabel("validation error")
        known = {str(r["operator"]) for r in records if r.get("curve")}
        lines = [mpl.lines.Line2D([], [], color=c, linestyle=d) for name, (c, d) in LOOKS.items() if name in known]
        names = [WORDS.get(name, name) for name in LOOKS if name in known]
        figure.legend(lines, names, loc="outside lower center", ncols=len(names))
        figure.savefig(path, dpi=170)
