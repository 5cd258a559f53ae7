"""Fuzzing of the readers of datasets, run folders and checkpoints: whatever comes, only documented errors may leave.

libFuzzer, by atheris, mutates good files and keeps what reaches new lines of our readers. It sees Python alone: the C
code of HDF5 and torch is run by the same mutations, without being steered into. Checksums would stop most mutations at
the door, so half of those of checkpoints are sealed again, and datasets are also mutated in forms without checksums.
As a script it is the fuzzer itself; `run` starts that in a process of its own and sums up what it says.
"""

import argparse
import hashlib
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

READERS = ("dataset", "run_folder", "checkpoint")
LONGEST_FILE = 65_536  # bytes of one input
LONGEST_READ = 20  # seconds for one input; more is a hang
LARGEST_MEMORY = 3072  # MB
BETWEEN = b"\n=====\n"  # the files of a run folder, one after the other in one input
FILES = ("config.json", "metrics.csv", "final_results.json", "artifacts/predictions.npz")
SEALED = re.compile(rb'"sha256":"[^"]{64}"')


def seeds(reader: str, folder: Path) -> None:
    """Good files to begin with."""
    {"dataset": dataset_seeds, "run_folder": run_folder_seeds, "checkpoint": checkpoint_seeds}[reader](folder)


def dataset_seeds(folder: Path) -> None:
    """A file of ours, and two trajectories of it as others may write them: without checksums and filters."""
    import h5py

    from data import store
    from tests.faults import tiny

    data = tiny.make_data(folder / "made") / "cosine"
    shutil.copy(data / "val.h5", folder / "ours.h5")
    for libver in ("earliest", "latest"):
        target = folder / "made" / libver / "cosine" / "val.h5"
        target.parent.mkdir(parents=True)
        with h5py.File(data / "val.h5") as old, h5py.File(target, "w", libver=libver) as new:
            new.attrs.update({name: value for name, value in old.attrs.items() if name != "generator_config"})
            for name, values in old.items():
                length = old["offsets"][2] if name in ("solution", "time") else 3 if name == "offsets" else 2
                new[name] = values[:length]
                new[name].attrs.update(values.attrs)
        store.seal(target)
        shutil.move(target, folder / f"{libver}.h5")
    shutil.rmtree(folder / "made")


def run_folder_seeds(folder: Path) -> None:
    from tests.runs import finished_run

    made = finished_run(folder / "made")
    contents = [(made / name).read_bytes() for name in FILES]
    (folder / "finished").write_bytes(BETWEEN.join(contents))
    (folder / "unfinished").write_bytes(BETWEEN.join([*contents[:2], b"", contents[3]]))
    shutil.rmtree(folder / "made")


def checkpoint_seeds(folder: Path) -> None:
    import torch

    import dno
    from model_checkpoint import HEADER, PARTS
    from tests.faults.integrity import SPEC

    for model in dno.MODELS:
        torch.manual_seed(0)
        operator = dno.build_operator(model, {"width": 2, "n_layers": 1, "fourier_modes_t": 2}, SPEC)
        dno.save(operator, folder / f"{model}.pt", {"a": 1})
    buffer = io.BytesIO()
    torch.save({name: {"w": torch.ones(3)} for name in PARTS} | {"records": [(1, 0.5)]}, buffer)
    (folder / "training.pt").write_bytes(sealed(HEADER + b"0" * 64 + b"\n" + buffer.getvalue()))


def sealed(content: bytes) -> bytes:
    """A checkpoint of either kind with the sha256 that it should have, where it has a place for one."""
    from model_checkpoint import HEADER

    line, newline, rest = content.partition(b"\n")
    if line.startswith(HEADER) and newline:
        return HEADER + hashlib.sha256(rest).hexdigest().encode() + newline + rest
    found = SEALED.search(content)
    if found is None:
        return content
    place = found.start() + len('"sha256":"')
    content = content[:place] + b"0" * 64 + content[place + 64 :]
    return content[:place] + hashlib.sha256(content).hexdigest().encode() + content[place + 64 :]


def read_dataset(content: bytes, folder: Path) -> bool:
    """Whether these bytes are a good dataset."""
    from data import store

    path = folder / "cosine" / "val.h5"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    store.read_provenance(path)
    try:
        store.read(path)
    except store.DatasetError as error:
        assert "\n" not in str(error)
        return False
    return True


def read_run_folder(content: bytes, folder: Path) -> bool:
    """Whether these bytes are the files of a good run folder."""
    from experiment_tracker import RecordError, read_run, read_runs

    path = folder / "run"
    (path / "artifacts").mkdir(parents=True, exist_ok=True)
    parts = content.split(BETWEEN)
    for name, part in zip(FILES, [*parts, *[b""] * len(FILES)][: len(FILES)], strict=True):
        (path / name).write_bytes(part)
        if not part:
            (path / name).unlink()
    _, problems = read_runs(folder)
    assert not any("\n" in line for line in problems)
    try:
        run = read_run(path)
        changed = run.changed_artifacts()
        run.predictions()
    except (RecordError, FileNotFoundError):
        return False
    return not problems and changed in ([], ["artifacts/best_model.pt: missing"])


def read_checkpoint(content: bytes, folder: Path) -> bool:
    """Whether these bytes are a good checkpoint of either kind."""
    import dno
    import model_checkpoint

    path = folder / "best_model.pt"
    path.write_bytes(content)
    reader = model_checkpoint.read_checkpoint if content.startswith(model_checkpoint.HEADER) else dno.load
    try:
        reader(path)
    except ValueError as error:
        assert "\n" not in str(error)
        return False
    return True


TARGETS: dict[str, Callable[[bytes, Path], bool]] = {
    "dataset": read_dataset,
    "run_folder": read_run_folder,
    "checkpoint": read_checkpoint,
}


def fuzz(reader: str, arguments: list[str]) -> None:
    """Fuzzes in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["data", "dno", "tracking", "model_checkpoint", "json"]):
        for name in ("data.store", "dno", "experiment_tracker", "model_checkpoint"):
            importlib.import_module(name)
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))

    def mutated(content: bytes, longest: int, seed: int) -> bytes:
        content = atheris.Mutate(content, longest)
        return sealed(content)[:longest] if reader == "checkpoint" and seed % 2 else content

    def one_input(content: bytes) -> None:
        TARGETS[reader](content, folder)

    try:
        atheris.Setup([reader, *arguments], one_input, custom_mutator=mutated)
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(reader: str, seconds: int, seed: int, found: Path) -> tuple[str, bool]:
    """Fuzzes for so long in a process of its own; returns a line about it and whether all held.

    What broke the reader is put into the folder `found`.
    """
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        seeds(reader, Path(corpus))
        limits = [f"-max_total_time={seconds}", f"-timeout={LONGEST_READ}", f"-rss_limit_mb={LARGEST_MEMORY}"]
        limits += [f"-max_len={LONGEST_FILE}", "-len_control=0", f"-seed={seed or 1}", "-print_final_stats=1"]
        command = [sys.executable, __file__, reader, *limits, f"-artifact_prefix={found}/", corpus]
        with open(found / "log.txt", "wb") as log:
            code = subprocess.call(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        n_inputs = sum(1 for _ in Path(corpus).iterdir())
    said = (found / "log.txt").read_text(errors="replace")
    runs = re.search(r"number_of_executed_units: (\d+)", said)
    covered = re.findall(r"cov: (\d+)", said) or ["0"]
    counts = f"{int(runs[1]) if runs else 0} inputs read, {covered[0]} to {covered[-1]} places of our code reached"
    verdict = "no crash, no hang" if code == 0 else f"BROKEN (exit code {code}): see {found}"
    return f"{reader}: {seconds} s, {counts}, {n_inputs} inputs kept: {verdict}", code == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    given, rest = parser.parse_known_args()
    fuzz(given.reader, rest)
