"""The generator's command line, its splits, and what it promises about seeds, sizes, kills and neighbours."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data import FAMILIES, generate, store, trajectories
from data.schema import NOISE_SPLITS, SPLITS, step_counts

ROOT = Path(__file__).parents[1]
SMALL = ["--n_train", "8", "--n-val", "4", "--n_test", "5"]
COUNTS = generate.Counts(8, 4, 5)
FAMILY_NAMES = tuple(FAMILIES)


def run(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "data.generate", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with all families at small size, made by the real command."""
    root = tmp_path_factory.mktemp("data")
    done = run("--family", "all", *SMALL, "--data_root", root)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == len(FAMILIES)
    pattern = (
        r"(\w+): wrote train 8, val 4, .*test_noise 15; \d+ draws rejected; solver error at most \S+; .* s; sha256"
    )
    assert all(re.match(pattern, line) for line in lines)
    return root


def load(root: Path, family: str, split: str) -> store.Dataset:
    return store.read(store.dataset_path(root, family, split), family=family, split=split)


def trajectory(dataset: store.Dataset, index: int) -> np.ndarray:
    return dataset.solution[dataset.offsets[index] : dataset.offsets[index + 1]]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_splits_cover_the_ranges_they_promise(root: Path, family: str) -> None:
    low, high = FAMILIES[family].tau
    border = low + 0.8 * (high - low)
    for split in SPLITS:
        dataset = load(root, family, split)
        is_shifted = split == "test_tau"
        assert (dataset.tau >= (border if is_shifted else low)).all()
        assert (dataset.tau <= (high if is_shifted else border)).all()
        factor = 2 if split.endswith("_horizon") else 1
        assert dataset.horizon == factor * FAMILIES[family].horizon
        expected = step_counts(dataset.tau, dataset.points_per_delay, dataset.horizon, dataset.horizon_unit)
        assert np.array_equal(np.diff(dataset.offsets), expected)
        for column, parameter in enumerate(FAMILIES[family].parameters):
            values = dataset.params[:, column]
            assert (values >= parameter.low - 1e-12).all() and (values <= parameter.high + 1e-12).all()


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("base", ["val", "test"])
def test_horizon_splits_continue_the_same_trajectories(root: Path, family: str, base: str) -> None:
    short, long = load(root, family, base), load(root, family, f"{base}_horizon")
    assert np.array_equal(short.history, long.history) and np.array_equal(short.tau, long.tau)
    for index in range(len(short.tau)):
        first = trajectory(short, index)
        scale = np.abs(first).max()
        np.testing.assert_allclose(trajectory(long, index)[: len(first)], first, atol=1e-5 * scale)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("split", NOISE_SPLITS)
def test_noise_splits_disturb_the_history_by_the_stated_level(root: Path, family: str, split: str) -> None:
    noisy, clean = load(root, family, split), load(root, family, split.removesuffix("_noise"))
    count = len(clean.tau)
    assert sorted(zip(noisy.source, noisy.level, strict=True)) == [
        (i, level) for i in range(count) for level in (0.01, 0.05, 0.1)
    ]
    assert np.array_equal(noisy.tau, clean.tau[noisy.source])
    assert np.array_equal(noisy.params, clean.params[noisy.source])
    base = clean.history[noisy.source]
    change = np.sqrt(np.mean((noisy.history - base) ** 2, axis=(1, 2)) / np.mean(base**2, axis=(1, 2)))
    np.testing.assert_allclose(change, noisy.level, rtol=0.15)  # a positive family's noise is multiplicative
    if "positive" in noisy.traits:
        assert (noisy.history > 0).all()
    assert all(
        not np.array_equal(trajectory(noisy, i), trajectory(clean, source)) for i, source in enumerate(noisy.source)
    )


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_trajectories_do_not_depend_on_how_many_there_are(root: Path, tmp_path: Path, family: str) -> None:
    generate.generate(FAMILIES[family], tmp_path, counts=generate.Counts(3, 2, 2), splits=["train", "val_noise"])
    few, many = load(tmp_path, family, "train"), load(root, family, "train")
    assert np.array_equal(few.solution, many.solution[: few.offsets[-1]])
    assert np.array_equal(few.history, many.history[:3]) and np.array_equal(few.params, many.params[:3])
    noisy_few, noisy_many = load(tmp_path, family, "val_noise"), load(root, family, "val_noise")
    for index, (source, level) in enumerate(zip(noisy_few.source, noisy_few.level, strict=True)):
        (same,) = np.flatnonzero((noisy_many.source == source) & (noisy_many.level == level))
        assert np.array_equal(trajectory(noisy_few, index), trajectory(noisy_many, same))


@pytest.mark.parametrize("family", ["mackey", "delayed_logistic"])
def test_a_trajectory_depends_neither_on_those_beside_it_nor_on_how_long_they_go_on(family: str, monkeypatch) -> None:
    """Trajectories in units of time: their numbers of delays differ."""
    draws = trajectories.draw_split(FAMILIES[family], "train", 60, 0)
    values, error, _ = trajectories._solve(FAMILIES[family], draws, 1.0)
    monkeypatch.setattr(trajectories, "CHUNK", 7)
    order = np.random.default_rng(0).permutation(60)
    again, error_again, _ = trajectories._solve(FAMILIES[family], [draws[index] for index in order], 1.0)
    assert np.array_equal(again, values[order], equal_nan=True) and np.array_equal(error_again, error[order])
    steps = FAMILIES[family].horizon / np.array([draw.tau for draw in draws]) * FAMILIES[family].points_per_delay
    assert all(np.isfinite(row[: int(count)]).all() for row, count in zip(values, steps, strict=True))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_same_seed_gives_the_same_digest_and_another_seed_another(root: Path, tmp_path: Path, family: str) -> None:
    for seed in (0, 1):
        generate.generate(FAMILIES[family], tmp_path / str(seed), counts=COUNTS, seed=seed, splits=["val"])
    digest = load(root, family, "val").sha256
    assert load(tmp_path / "0", family, "val").sha256 == digest != load(tmp_path / "1", family, "val").sha256


def test_splits_share_no_trajectory(root: Path) -> None:
    delays = [load(root, "mackey", split).tau for split in ("train", "val", "test", "test_tau", "test_history")]
    assert len(np.unique(np.concatenate(delays))) == sum(map(len, delays))


def test_command_keeps_what_fits_and_refuses_to_replace_the_rest(root: Path, tmp_path: Path) -> None:
    arguments = ["--family", "neutral", "--data_root", tmp_path]
    assert run(*arguments, *SMALL).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.h5")}
    (tmp_path / "neutral/val.h5").unlink()
    again = run(*arguments, *SMALL)
    assert again.returncode == 0 and "wrote val 4, kept train, test" in again.stdout
    assert "kept" in run(*arguments, *SMALL).stdout
    other = run(*arguments, *SMALL, "--n_train", "9")
    assert other.returncode == 2 and "count is 8, asked is 9" in other.stderr and "--overwrite" in other.stderr
    assert other.stderr.startswith("error: ") and other.stderr.count("\n") == 1
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.h5") if path.name != "val.h5"}
    assert after.items() <= before.items()
    assert run(*arguments, *SMALL, "--n_train", "9", "--overwrite", "-q").stdout == ""
    assert len(load(tmp_path, "neutral", "train").tau) == 9


def test_command_refuses_to_replace_damaged_files(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "mackey/train.h5"
    target.parent.mkdir()
    target.write_bytes((root / "mackey/train.h5").read_bytes()[:-100])
    done = run("--family", "mackey", "--data_root", tmp_path, *SMALL)
    assert done.returncode == 2 and "cannot be read as HDF5" in done.stderr and done.stderr.count("\n") == 1
    assert {path.name for path in target.parent.iterdir()} == {"train.h5", ".generate.lock"}


def test_check_passes_whole_files_and_refuses_a_truncated_copy(root: Path, tmp_path: Path) -> None:
    paths = sorted(root.rglob("*.h5"))
    assert len(paths) == len(FAMILIES) * len(SPLITS)
    fine = run("--check", *paths)
    assert fine.returncode == 0 and fine.stdout.count(": fine (") == len(paths)
    copy = tmp_path / "copy.h5"
    copy.write_bytes(paths[0].read_bytes()[:-1000])
    bad = run("--check", paths[0], copy, tmp_path / "none.h5")
    assert bad.returncode == 2
    assert re.search(rf"error: {copy}: cannot be read as HDF5", bad.stderr) and "none.h5: no such dataset" in bad.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "mackay"], "invalid choice: 'mackay'"),
        (["--family", "mackey", "--n_train", "0"], "expected a whole number from 1 to 10000000, got '0'"),
        (["--family", "mackey", "--n_train", "many"], "got 'many'"),
        (["--family", "mackey", "--seed", "-1"], "expected a whole number from 0"),
        (["--fam", "mackey"], "one of the arguments --family --check --seal is required"),
        (["--family", "mackey", "--n_tra", "3"], "unrecognized arguments: --n_tra"),
        (["--seal", "nowhere.h5"], "no such dataset"),
        (["--family", "mackey", "--data_root", "/dev/null/data"], "/dev/null"),
        ([], "is required"),
    ],
)
def test_command_explains_wrong_usage_in_one_line(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    def cpu_seconds() -> float:  # not the clock's: other work on the machine does not count
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    seconds = []
    for _ in range(5):
        started = cpu_seconds()
        assert "--overwrite" in run("--help").stdout
        seconds.append(cpu_seconds() - started)
    assert min(seconds) <= 0.3
    script = "import sys, data.generate; print({'torch', 'h5py', 'tqdm', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_two_commands_at_once_do_not_collide(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data.generate", "--family", "delayed_logistic", *SMALL, "--data_root", tmp_path]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate()[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("kept" in output for output in outputs) == [False, True]
    assert all(store.check(path) == [] for path in tmp_path.rglob("*.h5"))


def heed_ctrl_c() -> None:
    """For a child process: a suite that runs in the background ignores SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_signal_that_is_lost_in_a_destructor_comes_again() -> None:
    code = """
import sys, time
from data import generate
class Loses:
    def __del__(self):
        raise KeyboardInterrupt
sys.unraisablehook = generate.send_again
try:
    Loses()
    time.sleep(20)
except KeyboardInterrupt:
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, preexec_fn=heed_ctrl_c).returncode == 7


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_is_completed_by_the_next(tmp_path: Path, number: int, code: int) -> None:
    sizes = ["--n_train", "300", "--n_val", "600", "--n_test", "600"]  # so that most of the work is still ahead
    arguments = ["--family", "mackey", *sizes, "--data_root", str(tmp_path)]
    command = [sys.executable, "-m", "data.generate", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c)
    while not (tmp_path / "mackey/train.h5").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == code
    assert all(store.check(path) == [] for path in tmp_path.rglob("*.h5"))
    if number != signal.SIGKILL:
        assert not list(tmp_path.rglob("*.partial"))
    again = run(*arguments)
    assert again.returncode == 0 and "kept train" in again.stdout
    assert len(list(tmp_path.rglob("*.h5"))) == len(SPLITS) and not list(tmp_path.rglob("*.partial"))


def test_ensure_datasets_makes_them_in_the_default_root_only(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neutral/train.h5: no such dataset; make it: python -m data.generate"):
        generate.ensure_datasets("neutral", tmp_path, is_default_root=False, counts=COUNTS)
    assert not list(tmp_path.iterdir())
    generate.ensure_datasets("neutral", tmp_path, is_default_root=True, counts=COUNTS)
    assert all(store.check(store.dataset_path(tmp_path, "neutral", split)) == [] for split in SPLITS)
    generate.ensure_datasets("neutral", tmp_path, is_default_root=False)


def test_ensure_datasets_completes_with_the_seed_and_the_sizes_that_are_there(tmp_path: Path) -> None:
    generate.generate(FAMILIES["neutral"], tmp_path, counts=COUNTS, seed=5)
    wanted = {split: load(tmp_path, "neutral", split).sha256 for split in SPLITS}
    for split in ("val", "test_noise"):
        store.dataset_path(tmp_path, "neutral", split).unlink()
    generate.ensure_datasets("neutral", tmp_path, is_default_root=True)
    assert {split: load(tmp_path, "neutral", split).sha256 for split in SPLITS} == wanted


def test_card_example_makes_a_file_that_can_be_sealed(tmp_path: Path) -> None:
    card = (ROOT / "data/README.md").read_text()
    (example,) = re.findall(r"```python\n(import h5py.*?)```", card, flags=re.DOTALL)
    assert len(example.strip().splitlines()) <= 18
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True)
    for split in ("train", "val", "test"):
        path = tmp_path / f"data/decay/{split}.h5"
        assert run("--check", path).returncode == 2
        sealed = run("--seal", path)
        assert sealed.returncode == 0 and "sealed, sha256" in sealed.stdout
        assert run("--check", path).returncode == 0
        dataset = load(tmp_path / "data", "decay", split)
        exact = dataset.history[0, -1] * np.exp(-dataset.params[0] * dataset.tau[0] / dataset.points_per_delay)
        np.testing.assert_allclose(trajectory(dataset, 0)[0], exact, rtol=1e-6)
    generate.ensure_datasets("decay", tmp_path / "data", is_default_root=True)
    with pytest.raises(FileNotFoundError, match="known families are mackey"):
        generate.ensure_datasets("growth", tmp_path / "data", is_default_root=True)
