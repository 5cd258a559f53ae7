"""Dataset files: what is written comes back, and nothing else is believed."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data import store
from data.schema import step_counts, stored_times

POINTS = 8
PROVENANCE = store.Provenance("x' = -x(t - tau)", 3, {"count": 5}, {"method": "none"}, 0)


def make_dataset(count: int = 5, split: str = "train", channels: int = 2) -> store.Dataset:
    generator = np.random.default_rng(count)
    tau = generator.uniform(0.5, 1.5, count)
    offsets = np.concatenate([[0], np.cumsum(step_counts(tau, POINTS, 10.0, "time"))])
    is_noise = split.endswith("noise")
    return store.Dataset(
        family="toy",
        split=split,
        points_per_delay=POINTS,
        horizon=10.0,
        horizon_unit="time",
        traits=frozenset({"positive", "neutral"}),
        parameter_names=("a", "b"),
        history=generator.uniform(0.5, 2, (count, POINTS + 1, channels)).astype(np.float32),
        tau=tau,
        params=generator.normal(size=(count, 2)),
        offsets=offsets,
        solution=generator.uniform(0.5, 2, (offsets[-1], channels)).astype(np.float32),
        source=np.arange(count) if is_noise else None,
        level=np.full(count, 0.05) if is_noise else None,
        scaled=tau[:, None] * 2,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = store.dataset_path(tmp_path, "toy", "train")
    store.write(path, make_dataset(), PROVENANCE)
    return path


def is_same(one: store.Dataset, other: store.Dataset) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        if isinstance(getattr(one, field.name), np.ndarray)
        else getattr(one, field.name) == getattr(other, field.name)
        for field in dataclasses.fields(store.Dataset)
    )


@pytest.mark.parametrize("split", ["train", "test_noise"])
def test_read_returns_what_was_written(tmp_path: Path, split: str) -> None:
    dataset = make_dataset(split=split)
    path = store.dataset_path(tmp_path, "toy", split)
    digest = store.write(path, dataset, PROVENANCE)
    assert is_same(store.read(path, family="toy", split=split), dataclasses.replace(dataset, sha256=digest))
    assert store.read_provenance(path) == PROVENANCE
    assert store.check(path) == []
    assert [file.name for file in path.parent.iterdir()] == [f"{split}.h5"]


def test_write_stores_checksummed_chunks_and_the_times(path: Path) -> None:
    dataset = make_dataset()
    with h5py.File(path) as file:
        assert all(file[name].fletcher32 for name in file) and file["time"].compression == "gzip"
        times = file["time"][dataset.offsets[2] : dataset.offsets[3]]
        np.testing.assert_allclose(times, np.arange(1, len(times) + 1) * dataset.tau[2] / POINTS, rtol=1e-14)
        assert file.attrs["complete"]


def test_step_counts_follow_the_horizon() -> None:
    # The grid of the design: T 240, M 32 gives 320 to 640 steps for tau 24 to 12, whole delays not lost to rounding.
    assert step_counts(np.array([12.0, 24.0]), 32, 240.0, "time").tolist() == [640, 320]
    assert step_counts(np.array([0.3, 7.0]), 50, 10.0, "delays").tolist() == [500, 500]
    assert step_counts(np.array([0.1]), 10, 0.3, "time").tolist() == [30]


def test_write_gives_the_same_digest_for_the_same_numbers_only(tmp_path: Path) -> None:
    dataset = make_dataset()
    digests = [store.write(tmp_path / f"{i}.h5", dataset, PROVENANCE) for i in range(2)]
    renamed = dataclasses.replace(dataset, parameter_names=("b", "a"))
    assert digests[0] == digests[1] != store.write(tmp_path / "2.h5", renamed, PROVENANCE)
    assert (tmp_path / "0.h5").read_bytes() == (tmp_path / "1.h5").read_bytes()


def test_write_refuses_bad_values_and_keeps_the_former_file(path: Path) -> None:
    before = path.read_bytes()
    broken = make_dataset()
    broken.solution[7] = np.nan
    with pytest.raises(store.DatasetError, match="2 values that are not finite"):
        store.write(path, broken, PROVENANCE)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["train.h5"]


def test_read_refuses_every_truncation(path: Path) -> None:
    content = path.read_bytes()
    for length in np.linspace(0, len(content) - 1, 80).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(store.DatasetError, match="make it again"):
            store.read(path)


def test_read_notices_every_flipped_bit_that_matters(path: Path) -> None:
    content, original = path.read_bytes(), store.read(path)
    generator = np.random.default_rng(0)
    refused = 0
    for position in generator.integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            assert is_same(store.read(path), original)
        except store.DatasetError:
            refused += 1
    assert refused > 100  # the rest lies in space that HDF5 does not use


def edit(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    """Returns a mutation that stores `change` of dataset `name` in its place, of whatever shape and type."""

    def mutate(file: h5py.File) -> None:
        values = change(file[name][()])
        attributes = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, data=values).attrs.update(attributes)

    return mutate


def assign(name: str, value: object) -> Callable[[h5py.File], None]:
    def mutate(file: h5py.File) -> None:
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value

    return mutate


def put(array: np.ndarray, index: int, value: float) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


def declare_terabytes(file: h5py.File) -> None:
    for name, shape in (("solution", (10**12, 2)), ("time", (10**12,))):
        dtype = file[name].dtype
        del file[name]
        file.create_dataset(name, shape=shape, dtype=dtype, chunks=(1024, *shape[1:]))


def link_soft(file: h5py.File) -> None:
    del file["time"]
    file["time"] = h5py.SoftLink("/tau")


def link_external(file: h5py.File) -> None:
    del file["history"]
    file["history"] = h5py.ExternalLink("/etc/passwd", "history")


def store_virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=file["tau"].shape, dtype="<f8")
    layout[:] = h5py.VirtualSource("other.h5", "tau", shape=file["tau"].shape)
    del file["tau"]
    file.create_virtual_dataset("tau", layout)


def store_external(file: h5py.File) -> None:
    shape = file["tau"].shape
    del file["tau"]
    file.create_dataset("tau", shape=shape, dtype="<f8", external=[("/etc/passwd", 0, 8 * shape[0])])


MUTATIONS = {
    "altered value": (edit("tau", lambda tau: tau * (1 - 1e-12)), "was altered"),
    "altered meaning": (lambda file: file["params"].attrs.modify("names", "b,a"), "was altered"),
    "altered horizon": (assign("horizon", 10.001), "was altered"),
    "no seal": (assign("complete", None), "is not sealed .*--seal"),
    "not complete": (assign("complete", False), "is not sealed"),
    "other format": (assign("format", "pictures"), "'format' is 'pictures', expected 'dno-trajectories'"),
    "other version": (assign("format_version", 2), "'format_version' is .*2.*, expected 1"),
    "unknown split": (assign("split", "holdout"), "'split' is 'holdout', expected one of train"),
    "unknown trait": (assign("traits", "sparse"), "'traits' is 'sparse', expected names among homogeneous"),
    "no family": (assign("family", None), "'family' is missing"),
    "points not whole": (assign("points_per_delay", 8.5), "'points_per_delay' is .*8.5"),
    "horizon in years": (assign("horizon_unit", "years"), "expected time or delays"),
    "infinite horizon": (assign("horizon", np.inf), "expected a positive number"),
    "nan": (edit("history", lambda history: put(history, 0, np.nan)), "'history' holds 18 values that are not finite"),
    "infinite tau": (edit("tau", lambda tau: put(tau, 0, np.inf)), "'tau' holds 1 values that are not finite"),
    "negative tau": (edit("tau", lambda tau: put(tau, 1, -1.0)), "'tau' holds -1, expected positive"),
    "negative values": (edit("solution", lambda x: -x), "'solution' holds -.*'traits' say that it is positive"),
    "zero tau": (edit("tau", lambda tau: put(tau, 1, 0.0)), "'tau' holds 0, expected positive"),
    "tiny tau": (edit("tau", lambda tau: put(tau, 1, 5e-324)), "'time' is not"),
    "double precision": (edit("solution", lambda x: x.astype("<f8")), "type float64, expected float32"),
    "big endian": (edit("tau", lambda tau: tau.astype(">f8")), "'tau' is of type >f8"),
    "text": (edit("tau", lambda tau: np.array([b"a"] * len(tau))), "'tau' is of type"),
    "short history": (edit("history", lambda history: history[:, :-1]), r"expected \(N, M\+1, C\) = \(5, 9, 2\)"),
    "lost channel": (edit("history", lambda history: history[..., :1]), r"has shape \(5, 9, 1\)"),
    "flat solution": (edit("solution", np.ravel), r"expected \(ΣT, C\)"),
    "lost parameter": (
        edit("params", lambda params: params[:, :1]),
        r"has shape \(5, 1\), expected \(N, P\) = \(5, 2\)",
    ),
    "scalar": (edit("tau", lambda tau: tau[0]), r"'tau' has shape \(\)"),
    "lost trajectory": (edit("tau", lambda tau: tau[1:]), r"'params' has shape \(5, 2\)"),
    "empty": (edit("tau", lambda tau: tau[:0]), "'params' has shape"),
    "falling offsets": (edit("offsets", lambda o: put(o, 2, 1)), "'offsets' must rise"),
    "wrapping offsets": (edit("offsets", lambda o: put(put(o, 1, 2**63 - 1), 2, -(2**63))), "'offsets' must rise"),
    "offsets past the end": (edit("offsets", lambda o: put(o, -1, o[-1] + 1)), "'offsets' must rise"),
    "less than a delay": (edit("offsets", lambda o: put(o, 1, 3)), "trajectory 0 3 steps, expected 8"),
    "beyond the horizon": (edit("offsets", lambda o: put(o, 1, o[2] - 8)), "trajectory 0 .* steps, expected 8"),
    "other times": (edit("time", lambda time: time * 1.001), "'time' is not j tau / points_per_delay"),
    "noise in train": (
        lambda file: file.create_dataset("level", data=np.full(5, 0.1)),
        "'level' belongs into the noise",
    ),
    "noise split": (assign("split", "val_noise"), "'source' belongs into the noise splits"),
    "lost dataset": (lambda file: file.pop("offsets"), "has no dataset 'offsets'"),
    "unknown dataset": (lambda file: file.create_dataset("extra", data=[1]), "holds an unknown 'extra'"),
    "group": (lambda file: file.create_group("samples"), "holds an unknown 'samples'"),
    "terabytes": (declare_terabytes, "declares .*e.13 bytes in a file of"),
    "soft link": (link_soft, "'time' is a SoftLink"),
    "external link": (link_external, "'history' is a ExternalLink"),
    "virtual": (store_virtual, "'tau' reads its values from other files"),
    "external": (store_external, "'tau' reads its values from other files"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_read_refuses_in_one_line_what_is_wrong(path: Path, name: str) -> None:
    mutate, message = MUTATIONS[name]
    with h5py.File(path, "r+") as file:
        mutate(file)
    with pytest.raises(store.DatasetError, match=message) as caught:
        store.read(path)
    assert str(caught.value).startswith(str(path)) and "python -m data.generate" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.check(path)


def test_read_refuses_another_family_or_split(path: Path) -> None:
    with pytest.raises(store.DatasetError, match="is of family 'toy', expected 'mackey'"):
        store.read(path, family="mackey")
    with pytest.raises(store.DatasetError, match="is of split 'train', expected 'val'"):
        store.read(path, split="val")


def test_read_names_the_command_when_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m data\.generate --family mackey --data_root"):
        store.read(store.dataset_path(tmp_path, "mackey", "val"))
    with pytest.raises(FileNotFoundError, match="name a file that exists"):
        store.read(store.dataset_path(tmp_path, "toy", "val"))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_read_refuses_what_is_not_hdf5(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.h5"
    path.write_bytes(content)
    with pytest.raises(store.DatasetError, match="cannot be read as HDF5"):
        store.read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(store.DatasetError, match="cannot be read as HDF5"):
        store.read(path)


def make_own_file(path: Path, **changes: object) -> None:
    """Writes the least that a person would: default HDF5 storage, no time, no seal."""
    dataset = make_dataset()
    with h5py.File(path, "w") as file:
        header = {"format": "dno-trajectories", "format_version": 1, "family": "toy", "split": "train"}
        file.attrs.update(header | {"points_per_delay": POINTS, "horizon": 10.0, "traits": ["positive", "neutral"]})
        file.attrs["note"] = "measured on a Tuesday"
        for name in ("history", "tau", "params", "offsets", "solution"):
            file[name] = changes.get(name, getattr(dataset, name))
        file["params"].attrs["names"] = ["a", "b"]


def test_seal_completes_an_own_file_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "toy" / "train.h5"
    path.parent.mkdir()
    make_own_file(path)
    assert "not sealed" in store.check(path)[0]
    digest = store.seal(path)
    expected = dataclasses.replace(make_dataset(), scaled=None, sha256=digest)
    assert is_same(store.read(path), expected)
    assert store.read_provenance(path) is None
    with h5py.File(path) as file:
        assert file.attrs["note"] == "measured on a Tuesday"
    assert store.seal(path) == digest


def test_seal_refuses_a_file_that_no_search_would_find(tmp_path: Path) -> None:
    path = tmp_path / "other" / "train.h5"
    path.parent.mkdir()
    make_own_file(path)
    with pytest.raises(store.DatasetError, match=r"family 'toy', split 'train', .* looks for as toy/train\.h5"):
        store.seal(path)


def test_seal_refuses_a_bad_file_and_leaves_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "train.h5"
    make_own_file(path, tau=np.full(5, -1.0), history=np.zeros((5, POINTS, 2), np.float32))
    before = path.read_bytes()
    with pytest.raises(store.DatasetError, match="'history' has shape"):
        store.seal(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["train.h5"]


def test_seal_refuses_an_altered_generated_file(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["params"][0] = 7.0
    with pytest.raises(store.DatasetError, match="was generated and altered since"):
        store.seal(path)


def test_write_killed_at_any_time_leaves_the_whole_file_or_none(tmp_path: Path) -> None:
    path = tmp_path / "toy" / "train.h5"
    script = (
        "import sys, pathlib\nsys.path[:0] = ['.', 'tests']\nimport test_store as t\nd = t.make_dataset(400)\n"
        f"print(flush=True)\nwhile True: t.store.write(pathlib.Path({str(path)!r}), d, t.PROVENANCE)\n"
    )
    leftovers = 0
    for wait in (0.0, 0.01, 0.03, 0.1):
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(wait)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        assert not path.exists() or store.check(path) == []
        leftovers += len(list(path.parent.glob("*.partial")))
    assert leftovers > 0  # the kills did hit the middle of a write
    store.remove_partial_files(path)
    assert not list(path.parent.glob("*.partial"))


def test_stored_times_restart_with_every_trajectory() -> None:
    times = stored_times(np.array([1.0, 2.0]), np.array([0, 3, 5]), 4)
    assert times.tolist() == [0.25, 0.5, 0.75, 0.5, 1.0]
