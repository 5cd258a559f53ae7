"""A training that was cut off goes on bit for bit; damaged checkpoints are noticed."""

import hashlib
import io
import math
from pathlib import Path

import pytest
import torch

import model_checkpoint
import model_trainer
from data.batches import FamilyData
from experiment_tracker import EpochRecord
from model_checkpoint import HEADER, Checkpoints, read_checkpoint
from model_trainer import Limits, TrainingResult, train
from tests.cosine_family import make_family

EPOCHS = 12


class Cut(Exception):
    """Stands for a kill."""


@pytest.fixture(autouse=True)
def _small(linear_operator: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_trainer, "WINDOWS_PER_EPOCH", 256)
    monkeypatch.setattr(model_checkpoint, "SHARE", math.inf)  # every epoch, however long it takes to save


@pytest.fixture(scope="module")
def family() -> FamilyData:
    return make_family()


def run(
    data: FamilyData, folder: Path | None, *, cut_at: int | None = None, **given: object
) -> tuple[TrainingResult, list[EpochRecord]]:
    """Trains from the newest checkpoint; `cut_at` ends it there as a kill would, after the epoch was reported."""
    records: list[EpochRecord] = []

    def on_epoch(record: EpochRecord) -> str | None:
        if record.epoch == cut_at:
            raise Cut
        records.append(record)
        return None

    checkpoints = None if folder is None else Checkpoints(folder, 1)
    model, limits = given.pop("model", "linear"), given.pop("limits", Limits(EPOCHS, rungs=(4,)))
    result = train(model, given, data, limits=limits, seed=3, on_epoch=on_epoch, checkpoints=checkpoints)
    return result, records


def without_times(record: EpochRecord) -> tuple[float, ...]:
    values = (record.epoch, record.train_loss, record.val_rel_error, record.learning_rate, record.gradient_norm)
    return tuple(-1.0 if math.isnan(value) else value for value in values)


@pytest.mark.parametrize("given", [{}, {"schedule": "plateau", "optimizer": "adamw"}])
def test_a_training_cut_off_twice_gives_the_same_bits(
    family: FamilyData, tmp_path: Path, given: dict[str, object]
) -> None:
    given = {"model": "method_of_steps", "width": 8, "dropout": 0.2, **given}
    whole, expected = run(family, None, **given)
    found = []
    for cut_at in (4, 9, None):
        if cut_at is None:
            result, records = run(family, tmp_path, **given)
        else:
            with pytest.raises(Cut):
                run(family, tmp_path, cut_at=cut_at, **given)
            records = []
        found += records
    assert [without_times(r) for r in found] == [without_times(r) for r in expected[8:]]
    timed = {"train_seconds", "seconds_to_best", "inference_ms"}
    assert {k: v for k, v in result.metrics.items() if k not in timed} == {
        k: v for k, v in whole.metrics.items() if k not in timed
    }
    weights, again = whole.operator.state_dict(), result.operator.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_training_that_patience_had_ended_is_not_continued(family: FamilyData, tmp_path: Path) -> None:
    limits = Limits(60, patience=1)
    whole, expected = run(family, tmp_path, limits=limits, learning_rate=1e-30)
    assert len(expected) < 60
    again, records = run(family, tmp_path, limits=limits, learning_rate=1e-30)
    assert records == []
    assert again.metrics["test_rel_error"] == whole.metrics["test_rel_error"]


def test_saving_takes_its_share_of_the_time_and_a_pause_is_always_saved(
    family: FamilyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_checkpoint, "SHARE", 1e-6)
    run(family, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000001.pt"]
    checkpoints = Checkpoints(tmp_path, 3)
    assert [checkpoints.is_due(epoch, "complete") for epoch in (1, 2, 3)] == [False, False, True]
    assert checkpoints.is_due(2, "paused") and checkpoints.is_due(2, "interrupted")
    assert not checkpoints.is_due(3, "pruned")


def test_the_last_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(
    family: FamilyData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(family, tmp_path)
    older, newest = sorted(tmp_path.iterdir())
    assert [path.name for path in (older, newest)] == ["epoch-000011.pt", "epoch-000012.pt"]
    assert len(Checkpoints(tmp_path, 1).saved["records"]) == 12
    content = bytearray(newest.read_bytes())
    for place in (0, 30, 100, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 4
        newest.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            read_checkpoint(newest)
    newest.write_bytes(content[: len(content) // 2])
    assert len(Checkpoints(tmp_path, 1).saved["records"]) == 11
    assert "epoch-000012.pt" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\x80\x02q\x01.", b"PK\x03\x04 no archive", None])
def test_a_file_that_is_no_training_state_is_refused_though_its_sha256_is_right(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is None:
        buffer = io.BytesIO()
        torch.save({"records": []}, buffer)
        content = buffer.getvalue()
    path = tmp_path / "epoch-000001.pt"
    path.write_bytes(HEADER + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    with pytest.raises(ValueError, match="not a training state"):
        read_checkpoint(path)


def test_a_cycle_ends_at_every_rung() -> None:
    settings = model_trainer.TrainingSettings(learning_rate=1.0)
    watch = model_trainer.Stopwatch(lambda: 0.0)
    pace = model_trainer.Pace(Limits(90, rungs=(10, 30)), settings, 1, watch)
    ends = [pace.learning_rate(rung / 90 - 1e-9) for rung in (10, 30, 90)]
    peaks = [pace.learning_rate((a + model_trainer.PEAK * (b - a)) / 90) for a, b in ((0, 10), (10, 30), (30, 90))]
    assert ends == pytest.approx([model_trainer.END_RATE] * 3, rel=1e-3)
    assert peaks == pytest.approx([1.0] * 3, rel=1e-6)


@pytest.mark.parametrize("rungs", [(4, 4), (9, 3), (0,), (12,)])
def test_rungs_rise_and_lie_inside(rungs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rungs: expected rising epochs below 12"):
        Limits(12, rungs=rungs)
