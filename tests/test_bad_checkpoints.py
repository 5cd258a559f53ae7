"""Bad checkpoints: `dno.load` refuses each in one line, quickly, without running anything or asking for all memory."""

import hashlib
import json
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import dno
from dno.checkpoint import NO_DIGEST
from tests.bad_inputs import Place, assert_refused, case
from tests.test_bad_datasets import Payload

SPEC = dno.OperatorSpec(1, 8, ("a",), frozenset({"positive"}))
SMALL = {"width": 4, "n_layers": 1, "fourier_modes_t": 4}


def make(path: Path, model: str = "method_of_steps", **hyperparameters: object) -> Path:
    torch.manual_seed(0)
    dno.save(dno.build_operator(model, SMALL | hyperparameters, SPEC), path, {"study": "s"})
    return path


def content(change: Callable[[bytes], bytes]) -> Callable[[Place], list[object]]:
    """The bytes of a checkpoint, changed."""

    def prepare(place: Place) -> list[object]:
        path = make(place.root / "model.pt")
        path.write_bytes(change(path.read_bytes()))
        return place.load()

    return prepare


def sealed(header: dict[str, object], data: bytes) -> bytes:
    """A file with this header whose sha256 is right: made by somebody who knows the format."""
    if isinstance(header.get("__metadata__"), dict) and "sha256" in header["__metadata__"]:
        header["__metadata__"]["sha256"] = NO_DIGEST
    text = json.dumps(header, separators=(",", ":")).encode()
    whole = len(text).to_bytes(8, "little") + text + data
    return whole.replace(NO_DIGEST.encode(), hashlib.sha256(whole).hexdigest().encode(), 1)


def parts(whole: bytes) -> tuple[dict[str, object], bytes]:
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def header(change: Callable[[dict], object]) -> Callable[[Place], list[object]]:
    """The header changed, and sealed again."""

    def altered(before: bytes) -> bytes:
        described, data = parts(before)
        change(described)
        return sealed(described, data)

    return content(altered)


def described(**changes: object) -> Callable[[Place], list[object]]:
    return header(lambda head: head["__metadata__"].update(changes))


def hyperparameters(**changes: object) -> Callable[[Place], list[object]]:
    def change(head: dict) -> None:
        table = head["__metadata__"]
        table["hyperparameters"] = json.dumps(json.loads(table["hyperparameters"]) | changes)

    return header(change)


def spec(**changes: object) -> Callable[[Place], list[object]]:
    def change(head: dict) -> None:
        table = head["__metadata__"]
        table["spec"] = json.dumps(json.loads(table["spec"]) | changes)

    return header(change)


def first_tensor(**changes: object) -> Callable[[Place], list[object]]:
    return header(lambda head: next(value for name, value in head.items() if name != "__metadata__").update(changes))


def not_a_number(before: bytes) -> bytes:
    head, data = parts(before)
    return sealed(head, np.float32("nan").tobytes() + data[4:])


def flipped(before: bytes) -> bytes:
    after = bytearray(before)
    after[-40] ^= 1
    return bytes(after)


def pickled(place: Place) -> list[object]:
    (place.root / "model.pt").write_bytes(pickle.dumps(Payload(str(place.canary))))
    return place.load()


def saved_by_torch(place: Place) -> list[object]:
    torch.save({"state": Payload(str(place.canary))}, place.root / "model.pt")
    return place.load()


def zipped(place: Place) -> list[object]:
    with zipfile.ZipFile(place.root / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload(str(place.canary))))
    return place.load()


def sparse(place: Place) -> list[object]:
    with open(place.root / "model.pt", "wb") as file:
        file.truncate(2**42)
    return place.load()


def folder(place: Place) -> list[object]:
    (place.root / "model.pt").mkdir()
    return place.load()


def pipe(place: Place) -> list[object]:
    os.mkfifo(place.root / "model.pt")
    return place.load()


CHECKPOINTS = {
    "missing": case(lambda place: place.load("none.pt"), "none.pt", "best_model.pt"),
    "folder": case(folder, "model.pt", "no such checkpoint"),
    "pipe": case(pipe, "model.pt", "no such checkpoint"),
    "empty": case(content(lambda before: b""), "model.pt", "train it again"),
    "seven bytes": case(content(lambda before: before[:7]), "model.pt", "train it again"),
    "half a header": case(content(lambda before: before[:100]), "model.pt", "train it again"),
    "header alone": case(
        content(lambda before: before[: 8 + int.from_bytes(before[:8], "little")]), "model.pt", "sha256", "cut"
    ),
    "without the last byte": case(content(lambda before: before[:-1]), "model.pt", "sha256", "train it again"),
    "a byte too many": case(content(lambda before: before + b"\0"), "model.pt", "sha256"),
    "a flipped bit": case(content(flipped), "model.pt", "sha256", "altered"),
    "no members": case(described(members="0"), "model.pt", "members", "whole number"),
    "more members than tensors": case(described(members="9999"), "model.pt", "members", "whole number"),
    "members that are not there": case(described(members="2"), "model.pt", "expected"),
    "text": case(content(lambda before: b"weights, please"), "model.pt", "train it again"),
    "zeros": case(content(lambda before: bytes(4096)), "model.pt", "train it again"),
    "four terabytes": case(sparse, "model.pt", "bytes"),
    "gigantic header": case(content(lambda before: (2**60).to_bytes(8, "little") + before[8:]), "model.pt", "header"),
    "deep header": case(
        content(lambda before: (10**5).to_bytes(8, "little") + b"[" * 10**5), "model.pt", "train it again"
    ),
    "long number": case(
        content(lambda before: (6002).to_bytes(8, "little") + b'{"a":' + b"9" * 5996 + b"}"), "model.pt", "again"
    ),
    "list": case(content(lambda before: (4).to_bytes(8, "little") + b"[{}]"), "model.pt", "describes nothing"),
    "pickle with a payload": case(pickled, "model.pt", "train it again"),
    "payload saved by torch": case(saved_by_torch, "model.pt", "train it again"),
    "payload in a zip": case(zipped, "model.pt", "train it again"),
    "another format": case(described(format="llama"), "model.pt", "delay neural operator"),
    "another version": case(described(format_version="99"), "model.pt", "format version 99, expected"),
    "another operator": case(described(operator="stacked_history"), "model.pt"),
    "unknown operator": case(described(operator="fno"), "model.pt", "fno", "memory_kernel"),
    "operator that is a list": case(described(operator=["a"]), "model.pt"),
    "no sha256": case(header(lambda head: head["__metadata__"].pop("sha256")), "model.pt", "sha256"),
    "weights of another width": case(hyperparameters(width=6), "model.pt", "weights of another operator"),
    "unknown hyperparameter": case(hyperparameters(depth=6), "model.pt", "depth", "width"),
    "hyperparameters that are no table": case(described(hyperparameters="[1]"), "model.pt"),
    "hyperparameters that are no JSON": case(described(hyperparameters="{"), "model.pt"),
    "width without end": case(hyperparameters(width=10**9), "model.pt", "width", "at most"),
    "wider than its file": case(hyperparameters(width=4096), "model.pt", "larger operator"),
    "layers without end": case(hyperparameters(n_layers=10**9), "model.pt", "n_layers", "at most"),
    "points without end": case(spec(points_per_delay=10**12), "model.pt", "spec"),
    "no channels": case(spec(channels=0), "model.pt", "spec"),
    "channels in words": case(spec(channels="one"), "model.pt", "spec"),
    "names that are numbers": case(spec(parameter_names=[1]), "model.pt", "spec"),
    "names without end": case(spec(parameter_names=None), "model.pt", "describes no operator"),
    "shape that does not fit": case(first_tensor(shape=[3]), "model.pt", "does not fit"),
    "negative shape": case(first_tensor(shape=[-1]), "model.pt", "shape"),
    "shape without end": case(first_tensor(shape=[2**40, 2**40]), "model.pt", "does not fit"),
    "bytes past the end": case(first_tensor(data_offsets=[2**50, 2**50 + 4]), "model.pt", "does not fit"),
    "bytes backwards": case(first_tensor(data_offsets=[4, 0]), "model.pt", "does not fit"),
    "unknown type": case(first_tensor(dtype="OBJECT"), "model.pt", "dtype"),
    "lost tensor": case(header(lambda head: head.pop("mean")), "model.pt", "mean", "nothing"),
    "weights that are no numbers": case(content(not_a_number), "model.pt", "not finite"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bad_checkpoint_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    began = time.process_time()
    assert_refused(Place(tmp_path), CHECKPOINTS[name])
    assert time.process_time() - began < 5.0


def test_sealed_file_is_read(tmp_path: Path) -> None:
    """What the cases above alter and seal again is good before."""
    path = make(tmp_path / "model.pt")
    path.write_bytes(sealed(*parts(path.read_bytes())))
    assert dno.load(path).hyperparameters["width"] == 4
