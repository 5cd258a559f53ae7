"""How every benchmark writes its results: one JSON file with the commit, the device and the command."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "measured"  # what the documentation cites is kept in benchmarks/results


def head() -> str:
    """The commit that is checked out."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def write_results(
    output: Path,
    *,
    device: str,
    command: str,
    rows: Sequence[Mapping[str, object]],
    is_quiet: bool = False,
    **more: object,
) -> None:
    """Writes `rows` of {name, value, unit, target, holds} and whatever else a benchmark found; never half a file."""
    from experiment_tracker import write_atomically  # loads numpy, which benchmarks prepare for first

    content = {"commit": head(), "device": device, "command": command, "rows": list(rows), **more}
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(output, lambda partial: partial.write_text(text, encoding="utf-8"))
    if not is_quiet:
        print(f"written to {output}")
