"""One training step: draw, loss, gradient, clipping, optimizer. The same function runs eagerly or as a CUDA graph.

Shapes never change within a training, and only the rate does from step to step: it is written into a tensor before.
DNO_CUDA_GRAPHS=0 keeps the steps of a GPU eager.
"""

import contextlib
import math
import os

import torch
from torch import Tensor

import dno
from data.batches import RowWindows
from dno import cuda_graph
from model_optimizer import JointOptimizer

WARM_UP = 3  # steps run eagerly before the recording, as torch asks for
VARIABLE = "DNO_CUDA_GRAPHS"


class TrainingStep:
    """Call it once per step, after `begin_epoch`; `totals` (2,) sums the loss and the gradient's norm before clipping.

    The windows of an epoch are drawn at once: so many small draws would take ten times as long.
    """

    def __init__(
        self,
        operator: dno.Operator,
        windows: RowWindows,
        optimizer: JointOptimizer,
        shape: tuple[int, int],
        gradient_clip: float,
        order: torch.Generator,
        wants_graph: bool | None = None,
    ) -> None:
        """`shape`: steps of an epoch, and crops of a step."""
        self._operator, self._windows, self._optimizer = operator, windows, optimizer
        self._shape, self._gradient_clip, self._order = shape, gradient_clip, order
        self.totals = torch.zeros(2, device=order.device)
        self._progress = torch.zeros((), device=order.device)
        self._epoch: list[Tensor] = []  # what `draw` returns, (steps, crops, …)
        self._step, self._step_of_graph = 0, torch.zeros(1, dtype=torch.long, device=order.device)  # of the epoch
        asked = order.device.type == "cuda" and os.environ.get(VARIABLE) != "0"
        self._wants_graph = asked if wants_graph is None else wants_graph
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = 0

    def begin_epoch(self) -> None:
        """Draws the windows of the next steps, and starts the totals anew."""
        self.totals.zero_()
        self._step = 0
        self._step_of_graph.zero_()
        drawn = [values.unflatten(0, self._shape) for values in self._windows.draw(math.prod(self._shape), self._order)]
        if self._graph is None:
            self._epoch = drawn
        else:  # which reads them where they were when it was recorded
            for own, new in zip(self._epoch, drawn, strict=True):
                own.copy_(new)

    def __call__(self, rate: float, progress: float) -> None:
        self._optimizer.set_rate(rate)
        self._progress.fill_(progress)
        if self._wants_graph and self._graph is None and self._warm >= WARM_UP:
            found = cuda_graph.record(self.run, self._order)
            self._graph, self._wants_graph = found and found[0], found is not None
        if self._graph is not None:
            self._graph.replay()
            return
        self._warm += 1
        with cuda_graph.beside() if self._wants_graph and self.totals.is_cuda else contextlib.nullcontext():
            self.run()

    def run(self) -> None:
        """The step itself. It waits for nothing, and reads and writes the same tensors every time."""
        optimizer = self._optimizer
        optimizer.zero_grad()
        rows, present, tau, params = self._batch()
        loss: Tensor = self._operator.training_loss(rows, present, tau, params, self._progress, self._order)
        loss.backward()
        norm = optimizer.clip(self._gradient_clip)
        optimizer.step()
        self.totals += torch.stack([loss.detach(), norm])

    def _batch(self) -> list[Tensor]:
        """The crops of the next step: on the way into a graph by an index that lies on the device."""
        self._step += 1
        if not self._wants_graph:
            return [values[self._step - 1] for values in self._epoch]
        batch = [values.index_select(0, self._step_of_graph)[0] for values in self._epoch]
        self._step_of_graph += 1
        return batch
