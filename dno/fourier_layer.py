"""Chains of the layer x + dropout(gelu(K x + Σ_k W_k x[n-k] + b)), with their gradient written by hand.

K is a spectral convolution, W_0 a pointwise map, W_k maps of earlier rows (the stacked history's causal kernel). By
hand it takes no copies: matrix products accumulate in place, and slices of the spectrum need no zero-filled gradients.
At the sizes of a search, asking for memory, making views of it and fetching it into the cache is an eighth of a step;
so on a CPU a chain keeps its memory and the views from one training step to the next.
"""

from collections.abc import Iterable
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from dno.spectral import ChannelMixing, SpectralConvolution, TruncatedTransform


class _Form(NamedTuple):
    """What a layer is beside its parameters, which are the spectral weight, b, W_0, … W_reach."""

    transform: TruncatedTransform
    reach: int
    dropout: float


class _Scratch:
    """Memory that layers on fields of one shape overwrite in turn."""

    def __init__(self, like: Tensor, shape: tuple[int, ...], n_modes: int) -> None:
        self.mixing = ChannelMixing(like, n_modes, *shape[2:])
        self.by_z = like.new_empty(shape)
        self.columns, self.points = self.by_z.view(shape[0], -1), self.by_z.view(-1, shape[3])


class _Pass:
    """One layer on fields (S, X, R B, C) of one shape, with the values that its gradient needs.

    Of R rows it computes those that see `reach` rows before them: -> (S, X, (R - reach) B, C).
    """

    def __init__(
        self, form: _Form, like: Tensor, shape: tuple[int, ...], batch: int, scratch: dict[tuple[int, int], _Scratch]
    ) -> None:
        self.form, self.batch, self.first = form, batch, form.reach * batch
        n_modes, length, samples, width = form.transform.n_modes, shape[0], shape[2] - self.first, shape[3]
        self.shape = shape = (*shape[:2], samples, width)
        if (n_modes, samples) not in scratch:
            scratch[n_modes, samples] = _Scratch(like, shape, n_modes)
        self.scratch = scratch[n_modes, samples]
        self.z = like.new_empty(shape)
        self.out: Tensor | None = like.new_empty(shape)
        self.z_columns, self.z_points = self.z.view(length, -1), self.z.view(-1, width)
        self.spectrum = like.new_empty(n_modes, 2 * samples, width)
        self.spectrum_rows, self.spectrum_transposed = self.spectrum.view(2 * n_modes, -1), self.spectrum.mT
        self.passed: Tensor | None = None  # by dropout

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor, *taps: Tensor) -> Tensor:
        """The layer's values, in `out`."""
        mixing, transform = self.scratch.mixing, self.form.transform
        seen = x
        if self.form.reach == 0:
            torch.addmm(bias, x.view(-1, x.shape[3]), taps[0].T, out=self.z_points)
        else:
            seen, z = x[:, :, self.first :], self.z.flatten(0, 1)
            z.copy_(bias)
            for earlier, tap in zip(self._earlier(x), taps, strict=True):
                z.baddbmm_(earlier, tap.T.expand(len(z), -1, -1))
        transform.analyse(seen.reshape(x.shape[0], -1), self.spectrum_rows)
        mixing.forward(self.spectrum, weight)
        transform.add_synthesis(self.z_columns, mixing.rows)
        torch.ops.aten.gelu.out(self.z, out=self.out)
        if self.form.dropout:
            self.out, self.passed = torch.native_dropout(self.out, self.form.dropout, True)
        return self.out.add_(seen)

    def backward(
        self, gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, *taps: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Gradients by x and by the parameters; that by the layer's values is overwritten."""
        mixing, transform, by_points = self.scratch.mixing, self.form.transform, self.scratch.points
        by_passed = gradient
        if self.form.dropout:
            by_passed = torch.ops.aten.native_dropout_backward(gradient, self.passed, 1 / (1 - self.form.dropout))
        torch.ops.aten.gelu_backward.grad_input(by_passed, self.z, grad_input=self.scratch.by_z)
        transform.synthesis_adjoint(self.scratch.columns, mixing.rows)
        by_weight = mixing.adjoint(self.spectrum_transposed, weight)
        gradient.view(by_points.shape).addmm_(by_points, taps[0])
        transform.add_analysis_adjoint(gradient.view(self.scratch.columns.shape), mixing.rows)
        by_bias = by_points.sum(0)
        if self.form.reach == 0:
            return gradient, (by_weight, by_bias, by_points.T @ x.view(-1, x.shape[3]))
        by_x, by_taps = torch.zeros_like(x), []
        by_x[:, :, self.first :] = gradient
        for k, (earlier, by_earlier) in enumerate(zip(self._earlier(x), self._earlier(by_x), strict=True)):
            by_taps.append(by_points.T @ earlier.reshape(by_points.shape))
            if k > 0:
                by_earlier += (by_points @ taps[k]).view(earlier.shape)
        return by_x, (by_weight, by_bias, *by_taps)

    def _earlier(self, x: Tensor) -> list[Tensor]:
        """What the rows that are computed see: themselves, the row before, … of (S X, R B, C)."""
        places, starts = x.flatten(0, 1), range(self.first, -1, -self.batch)
        return [places[:, start : start + x.shape[2] - self.first] for start in starts]


class _Passes:
    """All layers of a chain on fields of one shape."""

    def __init__(self, key: tuple[object, ...], forms: list[_Form], x: Tensor, batch: int) -> None:
        self.key, self.turn, self.layers = key, 0, []
        scratch, shape = {}, x.shape
        for form in forms:
            self.layers.append(_Pass(form, x, shape, batch, scratch))
            shape = self.layers[-1].shape
        ends = accumulate((3 + form.reach for form in forms), initial=0)
        self.own = [slice(*piece) for piece in pairwise(ends)]  # of all parameters


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layers: "FourierLayers", passes: _Passes, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, *parameters)
        passes.turn += 1
        ctx.layers, ctx.passes, ctx.turn = layers, passes, passes.turn
        last = passes.layers[-1]
        last.out = torch.empty_like(last.z)
        for layer, own in zip(passes.layers, passes.own, strict=True):
            x = layer.forward(x, *parameters[own])
        last.out = None  # the result is the caller's, and soon knows of this function: a circle
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        passes, (x, *parameters) = ctx.passes, ctx.saved_tensors
        if passes.turn != ctx.turn:
            raise RuntimeError("the layers have computed something else since, over what this gradient needs")
        gradient, found = gradient.clone(memory_format=torch.contiguous_format), []
        inputs = [x, *(layer.out for layer in passes.layers[:-1])]
        for layer, its_input, own in reversed(list(zip(passes.layers, inputs, passes.own, strict=True))):
            gradient, by_own = layer.backward(gradient, its_input, *parameters[own])
            found.append(by_own)
        ctx.layers.free(passes)
        return gradient, None, None, *chain.from_iterable(reversed(found))


class FourierLayer(nn.Module):
    """The parameters of x + dropout(gelu(K x + Σ_k W_k x[n-k] + b)), k <= `reach`; `FourierLayers` applies it."""

    def __init__(
        self, n_points: int, n_space: int, modes_t: int, modes_x: int, width: int, dropout: float, reach: int = 0
    ) -> None:
        super().__init__()
        self.spectral = SpectralConvolution(n_points, n_space, modes_t, modes_x, width)
        self.taps = nn.ModuleList(nn.Linear(width, width, bias=k == 0) for k in range(1 + reach))
        with torch.no_grad():
            for tap in self.taps[1:]:
                tap.weight.mul_(0.5)
        self.reach, self.dropout = reach, nn.Dropout(dropout)


class FourierLayers(nn.ModuleList):
    """Fourier layers in turn, of a field (S, X, R B, C) of R rows of B samples -> (S, X, (R - Σ reach) B, C).

    Only rows that see all they reach back to are computed, so R > Σ reach.
    """

    def __init__(self, layers: Iterable[FourierLayer]) -> None:
        super().__init__(layers)
        self._passes: _Passes | None = None

    def forward(self, x: Tensor, rows: int = 1) -> Tensor:
        x, batch = x.contiguous(), x.shape[2] // rows
        forms, parameters = [], []
        for layer in self:
            forms.append(_Form(layer.spectral.transform, layer.reach, layer.dropout.p if self.training else 0.0))
            parameters.append([layer.spectral.weight, layer.taps[0].bias, *(tap.weight for tap in layer.taps)])
        if not torch.is_grad_enabled():  # a layer's memory is freed as soon as it is done
            for form, own in zip(forms, parameters, strict=True):
                x = _Pass(form, x, x.shape, batch, {}).forward(x, *own)
            return x
        key = forms, rows, x.shape, x.dtype, x.device
        passes, self._passes = self._passes, None  # not to be overwritten before its gradient is asked for
        if passes is None or passes.key != key:
            passes = _Passes(key, forms, x, batch)
        return _Chain.apply(x, self, passes, *chain.from_iterable(parameters))

    def __getstate__(self) -> dict[str, object]:
        """A copy or a pickle has no memory to keep."""
        return self.__dict__ | {"_passes": None}

    def free(self, passes: _Passes) -> None:
        """Keeps the memory for the next call; not on a GPU, where a graph may have recorded where it lies."""
        if passes.key[-1].type == "cpu":
            self._passes = passes
