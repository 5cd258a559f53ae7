"""Splits on the device and the windows drawn from them, on trajectories whose values say where they are."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from data.batches import RowWindows, collate, delay_rows, load_family
from data.schema import Dataset, DatasetError, dataset_path
from data.store import Provenance, write
from tests.cosine_family import make_datasets

POINTS = 4


def ramps(lengths: list[int]) -> Dataset:
    """Trajectory i has the values 100 i + s at scaled time s, s = -1 … T/M; its delay is i + 1, its parameter -i."""
    numbers = np.arange(len(lengths))
    history = 100.0 * numbers[:, None] + np.arange(-POINTS, 1) / POINTS
    solution = np.concatenate([100.0 * i + np.arange(1, n + 1) / POINTS for i, n in enumerate(lengths)])
    offsets = np.append(0, np.cumsum(lengths))
    fields = (history[..., None], numbers + 1.0, -1.0 * numbers[:, None], offsets, solution[:, None])
    return Dataset("ramp", "train", POINTS, 1e3, "delays", frozenset(), ("p",), *fields)


def test_collate_pads_with_zeros_and_says_so():
    split = collate(ramps([9, 4]))
    assert split.solution.dtype == split.tau.dtype == torch.float32
    assert split.solution.shape == (2, 9, 1)
    assert split.mask.sum(1).tolist() == split.lengths.tolist() == [9, 4]
    assert split.solution[1, :4, 0].tolist() == [100.25, 100.5, 100.75, 101.0]
    assert split.solution[1, 4:].abs().sum() == 0
    assert split.source is None


def test_take_follows_the_index_in_every_field():
    split = collate(make_datasets()["val_noise"])
    few = split.take(torch.tensor([7, 2]))
    assert len(few) == 2
    for name in ("history", "tau", "params", "solution", "mask", "lengths", "source", "level", "scaled"):
        assert torch.equal(getattr(few, name)[1], getattr(split, name)[2])


def test_delay_rows_share_their_ends_and_count_complete_intervals():
    rows, intervals = delay_rows(collate(ramps([9, 4])))
    assert rows.shape == (2, 3, POINTS + 1, 1)
    assert intervals.tolist() == [2, 1]
    assert rows[0, :, 0, 0].tolist() == [-1, 0, 1]
    assert rows[0, :, -1, 0].tolist() == [0, 1, 2]
    assert rows[1, 1, :, 0].tolist() == [100.0, 100.25, 100.5, 100.75, 101.0]


@pytest.mark.parametrize(("past", "target"), [(1, 1), (3, 2), (1, 4), (2, 6)])
def test_draws_are_consecutive_rows_of_one_trajectory_and_absent_ones_are_zero(past, target):
    lengths = [4 * POINTS + 3, POINTS, 2 * POINTS]
    windows = RowWindows(collate(ramps(lengths)), past, target, 0.25)
    rows, present, tau, params = windows.draw(500, torch.Generator().manual_seed(0))
    assert rows.shape == (500, past + target, POINTS + 1, 1)
    trajectory = tau.long() - 1
    assert torch.equal(params[:, 0], -trajectory.float())
    assert present[:, past - 1 : past + 1].all()  # the row before the first target, and that target
    assert (rows[~present] == 0).all()
    start = rows[:, past, 0, 0] - 100 * trajectory  # the first target's interval
    number = start[:, None] + torch.arange(-past, target)
    intervals = torch.tensor([4, 1, 2])[trajectory]
    assert torch.equal(present, (number >= -1) & (number < intervals[:, None]))
    expected = 100 * trajectory[:, None, None] + number[..., None] + torch.arange(POINTS + 1) / POINTS
    assert torch.equal(rows[..., 0][present], expected.float()[present])
    assert set(start[trajectory == 0].tolist()) == {0, 1, 2, 3}


def test_trajectories_are_drawn_alike_the_first_interval_gets_its_share_and_the_others_equal_ones():
    windows = RowWindows(collate(ramps([5 * POINTS, 3 * POINTS])), 1, 1, 0.25)
    n = 20_000
    rows, _, tau, _ = windows.draw(n, torch.Generator().manual_seed(1))
    starts = (rows[:, 1, 0, 0] - 100 * (tau - 1)).long()
    counts = torch.bincount(starts + 5 * (tau.long() - 1), minlength=8)[:8] / n
    # A quarter goes to first intervals; of each trajectory's half of the rest, its later intervals get equal parts.
    expected = torch.tensor([0.125, *[0.375 / 4] * 4, 0.125, *[0.375 / 2] * 2])
    spread = (expected * (1 - expected) / n).sqrt()
    assert ((counts - expected).abs() < 5 * spread).all()


@pytest.mark.parametrize(("share", "expected"), [(0.0, {1, 2}), (1.0, {0})])
def test_the_first_interval_can_get_nothing_or_all(share, expected):
    windows = RowWindows(collate(ramps([3 * POINTS])), 1, 1, share)
    rows, *_ = windows.draw(200, torch.Generator().manual_seed(0))
    assert set(rows[:, 1, 0, 0].tolist()) == expected


def test_trajectories_of_one_delay_train_on_their_first_interval():
    windows = RowWindows(collate(ramps([POINTS, POINTS + 1])), 2, 3, 0.25)
    _, present, *_ = windows.draw(50, torch.Generator().manual_seed(0))
    assert torch.equal(present, torch.tensor([False, True, True, False, False]).expand(50, 5))


def test_draws_repeat_with_their_generator():
    windows = RowWindows(collate(ramps([40, 32])), 2, 2, 0.25)
    once, again, other = (windows.draw(16, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0], other[0])


def written(root: Path, datasets: dict[str, Dataset]) -> Path:
    for split, dataset in datasets.items():
        write(dataset_path(root, "cosine", split), dataset, Provenance("x' = -w x(t-tau)", 0, {}, {}, 0))
    return root


def test_load_family_returns_all_splits_that_are_there(tmp_path):
    datasets = make_datasets()
    data = load_family("cosine", written(tmp_path, datasets), "cpu")
    assert set(data.splits) == set(data.sha256) == set(datasets)
    assert (data.family, data.channels, data.points_per_delay) == ("cosine", 1, 8)
    assert data.parameter_names == ("w",)
    assert torch.equal(data.splits["val"].solution, collate(datasets["val"]).solution)
    assert data.splits["test_noise"].source.tolist() == datasets["test_noise"].source.tolist()
    only = load_family("cosine", written(tmp_path / "few", make_datasets(optional=False)), "cpu")
    assert set(only.splits) == {"train", "val", "test"}


def test_load_family_names_a_missing_split(tmp_path):
    datasets = make_datasets(optional=False)
    del datasets["test"]
    with pytest.raises(FileNotFoundError, match=r"test\.h5: no such dataset; name a file"):
        load_family("cosine", written(tmp_path, datasets), "cpu")


def test_load_family_refuses_splits_that_do_not_go_together(tmp_path):
    datasets = make_datasets()
    other = {
        "val": dataclasses.replace(datasets["val"], parameter_names=("v",)),
        "test_tau": dataclasses.replace(datasets["test_tau"], traits=frozenset({"homogeneous"})),
        "val_noise": dataclasses.replace(datasets["val_noise"], source=datasets["val_noise"].source + 8),
    }
    for split, pattern in (
        ("val", r"val\.h5: parameter_names is v, but w in train\.h5"),
        ("test_tau", r"traits is homogeneous, but nothing in train\.h5"),
        ("val_noise", r"'source' names trajectory 12 of val, which has 12"),
    ):
        root = written(tmp_path / split, datasets | {split: other[split]})
        with pytest.raises(DatasetError, match=pattern) as caught:
            load_family("cosine", root, "cpu")
        assert "\n" not in str(caught.value)
