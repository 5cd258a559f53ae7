"""Saved operators: one file that holds what is needed to build the operator again, and a digest of its weights."""

import dataclasses
import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from dno.operator import Operator, OperatorSpec
from dno.registry import OPERATORS, build_operator

FORMAT = "delay-neural-operator"
FORMAT_VERSION = 1


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and bytes of all tensors, in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def save(operator: Operator, path: str | Path, metadata: Mapping[str, object] | None = None) -> None:
    """Write the operator to `path`. Metadata: plain strings, numbers, lists and dicts for a person to read."""
    name = next(name for name, kind in OPERATORS.items() if type(operator) is kind)
    state = {key: value.detach().cpu().clone() for key, value in operator.state_dict().items()}
    spec = dataclasses.asdict(operator.spec) | {"traits": sorted(operator.spec.traits)}
    torch.save(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "operator": name,
            "hyperparameters": dict(operator.hyperparameters),
            "spec": spec | {"parameter_names": list(operator.spec.parameter_names)},
            "state": state,
            "sha256": _digest(state),
            "metadata": dict(metadata or {}),
        },
        path,
    )


def load(path: str | Path, device: str | torch.device = "cpu") -> Operator:
    """The operator saved at `path`, ready to `predict`. Runs no code from the file; a damaged file is a ValueError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; a run folder keeps its own in artifacts/best_model.pt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not a readable checkpoint ({type(error).__name__}); train it again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: not a delay neural operator checkpoint")
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(f"{path}: format version {content['format_version']}, expected {FORMAT_VERSION}")
    if content["sha256"] != _digest(content["state"]):
        raise ValueError(f"{path}: the weights differ from their sha256: the file was altered; train it again")
    spec = OperatorSpec(
        channels=content["spec"]["channels"],
        points_per_delay=content["spec"]["points_per_delay"],
        parameter_names=tuple(content["spec"]["parameter_names"]),
        traits=frozenset(content["spec"]["traits"]),
    )
    operator = build_operator(content["operator"], content["hyperparameters"], spec)
    operator.load_state_dict(content["state"])
    return operator.to(device).eval()
