"""What the report takes over a large results folder: CPU seconds, page size, whether torch is imported.

    python benchmarks/report.py                 # 300 synthetic runs of twelve studies

The command of the report runs in a process of its own on one core. The table is printed and written to
benchmarks/measured/report.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.record import OUTPUT, write_results  # noqa: E402

N_STUDIES, TRIALS = 12, 25
MOST_SECONDS, MOST_BYTES = 60.0, 8e6
CODE = (
    "import atexit, runpy, sys; atexit.register(lambda: print('torch' in sys.modules)); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--trials", type=int, default=TRIALS, help=f"of each of {N_STUDIES} studies (default: {TRIALS})"
    )
    parser.add_argument("--formats", default="png", help="of the figures (default: png)")
    parser.add_argument("--output", type=Path, default=OUTPUT / "report.json")
    return parser.parse_args(arguments)


def cpu_seconds() -> float:
    """Seconds of a core that the ended child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(folder: Path, trials: int, formats: str) -> dict[str, float | bool | int]:
    """Draws the report of synthetic runs in this folder. Raises CalledProcessError where it fails."""
    from tests.run_folders import make_results

    n_runs = len(make_results(folder / "results", trials=trials, confirmations=0))
    script = f"import sys; sys.argv[:] = sys.argv[1:]; {CODE}"
    command = [str(ROOT / "advanced_visualizations.py"), "--formats", formats]
    command += ["--results_dir", str(folder / "results"), "--output_dir", str(folder / "report")]
    before = cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=ROOT, capture_output=True, text=True, check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    )  # fmt: skip
    seconds = cpu_seconds() - before
    figures = json.loads((folder / "report" / "visualization_report.json").read_text())["figures"]
    return {
        "n_runs": n_runs,
        "cpu_seconds": seconds,
        "page_bytes": (folder / "report" / "report.html").stat().st_size,
        "n_figures": len(figures),
        "imports_torch": done.stdout.splitlines()[-1] != "False",
    }


def main() -> int:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.trials, arguments.formats)
    rows = [
        ("CPU seconds of one core", found["cpu_seconds"], "s", MOST_SECONDS),
        ("size of report.html", found["page_bytes"] / 1e6, "MB", MOST_BYTES / 1e6),
        ("torch imported", float(found["imports_torch"]), "", 0.0),
    ]
    rows = [
        {"name": name, "value": value, "unit": unit, "target": target, "holds": value <= target}
        for name, value, unit, target in rows
    ]
    print(f"{found['n_runs']} runs of {N_STUDIES} studies, {found['n_figures']} figures and interactive pages")
    for row in rows:
        print(f"{row['name']}: {row['value']:.3g} {row['unit']} (at most {row['target']:g}), holds: {row['holds']}")
    write_results(
        arguments.output,
        device=f"cpu, {os.cpu_count()} cores",
        command=f"python benchmarks/report.py --trials {arguments.trials} --formats {arguments.formats}",
        rows=rows,
        **found,
    )
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
