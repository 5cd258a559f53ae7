"""The joint optimizer against float64 references: singular values by SVD, torch's AdamW, and torch's clipping."""

import copy
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from model_optimizer import COEFFICIENTS, MOMENTUM, MUON_RATE, SWEEPS, make_optimizer, orthogonalised


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.GELU(), nn.Linear(16, 16), nn.Linear(16, 32), nn.Linear(32, 16)).double()


def backward(module: nn.Module) -> None:
    module(torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)).square().sum().backward()


def polynomial_of_singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """What Newton–Schulz does, seen from the singular values: s -> a s + b s³ + c s⁵, five times."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = values / matrix.norm()
    a, b, c = COEFFICIENTS
    for _ in range(SWEEPS):
        values = a * values + b * values**3 + c * values**5
    return left @ torch.diag(values) @ right


def test_orthogonalised_brings_every_singular_value_near_one():
    torch.manual_seed(0)
    matrices = torch.randn(4, 8, 24, dtype=torch.float64)
    found = orthogonalised(matrices, 2.0)
    for one, matrix in zip(found, matrices, strict=True):
        assert torch.allclose(one, 2.0 * polynomial_of_singular_values(matrix), atol=1e-10)
        assert (torch.linalg.svdvals(one) / 2 - 1).abs().max() < 0.4


def test_muon_step_is_the_orthogonalised_nesterov_momentum_and_adamw_takes_the_rest():
    ours, plain = network(), network()
    optimizer = make_optimizer(ours, "muon", weight_decay=0.1)
    vectors = [p for p in plain.parameters() if p.ndim == 1]
    adamw = torch.optim.AdamW(
        [{"params": [plain[0].weight], "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=0.01
    )
    momenta: dict[int, torch.Tensor] = {}
    optimizer.set_rate(0.01)
    for _ in range(3):
        optimizer.zero_grad()
        plain.zero_grad()
        backward(ours)
        backward(plain)
        optimizer.step()
        adamw.step()
        with torch.no_grad():
            for index in (2, 3, 4):
                weight = plain[index].weight
                momentum = momenta.get(index, torch.zeros_like(weight)).lerp(weight.grad, 1 - MOMENTUM)
                momenta[index] = momentum
                update = polynomial_of_singular_values(weight.grad.lerp(momentum, MOMENTUM))
                rate = MUON_RATE * 0.01
                weight.mul_(1 - rate * 0.1).sub_(rate * max(1, weight.shape[0] / weight.shape[1]) ** 0.5 * update)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_clip_scales_like_torch_and_returns_the_norm_before():
    ours, plain = network(), network()
    optimizer = make_optimizer(ours, "muon", 0.0)
    backward(ours)
    backward(plain)
    norm = optimizer.clip(0.5)
    assert torch.allclose(norm, nn.utils.clip_grad_norm_(plain.parameters(), 0.5))
    assert all(torch.allclose(a.grad, b.grad) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


def test_parameters_can_still_be_read_copied_and_loaded():
    ours = network()
    before = copy.deepcopy(ours.state_dict())
    optimizer = make_optimizer(ours, "adamw", 0.0)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    backward(ours)
    optimizer.set_rate(0.1)
    optimizer.step()
    assert not torch.equal(ours[2].weight, before["2.weight"])
    ours.load_state_dict(before)
    assert torch.equal(ours[2].weight, before["2.weight"])
    optimizer.step()
    assert not torch.equal(ours[2].weight, before["2.weight"])  # loading did not take the parameters out of its hands


def test_an_optimizer_does_not_import_the_compiler_of_torch():
    code = "import sys, torch; from model_optimizer import make_optimizer\n"
    code += "optimizer = make_optimizer(torch.nn.Linear(8, 8), 'muon', 0.1); optimizer.step()\n"
    code += "assert 'torch._dynamo' not in sys.modules"  # over a second of every process
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)
