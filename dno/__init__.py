"""Delay neural operators: three ways to learn (history, delay, parameters) -> trajectory. Needs torch and numpy."""

from dno.checkpoint import load, save
from dno.ensemble import Ensemble
from dno.operator import Operator, OperatorSpec
from dno.registry import MODELS, OPERATORS, build_operator, check_hyperparameters, default_hyperparameters, objection

__all__ = [
    "MODELS",
    "OPERATORS",
    "Ensemble",
    "Operator",
    "OperatorSpec",
    "build_operator",
    "check_hyperparameters",
    "default_hyperparameters",
    "load",
    "objection",
    "save",
]
