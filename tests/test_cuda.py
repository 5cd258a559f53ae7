"""What only a GPU can show: its results against the CPU's, and recorded steps and rollouts against eager ones."""

import dataclasses
import logging
import math
from pathlib import Path

import pytest
import torch

import dno
import model_checkpoint
import model_trainer
from data.batches import Split
from dno import cuda_graph
from tests.cosine_family import make_family
from tests.test_model_checkpoint import EPOCHS, Cut, run
from tests.test_model_step import SPEC, trained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
SPACE = dno.OperatorSpec(8, 16, ("a",), frozenset({"positive", "spatial"}))
NEUTRAL = dno.OperatorSpec(1, 16, ("a",), frozenset({"neutral"}))


def problem(spec: dno.OperatorSpec, device: str) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(3)
    history = torch.rand(6, spec.points_per_delay + 1, spec.channels).cumsum(1) / spec.points_per_delay + 1
    return tuple(tensor.to(device) for tensor in (history, torch.rand(6) + 0.5, torch.randn(6, 1)))


@pytest.mark.parametrize("spec", [SPEC, SPACE, NEUTRAL], ids=["scalar", "space", "neutral"])
@pytest.mark.parametrize("model", dno.MODELS)
def test_rollout_on_a_gpu_is_that_of_the_cpu_and_recorded_is_eager(model, spec, monkeypatch):
    torch.manual_seed(0)
    operator = dno.build_operator(model, {}, spec).eval()
    steps = int(6.5 * spec.points_per_delay)
    with torch.no_grad():
        expected = operator(*problem(spec, "cpu"), steps)
        operator.cuda()
        recorded = operator(*problem(spec, "cuda"), steps)
        monkeypatch.setattr(cuda_graph, "LEAST_CALLS", 10**9)
        eager = operator(*problem(spec, "cuda"), steps)
    assert torch.equal(recorded, eager)
    # Rounding grows with the row; the first two have hardly any.
    first = 2 * spec.points_per_delay
    assert torch.allclose(recorded[:, :first].cpu(), expected[:, :first], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", dno.MODELS)
def test_training_as_a_graph_is_the_eager_training(model, monkeypatch, caplog):
    family = make_family()
    data = dataclasses.replace(family, splits={name: on_gpu(split) for name, split in family.splits.items()})
    results = []
    for value in ("1", "0"):
        monkeypatch.setenv("DNO_CUDA_GRAPHS", value)
        records = []
        with caplog.at_level(logging.WARNING):
            result = model_trainer.train(
                model,
                {"width": 16, "dropout": 0.1, "fourier_modes_t": 4},
                data,
                limits=model_trainer.Limits(max_epochs=2),
                seed=0,
                on_epoch=records.append,
            )
        assert result.status == "complete" and "no CUDA graph" not in caplog.text
        results.append((records, result))
    (graph, one), (eager, other) = results
    assert [r.train_loss for r in graph] == pytest.approx([r.train_loss for r in eager], rel=0.05)
    assert one.metrics["val_rel_error"] == pytest.approx(other.metrics["val_rel_error"], rel=0.2)


def on_gpu(split: Split) -> Split:
    tensors = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in vars(split).items()}
    return Split(**tensors)


def test_step_as_a_graph_follows_the_eager_step():
    graph, totals = trained(True, 12, "cuda")
    eager, expected = trained(False, 12, "cuda")
    assert torch.allclose(totals, expected, rtol=1e-4)
    for one, two in zip(graph.parameters(), eager.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-4)


def test_a_training_cut_off_on_a_gpu_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model_trainer, "WINDOWS_PER_EPOCH", 256)
    monkeypatch.setattr(model_checkpoint, "SHARE", math.inf)  # every epoch, however long it takes to save
    family = make_family()
    data = dataclasses.replace(family, splits={name: on_gpu(split) for name, split in family.splits.items()})
    whole, expected = run(data, None, model="method_of_steps", width=8)
    with pytest.raises(Cut):
        run(data, tmp_path, model="method_of_steps", width=8, cut_at=6)
    again, records = run(data, tmp_path, model="method_of_steps", width=8)
    assert [record.epoch for record in records] == list(range(6, EPOCHS + 1))
    losses = [record.train_loss for record in expected[5:]]
    assert [record.train_loss for record in records] == pytest.approx(losses, rel=1e-2)
    assert again.metrics["test_rel_error"] == pytest.approx(whole.metrics["test_rel_error"], rel=0.05)
