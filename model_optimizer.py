"""The optimizer of a training: Muon for the matrices inside a network, AdamW for everything else.

Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix, so that all its directions learn at one rate.
Measured against AdamW alone at equal CPU seconds (60 s, 1000 trajectories, median relative L2 on test): memory kernel
on mackey 1.5e-3 -> 2.7e-4, on delayed_logistic 4.9e-3 -> 5.5e-4, on neutral 3.1e-3 -> 1.1e-3; method of steps 2.4e-3
-> 9.9e-4, 4.4e-3 -> 1.7e-3, 4.0e-3 -> 1.3e-3.

All parameters lie in one buffer and all gradients in another, so that clipping, momentum and AdamW are a few calls
each, and matrices of one shape are one batch of products.
"""

import math
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw  # not AdamW: the first of a process imports torch's compiler, 1.4 s

OPTIMIZERS = ("muon", "adamw")
SMALLEST_SIDE = 8  # thinner matrices read a handful of inputs: nothing to orthogonalise
MUON_RATE = 5.0  # of AdamW's: a Muon step has spectral norm `lr`, an AdamW step entries of size `lr`
MOMENTUM = 0.95
ADAMW = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False, "maximize": False}
SWEEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # s -> a s + b s³ + c s⁵ brings singular values near 1


class JointOptimizer:
    """Steps all parameters together. It owns their storage and gradients: clear these by its own `zero_grad` alone.

    The rate is a tensor on the device, and nothing here waits for the device, so a graph can capture every call.
    """

    def __init__(
        self,
        decaying: list[nn.Parameter],
        constant: list[nn.Parameter],
        matrices: list[nn.Parameter],
        weight_decay: float,
    ) -> None:
        matrices = sorted(matrices, key=lambda p: p.shape)
        values, gradients = _flattened(decaying + constant + matrices)
        sizes = [sum(p.numel() for p in part) for part in (decaying, constant, matrices)]
        self._gradients, self.rate = gradients, values.new_zeros(())
        values_of, gradients_of = values.split(sizes), gradients.split(sizes)
        self._groups = [(values_of[0], gradients_of[0], weight_decay), (values_of[1], gradients_of[1], 0.0)]
        self._moments = [
            {
                "step": value.new_zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(value),
                "exp_avg_sq": torch.zeros_like(value),
            }
            for value, *_ in self._groups
        ]
        self._muon = None
        if matrices:
            shapes = [(shape, len(list(same))) for shape, same in groupby(tuple(p.shape) for p in matrices)]
            self._muon = BatchedMuon(values[-sizes[2] :], gradients[-sizes[2] :], shapes, weight_decay)

    def set_rate(self, rate: float) -> None:
        """The rate of AdamW; Muon's is MUON_RATE times it."""
        self.rate.fill_(rate)

    def clip(self, limit: float) -> Tensor:
        """Scale the gradient to a norm of at most `limit`; returns the norm before."""
        norm = torch.linalg.vector_norm(self._gradients)
        self._gradients.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @torch.no_grad()
    def step(self) -> None:
        for (value, gradient, decay), moments in zip(self._groups, self._moments, strict=True):
            state = [moments["exp_avg"]], [moments["exp_avg_sq"]], [], [moments["step"]]
            adamw([value], [gradient], *state, fused=True, lr=self.rate, weight_decay=decay, **ADAMW)
        if self._muon is not None:
            self._muon.step(MUON_RATE * self.rate)

    def zero_grad(self) -> None:
        self._gradients.zero_()

    def forget(self) -> None:
        """Begins anew, without moments and momentum; in place, as a graph may have recorded where they lie."""
        for moments in self._moments:
            for value in moments.values():
                value.zero_()
        if self._muon is not None:
            self._muon.momentum.zero_()

    def state_dict(self) -> dict[str, object]:
        """Moments and momentum. The values belong to the operator, the rate to the schedule."""
        return {"adamw": dict(enumerate(self._moments)), "muon": self._muon and self._muon.momentum}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Goes on from these moments."""
        for moments, saved in zip(self._moments, state["adamw"].values(), strict=True):
            for name, value in moments.items():
                value.copy_(saved[name])
        if self._muon is not None:
            self._muon.momentum.copy_(state["muon"])


class BatchedMuon:
    """Muon with Nesterov momentum for matrices that lie one after the other in `values`, as `shapes` with counts says.

    Matrices of one shape are orthogonalised together, as one batch; a step changes each by rate · max(1, n/m)^½.
    """

    def __init__(
        self, values: Tensor, gradients: Tensor, shapes: list[tuple[tuple[int, int], int]], weight_decay: float
    ) -> None:
        self._values, self._gradients, self._weight_decay = values, gradients, weight_decay
        self.momentum, self._update = torch.zeros_like(values), torch.zeros_like(values)
        pieces = self._update.split([count * math.prod(shape) for shape, count in shapes])
        self._batches = [piece.view(count, *shape) for piece, (shape, count) in zip(pieces, shapes, strict=True)]

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        self.momentum.lerp_(self._gradients, 1 - MOMENTUM)
        torch.lerp(self._gradients, self.momentum, MOMENTUM, out=self._update)
        for batch in self._batches:
            wide = batch if batch.shape[1] <= batch.shape[2] else batch.mT
            wide.copy_(orthogonalised(wide, max(1.0, batch.shape[1] / batch.shape[2]) ** 0.5))
        self._values.mul_(1 - rate * self._weight_decay)
        self._values.addcmul_(self._update, rate, value=-1)


def orthogonalised(matrices: Tensor, scale: float) -> Tensor:
    """`scale` times the matrices (k, n, m), n <= m, with singular values brought near 1 by Newton–Schulz sweeps."""
    a, b, c = COEFFICIENTS
    x = matrices / torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for sweep in range(SWEEPS):
        factor = scale if sweep == SWEEPS - 1 else 1.0
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=factor * a, alpha=factor)
    return x


def _flattened(parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """One buffer of all values and one of all gradients, whose pieces the parameters become."""
    values = torch.cat([p.detach().flatten() for p in parameters])
    gradients = torch.zeros_like(values)
    sizes = [p.numel() for p in parameters]
    for parameter, value, gradient in zip(parameters, values.split(sizes), gradients.split(sizes), strict=True):
        parameter.data, parameter.grad = value.view(parameter.shape), gradient.view(parameter.shape)
    return values, gradients


def make_optimizer(operator: nn.Module, kind: str, weight_decay: float) -> JointOptimizer:
    """The optimizer of this kind; biases and other vectors do not decay."""
    parameters = list(operator.parameters())
    matrices = [p for p in parameters if kind == "muon" and p.ndim == 2 and min(p.shape) >= SMALLEST_SIDE]
    chosen = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in chosen]
    return JointOptimizer([p for p in rest if p.ndim > 1], [p for p in rest if p.ndim <= 1], matrices, weight_decay)
