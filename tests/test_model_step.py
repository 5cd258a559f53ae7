"""The training step: the eager one against steps written out with torch alone, and the fallback of the graph."""

import logging

import torch

import dno
from data.batches import RowWindows, Split
from model_optimizer import make_optimizer
from model_step import WARM_UP, TrainingStep

STEPS = 4  # of an epoch
SPEC = dno.OperatorSpec(1, 16, ("a",), frozenset({"positive"}))


def split(device: str) -> Split:
    torch.manual_seed(0)
    n, steps = 8, 48
    solution, mask = torch.rand(n, steps, 1) + 0.5, torch.ones(n, steps, dtype=torch.bool)
    history, tau, params = torch.rand(n, 17, 1) + 0.5, torch.rand(n) + 1, torch.rand(n, 1)
    tensors = (history, tau, params, solution, mask, torch.full((n,), steps))
    return Split("train", *(tensor.to(device) for tensor in tensors))


def parts(device: str = "cpu") -> tuple[dno.Operator, RowWindows, torch.Generator]:
    torch.manual_seed(1)
    operator = dno.build_operator("method_of_steps", {"width": 8, "fourier_modes_t": 4}, SPEC)
    return operator.to(device), RowWindows(split(device), 1, 1, 0.25), torch.Generator(device).manual_seed(2)


def trained(wants_graph: bool, steps: int, device: str = "cpu") -> tuple[dno.Operator, torch.Tensor]:
    operator, windows, order = parts(device)
    optimizer = make_optimizer(operator, "adamw", 0.01)
    step = TrainingStep(operator, windows, optimizer, (STEPS, 4), 0.1, order, wants_graph)
    for number in range(steps):
        if number % STEPS == 0:
            totals = step.totals.clone()
            step.begin_epoch()
            step.totals += totals
        step(1e-2, 0.5)
    return operator, step.totals


def test_step_equals_torch_alone():
    operator, totals = trained(False, STEPS + 3)
    plain, windows, order = parts()
    groups = [[p for p in plain.parameters() if (p.ndim > 1) == decays] for decays in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.01}, {"params": groups[1], "weight_decay": 0.0}], lr=1e-2
    )
    expected = torch.zeros(2)
    epoch = [windows.draw(4 * STEPS, order) for _ in range(2)]
    for number in range(STEPS + 3):
        drawn, first = epoch[number // STEPS], 4 * (number % STEPS)
        optimizer.zero_grad()
        loss = plain.training_loss(*(values[first : first + 4] for values in drawn), 0.5, order)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        optimizer.step()
        expected += torch.stack([loss.detach(), norm])
    assert torch.allclose(totals, expected, rtol=1e-4)
    for one, other in zip(operator.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_step_goes_on_eagerly_and_says_so_where_no_graph_can_be_captured(caplog):
    if torch.cuda.is_available():
        return
    with caplog.at_level(logging.WARNING):
        operator, totals = trained(True, WARM_UP + 2)
    assert caplog.text.count("no CUDA graph") == 1
    eager, expected = trained(False, WARM_UP + 2)
    assert torch.equal(totals, expected)
    assert all(torch.equal(a, b) for a, b in zip(operator.parameters(), eager.parameters(), strict=True))
