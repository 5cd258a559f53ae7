"""Bad dataset files: the search refuses each in one line, changes nothing, runs nothing, and reads no other file."""

import os
import pickle
import socket
from collections.abc import Callable

import h5py
import numpy as np
import pytest

from tests import test_store
from tests.bad_inputs import Case, Place, assert_refused, case

MEND = "python -m data.generate"


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def content(change: Callable[[bytes], bytes], split: str = "val") -> Callable[[Place], list[object]]:
    """The bytes of a split, changed."""

    def prepare(place: Place) -> list[object]:
        path = place.split(split)
        path.write_bytes(change(path.read_bytes()))
        return place.search()

    return prepare


def inside(change: Callable[[h5py.File], object], split: str = "val") -> Callable[[Place], list[object]]:
    """A split, changed with HDF5."""

    def prepare(place: Place) -> list[object]:
        with h5py.File(place.split(split), "r+") as file:
            change(file)
        return place.search()

    return prepare


def flipped(share: float) -> Callable[[bytes], bytes]:
    """One bit flipped at a share of the file."""

    def change(before: bytes) -> bytes:
        after = bytearray(before)
        after[int(share * len(before))] ^= 4
        return bytes(after)

    return change


def first_chunk(before: bytes) -> bytes:
    """One bit flipped in the numbers of `solution`."""
    path = "chunk.h5"
    with open(path, "wb") as file:
        file.write(before)
    with h5py.File(path) as file:
        place = file["solution"].id.get_chunk_info(0).byte_offset
    os.remove(path)
    return flipped((place + 40) / len(before))(before)


def endless_heap(place: Place) -> list[object]:
    """A text of variable length whose heap ends in a free piece of length 0: HDF5 would loop there for ever."""
    path = place.split("val")
    with h5py.File(path, "r+") as file:
        file.attrs["equation"] = "of variable length"
    content = bytearray(path.read_bytes())
    at = content.rindex(b"GCOL", 0, content.index(b"of variable length")) + 16
    while content[at : at + 2] != b"\0\0":  # index of an object; its length stands 8 bytes on
        at += 16 + -(-int.from_bytes(content[at + 8 : at + 16], "little") // 8) * 8
    content[at + 8 : at + 16] = bytes(8)
    path.write_bytes(content)
    return place.search()


def pickled(place: Place) -> list[object]:
    place.split().write_bytes(pickle.dumps(Payload(str(place.canary))))
    return place.search()


def pickled_attribute(place: Place) -> list[object]:
    with h5py.File(place.split(), "r+") as file:
        file.attrs["traits"] = np.void(pickle.dumps(Payload(str(place.canary))))
    return place.search()


def instead(make: Callable[[str], object]) -> Callable[[Place], list[object]]:
    """Something else under the name of a split."""

    def prepare(place: Place) -> list[object]:
        place.split().unlink()
        make(str(place.split()))
        return place.search()

    return prepare


def make_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        directory, name = os.path.split(path)
        here = os.getcwd()
        os.chdir(directory)  # the path of a socket holds 107 bytes
        end.bind(name)
        os.chdir(here)


def set_attribute(name: str, value: object) -> Callable[[Place], list[object]]:
    return inside(lambda file: file.attrs.__setitem__(name, value))


def other_family(place: Place) -> list[object]:
    (place.data / "sine").mkdir()
    for split in ("train", "val", "test"):
        (place.data / "sine" / f"{split}.h5").write_bytes(place.split(split).read_bytes())
    return place.search("--family", "sine")


def noise_without_base(file: h5py.File) -> None:
    file.create_dataset("source", data=np.zeros(len(file["tau"]), "<i8"))


def unknown_filter(file: h5py.File) -> None:
    """A chunk that says it was packed by a filter which would be loaded from a plugin."""
    values = file["tau"][()]
    del file["tau"]
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((len(values),))
    creation.set_shuffle()
    space = h5py.h5s.create_simple(values.shape)
    made = h5py.h5d.create(file.id, b"tau", h5py.h5t.IEEE_F64LE, space, creation)
    made.write_direct_chunk((0,), b"\x00" * 3)


def terabytes(file: h5py.File) -> None:
    """8 TB by their shape, nothing on the disk."""
    del file["solution"], file["time"]
    file.create_dataset("solution", shape=(2 * 10**12, 1), dtype="<f4", chunks=(1024, 1))


def bomb(file: h5py.File) -> None:
    """400 MB of zeros in 400 kB."""
    del file["solution"], file["time"]
    file.create_dataset("solution", shape=(50_000_000, 1), dtype="<f4", chunks=(50_000_000, 1), compression="gzip")
    file["solution"][:1] = 0


DATASETS = {
    "empty": case(content(lambda before: b""), "val.h5", "truncated", MEND),
    "one byte": case(content(lambda before: before[:1]), "val.h5", "truncated", MEND),
    "half a signature": case(content(lambda before: before[:5]), "val.h5", "truncated"),
    "signature alone": case(content(lambda before: before[:8]), "val.h5", "truncated"),
    "half a superblock": case(content(lambda before: before[:30]), "val.h5", "truncated"),
    "superblock alone": case(content(lambda before: before[:48]), "val.h5", "truncated"),
    "headers alone": case(content(lambda before: before[:700]), "val.h5", "truncated"),
    "half": case(content(lambda before: before[: len(before) // 2]), "val.h5", "truncated"),
    "without the last byte": case(content(lambda before: before[:-1]), "val.h5", "truncated"),
    "train cut": case(content(lambda before: before[:-9], "train"), "train.h5", "truncated"),
    "test cut": case(content(lambda before: before[:-9], "test"), "test.h5", "truncated"),
    "a flipped bit in the superblock": case(content(flipped(0.001)), "val.h5", MEND),
    "a flipped bit in the numbers": case(content(first_chunk), "val.h5", MEND),
    "zeros": case(content(lambda before: bytes(len(before))), "val.h5", "HDF5"),
    "text": case(content(lambda before: b"tau,x\n1,2\n"), "val.h5", "HDF5"),
    "a heap of texts without end": case(endless_heap, "val.h5", "heap", MEND),
    "a pickle with a payload": case(pickled, "val.h5", "HDF5", MEND),
    "a pickle as an attribute": case(pickled_attribute, "val.h5", "'traits'"),
    "folder": case(instead(os.mkdir), "val.h5", "HDF5"),
    "link to nothing": case(instead(lambda path: os.symlink("/nowhere", path)), "val.h5", "no such dataset", MEND),
    "link to itself": case(instead(lambda path: os.symlink(path, path)), "val.h5", MEND),
    "pipe": case(instead(os.mkfifo), "val.h5", "it is not a file"),
    "device": case(instead(lambda path: os.symlink("/dev/zero", path)), "val.h5", "it is not a file"),
    "socket": case(instead(make_socket), "val.h5", "it is not a file"),
    "missing": case(instead(lambda path: None), "val.h5", "no such dataset", MEND),
    "another split": case(
        lambda p: [p.split().write_bytes(p.split("test").read_bytes()), *p.search()][1:], "val.h5", "'test'"
    ),
    "another family": case(other_family, "train.h5", "'cosine'", "'sine'"),
    "another version": case(set_attribute("format_version", 2), "val.h5", "'format_version'", "expected 1"),
    "another format": case(set_attribute("format", "csv"), "val.h5", "'format'", "dno-trajectories"),
    "traits that are numbers": case(set_attribute("traits", [1, 2]), "val.h5", "'traits'"),
    "traits in other letters": case(set_attribute("traits", b"\xff\xfe"), "val.h5", "'traits'"),
    "family in pieces": case(set_attribute("family", np.array([b"a", b"b"])), "val.h5", "'family'"),
    "family in two lines": case(set_attribute("family", "a\nb"), "val.h5", "family"),
    "half a point": case(set_attribute("points_per_delay", 8.5), "val.h5", "'points_per_delay'"),
    "points without end": case(set_attribute("points_per_delay", 2**40), "val.h5", "shape"),
    "other points than train": case(inside(test_store.assign("horizon", np.nan)), "val.h5", "'horizon'"),
    "horizon in text": case(set_attribute("horizon", "long"), "val.h5", "'horizon'"),
    "not a number": case(
        inside(test_store.edit("history", lambda h: test_store.put(h, 0, np.nan))), "val.h5", "not finite"
    ),
    "infinite": case(
        inside(test_store.edit("solution", lambda x: test_store.put(x, 3, np.inf))), "val.h5", "not finite"
    ),
    "no trajectories": case(inside(test_store.edit("tau", lambda tau: tau[:0])), "val.h5", "shape"),
    "negative delay": case(inside(test_store.edit("tau", lambda tau: -tau)), "val.h5", "'tau'", "positive"),
    "delay changed": case(inside(test_store.edit("tau", lambda tau: tau * 1.001)), "val.h5", MEND),
    "a value changed": case(inside(test_store.edit("params", lambda p: p * 1.001)), "val.h5", "altered"),
    "wrong type": case(inside(test_store.edit("solution", lambda x: x.astype("<f8"))), "val.h5", "float32"),
    "texts as numbers": case(inside(test_store.edit("tau", lambda tau: tau.astype("S"))), "val.h5", "'tau'"),
    "lost channel": case(inside(test_store.edit("history", lambda h: h[..., 0])), "val.h5", "'history'", "shape"),
    "lost row": case(inside(test_store.edit("history", lambda h: h[:, 1:])), "val.h5", "'history'", "shape"),
    "offsets that fall": case(inside(test_store.edit("offsets", lambda o: o[::-1].copy())), "val.h5", "'offsets'"),
    "noise without its level": case(inside(noise_without_base), "val.h5", "noise"),
    "unknown dataset": case(inside(lambda file: file.create_dataset("x", data=[1])), "val.h5", "unknown 'x'"),
    "group": case(inside(lambda file: file.create_group("x")), "val.h5", "unknown 'x'"),
    "named type": case(inside(lambda f: f.__setitem__("x", np.dtype("f8"))), "val.h5", "unknown 'x'"),
    "no tau": case(inside(lambda file: file.pop("tau")), "val.h5", "no dataset 'tau'"),
    "no seal": case(inside(test_store.assign("complete", None)), "val.h5", "not sealed", "--seal"),
    "terabytes": case(inside(terabytes), "val.h5", "declares"),
    "bomb": case(inside(bomb), "val.h5", "declares"),
    "soft link": case(inside(test_store.link_soft), "val.h5", "SoftLink"),
    "link to another file": case(inside(test_store.link_external), "val.h5", "ExternalLink"),
    "values of another file": case(inside(test_store.store_virtual), "val.h5", "other files"),
    "values of /etc/passwd": case(inside(test_store.store_external), "val.h5", "other files"),
    "damaged chunk": case(inside(unknown_filter), "val.h5", MEND),
    "checked": case(
        lambda p: [content(lambda before: before[:99])(p), "generate", "--check", p.split()][1:], "val.h5", "truncated"
    ),
    "sealed by hand": case(
        lambda p: [inside(test_store.edit("params", lambda q: q * 2))(p), "generate", "--seal", p.split()][1:],
        "val.h5",
        "altered since",
    ),
}


@pytest.mark.parametrize("name", DATASETS)
def test_bad_dataset_is_refused_in_one_line(place: Place, name: str) -> None:
    assert_refused(place, DATASETS[name])


def test_datasets_that_do_not_go_together_are_refused(place: Place) -> None:
    with h5py.File(place.split(), "r+") as file:
        file["params"].attrs["names"] = "omega"
        del file.attrs["complete"]
    assert_refused(place, Case(lambda p: p.search(), ("val.h5", "not sealed")))
    from data import store

    with h5py.File(place.split(), "r+") as file:
        del file.attrs["generator_config"]
    store.seal(place.split())
    assert_refused(place, Case(lambda p: p.search(), ("val.h5", "parameter_names", "omega", "train.h5")))
