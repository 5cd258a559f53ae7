"""Long forms of the reliability tests.

python -m tests.faults kills --kills 200 --seed 0     # a search killed 200 times; a seed repeats its plan of kills
python -m tests.faults integrity                      # 600 flipped bits and 200 cuts of a dataset and of checkpoints
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]


def main() -> int:
    """Runs one of them; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    kinds = parser.add_subparsers(dest="kind", required=True)
    kills = kinds.add_parser("kills", help="kill a search at random moments and look for what is lost")
    kills.add_argument("--kills", type=int, default=200, metavar="N")
    kills.add_argument("--seed", type=int, default=0, metavar="INT", help="of the first study; the next have the next")
    kills.add_argument("--storage", choices=("journal", "postgresql"), default="journal")
    kills.add_argument("--pruner", choices=("hyperband", "promote"), default="hyperband")
    integrity = kinds.add_parser("integrity", help="damage datasets and checkpoints and read them")
    integrity.add_argument("--flips", type=int, default=600, metavar="N")
    integrity.add_argument("--cuts", type=int, default=200, metavar="N")
    integrity.add_argument("--seed", type=int, default=0, metavar="INT")
    fuzz = kinds.add_parser("fuzz", help="mutate files and read them; needs tests/faults/requirements-fuzz.txt")
    fuzz.add_argument("--reader", choices=("dataset", "run_folder", "checkpoint"), required=True)
    fuzz.add_argument("--seconds", type=int, default=600, metavar="N")
    fuzz.add_argument("--seed", type=int, default=1, metavar="INT")
    fuzz.add_argument("--found", type=Path, default=Path("fuzz"), metavar="PATH", help="folder for what broke a reader")
    soak = kinds.add_parser("soak", help="run many tiny trials and watch what grows")
    soak.add_argument("--trials", type=int, default=300, metavar="N", help="at least 100")
    soak.add_argument(
        "--output", type=Path, default=Path("soak"), metavar="PATH", help="folder for soak.png, soak.json"
    )
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # servers and folders are cleared away
    if given.kind == "kills":
        from tests.faults.kills import run, summary

        reports = run(given.seed, given.kills, given.storage, given.pruner)
        print(summary(reports))
        return 1 if any(report.problems for report in reports) else 0
    if given.kind == "soak":
        from tests.faults.soak import run as soak_searches

        if given.trials < 100:
            parser.error(f"--trials: expected at least 100, got {given.trials}: growth counts from the fiftieth on")
        soaks = soak_searches(given.trials, given.output)
        print("\n".join(each.line() for each in soaks))
        return 0 if all(each.has_held() for each in soaks) else 1
    if given.kind == "fuzz":
        from tests.faults.fuzz import run as fuzz_reader

        line, has_held = fuzz_reader(given.reader, given.seconds, given.seed, given.found / given.reader)
        print(line)
        return 0 if has_held else 1
    from tests.faults.integrity import run as damage

    tallies = damage(given.flips, given.cuts, given.seed)
    print("\n".join(tally.line(given.flips, given.cuts) for tally in tallies))
    return 1 if any(tally.wrong for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
