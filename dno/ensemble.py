"""Several operators of one configuration, trained from different seeds: their mean, and an error estimate beside it.

Where independently trained operators differ, at least one of them is wrong (Lakshminarayanan et al. 2017, "Simple and
scalable predictive uncertainty estimation using deep ensembles"). How large an error a spread stands for is measured
on trajectories that no member was trained on (split conformal prediction: Papadopoulos et al. 2002, Lei et al. 2018).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dno.metrics import norm, quantile
from dno.operator import Operator

COVERAGE = 0.9  # of trajectories whose error is to lie below its estimate


class Ensemble(Operator):
    """The mean of its members. `predict_with_error` says beside it how far it may be off."""

    def __init__(self, members: Sequence[Operator]) -> None:
        first = members[0]
        kinds = {(type(member), member.spec, repr(_configuration(member))) for member in members}
        if len(members) < 2 or len(kinds) > 1:
            raise ValueError("an ensemble needs at least two operators of one configuration and one family")
        super().__init__(first.spec, log_state=False, homogeneous=False)
        self.members = nn.ModuleList(members)
        self.hyperparameters = _configuration(first)
        self.register_buffer("error_factor", torch.zeros(()))  # 0: not calibrated

    def typical(self) -> tuple[float, dict[str, float]]:
        return self.members[0].typical()

    def spread(self, history: Tensor, tau: Tensor, params: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over members of the trajectory, both (B, n_steps, C)."""
        paths = torch.stack([member(history, tau, params, n_steps) for member in self.members])
        return paths.mean(0), paths.std(0)

    def forward(
        self, history: Tensor, tau: Tensor, params: Tensor, n_steps: int, lengths: Tensor | None = None
    ) -> Tensor:
        return self.spread(history, tau, params, n_steps)[0]

    @torch.no_grad()
    def calibrate(self, history: Tensor, tau: Tensor, params: Tensor, solution: Tensor, mask: Tensor) -> float:
        """Set and return the factor from spread to error estimate, from trajectories that no member has trained on.

        history (N, M+1, C), tau (N,), params (N, P), solution (N, T, C), mask (N, T). The factor is such that for
        COVERAGE of them ‖x̂ - x‖ ≤ factor · ‖spread‖. ValueError where no such number exists.
        """
        self.eval()
        mean, deviation = self.spread(history, tau, params, solution.shape[1])
        ratio = norm(mean - solution, mask) / norm(deviation, mask)
        ratio = torch.where(ratio.isnan(), torch.inf, ratio)
        # The finite-sample rank of split conformal prediction: (n + 1) · COVERAGE of n.
        rank = min(1.0, math.ceil((len(ratio) + 1) * COVERAGE) / len(ratio))
        factor = quantile(ratio, rank)
        if not 0 < factor < math.inf:
            raise ValueError("the spread of this ensemble cannot be calibrated: its members do not differ, or diverge")
        self.error_factor.fill_(factor)
        return factor

    def predict_with_error(
        self,
        history: np.ndarray | Callable[[np.ndarray], np.ndarray],
        tau: float | np.ndarray,
        params: Mapping[str, float | np.ndarray],
        times: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `predict` returns, and an estimate of its error in the same shape and units.

        The root mean square of the error over a trajectory lies below that of the estimate for COVERAGE of trajectories
        like those of the calibration. Raises ValueError before `calibrate`.
        """
        if not self.error_factor > 0:
            raise ValueError("this ensemble is not calibrated: call calibrate with a validation split first")
        paths = np.stack([member.predict(history, tau, params, times) for member in self.members])
        return paths.mean(0), float(self.error_factor) * paths.std(0, ddof=1)


def _configuration(operator: Operator) -> dict[str, object] | None:
    return getattr(operator, "hyperparameters", None)
