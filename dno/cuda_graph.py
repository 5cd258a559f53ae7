"""Functions of tensors as CUDA graphs: recorded once, then launched as one.

A small operator's step or row is a hundred to a thousand short kernels; launching them one by one takes the processor
longer than the GPU needs to run them.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

LEAST_CALLS = 4  # recording a function costs as much as two or three calls of it
Result = TypeVar("Result")


@contextlib.contextmanager
def beside() -> Iterator[None]:
    """A block on a stream of its own, in order with what comes before and after; torch asks for it before recording."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def record(
    function: Callable[[], Result], generator: torch.Generator | None = None
) -> tuple[torch.cuda.CUDAGraph, Result] | None:
    """The graph of a function that waits for nothing, and what it returns at each replay; it is not run.

    Where the device cannot record it, None, and one logged line. Random numbers may come from `generator`.
    """
    try:
        graph = torch.cuda.CUDAGraph()
        if generator is not None:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            result = function()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        logger.warning("no CUDA graph, kernels are launched one by one: %s", str(error).splitlines()[0])
        return None
    return graph, result


def recorded(function: Callable[..., Tensor], inputs: Tensor, calls: int) -> Callable[..., Tensor]:
    """`function` for `calls` calls with tensors of the same shapes: recorded where that pays, else as it is.

    It pays on a GPU, without gradients, and where no one is recording already.
    """
    on_gpu = inputs.is_cuda and not torch.cuda.is_current_stream_capturing()
    return Recorded(function) if on_gpu and calls >= LEAST_CALLS and not torch.is_grad_enabled() else function


class Recorded:
    """A function that is recorded in its second call; in the first, libraries choose and load their kernels."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function, self._calls = function, 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *given: Tensor) -> Tensor:
        self._calls += 1
        if self._calls == 1:
            with beside():
                first = self._function(*given)
            first.record_stream(torch.cuda.current_stream())
            return first
        if self._calls == 2:
            self._inputs = [tensor.clone() for tensor in given]
            found = record(lambda: self._function(*self._inputs))
            if found is not None:
                self._graph, self._output = found
        if self._graph is None:
            return self._function(*given)
        for own, new in zip(self._inputs, given, strict=True):
            own.copy_(new)
        self._graph.replay()
        return self._output.clone()
