"""What the tables of bad inputs share: a place to put them, the commands, and what must hold of every answer."""

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import tiny

CANARY = "executed"  # the file that every payload would make
SECRET = "hunter2"  # a password that no answer may repeat


@dataclass
class Place:
    """A folder of its own for one case: good datasets in `data`, nothing in `results`."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def canary(self) -> Path:
        return self.root / CANARY

    def split(self, name: str = "val") -> Path:
        return self.data / "cosine" / f"{name}.h5"

    def search(self, *more: object) -> list[object]:
        """A search that would be fine."""
        fine = ["--model", "method_of_steps", "--family", "cosine", "--max_epochs", 1, "--n_trials", 1]
        fine += ["--n_workers", 1, "--confirm_top", 0]
        fine += ["--wandb_mode", "disabled", "--data_root", self.data, "--results_dir", self.results]
        return ["search", *fine, *more]

    def report(self, *more: object) -> list[object]:
        return ["report", "--results_dir", self.results, "--output_dir", self.root / "pictures", *more]

    def load(self, name: str = "model.pt") -> list[object]:
        return ["load", self.root / name]


@dataclass(frozen=True)
class Case:
    """One bad input: `prepare(place)` makes it and returns the command line, `words` must be in the one line."""

    prepare: Callable[[Place], list[object]]
    words: tuple[str, ...]
    code: int = 2
    about: str = field(default="")


def case(prepare: Callable[[Place], list[object]], *words: str, code: int = 2) -> Case:
    return Case(prepare, words, code)


def flags(*arguments: object) -> Callable[[Place], list[object]]:
    """A good search but for these flags."""
    return lambda place: place.search(*arguments)


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


def call(command: list[object]) -> Answer:
    """Runs a command line in this process: `search`, `report`, `generate` or `load` (the product door), and flags."""
    name, *arguments = map(str, command)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = COMMANDS[name](arguments)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    return Answer(code, out.getvalue(), err.getvalue())


def _search(arguments: list[str]) -> int:
    from hyperparameter_search import main

    return main(arguments)


def _report(arguments: list[str]) -> int:
    from advanced_visualizations import main

    return main(arguments)


def _generate(arguments: list[str]) -> int:
    import signal

    from data.generate import main

    before = signal.getsignal(signal.SIGTERM)
    try:
        return main(arguments)
    finally:
        signal.signal(signal.SIGTERM, before)


def _load(arguments: list[str]) -> int:
    import dno

    try:
        dno.load(arguments[0])
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


COMMANDS = {"search": _search, "report": _report, "generate": _generate, "load": _load}


def make_place(root: Path, data_root: Path) -> Place:
    """A fresh place with copies of the datasets."""
    place = Place(root)
    (place.data / "cosine").mkdir(parents=True)
    for path in (data_root / "cosine").iterdir():
        place.split(path.stem).write_bytes(path.read_bytes())
    return place


def files(root: Path) -> dict[str, bytes | str]:
    """Everything below a folder but lock files: bytes of files, kinds of all else."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        if ".locks" in path.parts or path.name == ".generate.lock":
            continue
        is_file = path.is_file() and not path.is_symlink()
        is_file &= path.exists() and path.stat().st_size < 2**30
        found[str(path.relative_to(root))] = path.read_bytes() if is_file else f"{path.is_dir()} {path.is_symlink()}"
    return found


def assert_refused(place: Place, given: Case) -> None:
    """The exit code, one line with these words, no traceback; nothing written, changed, lost or executed."""
    command = given.prepare(place)
    before = files(place.root)
    answer = call(command)
    assert answer.code == given.code, answer
    assert "Traceback" not in answer.err + answer.out
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1 and answer.err.endswith("\n"), answer.err
    missing = [word for word in given.words if word not in answer.err]
    assert not missing, f"{missing} not in {answer.err}"
    assert len(answer.err) < 1000 and SECRET not in answer.err + answer.out, answer.err
    assert not place.canary.exists(), "a payload was executed"
    assert files(place.root) == before, "something was written or changed"


def make_data(root: Path) -> Path:
    return tiny.make_data(root)
