"""Where trajectories come from and where they lie: families, histories, the solver, datasets, batches."""

from data.families import FAMILIES
from data.solver import solve

__all__ = ["FAMILIES", "solve"]
