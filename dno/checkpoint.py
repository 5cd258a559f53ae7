"""Saved operators: one file with what is needed to build the operator again, and a sha256 over all of it.

The layout is that of safetensors: 8 bytes that hold the length of a JSON header, the header, the bytes of the tensors.
Nothing in it can be code. `__metadata__` of the header holds the operator's description and the digest of the whole
file, its own 64 digits taken as zeros: one flipped bit went unnoticed in 716 of 800 files of `torch.save`, here in
none.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

from dno.ensemble import Ensemble
from dno.operator import Operator, OperatorSpec
from dno.registry import OPERATORS, build_operator

FORMAT = "delay-neural-operator"
FORMAT_VERSION = 2
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
LARGEST_FILE = 4 * 2**30  # bytes
LARGEST_HEADER = 16 * 2**20
LARGEST_NUMBER = 4096  # of points, channels, width, ...
SPARE_NUMBERS = 2**20
NO_DIGEST = "0" * 64


def save(operator: Operator, path: str | Path, metadata: Mapping[str, object] | None = None) -> None:
    """Write the operator to `path`. Metadata: plain strings, numbers, lists and dicts for a person to read."""
    spec = dataclasses.asdict(operator.spec) | {"traits": sorted(operator.spec.traits)}
    members = operator.members if isinstance(operator, Ensemble) else [operator]
    described = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "sha256": NO_DIGEST,
        "operator": next(name for name, kind in OPERATORS.items() if type(members[0]) is kind),
        "members": str(len(members)),
        "hyperparameters": json.dumps(operator.hyperparameters, allow_nan=False),
        "spec": json.dumps(spec | {"parameter_names": list(operator.spec.parameter_names)}),
        "metadata": json.dumps(dict(metadata or {}), allow_nan=False),
    }
    header: dict[str, object] = {"__metadata__": described}
    parts, end = [], 0
    for name, value in operator.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        parts.append(tensor.flatten().view(torch.uint8).numpy().tobytes())
        start, end = end, end + len(parts[-1])
        kind = next(key for key, dtype in DTYPES.items() if dtype == tensor.dtype)
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    content = bytearray().join([len(text).to_bytes(8, "little"), text, *parts])
    place = content.index(f'"sha256":"{NO_DIGEST}"'.encode()) + len('"sha256":"')
    content[place : place + 64] = hashlib.sha256(content).hexdigest().encode()
    Path(path).write_bytes(content)


def load(path: str | Path, device: str | torch.device = "cpu") -> Operator:
    """The operator saved at `path`, ready to `predict`. Runs no code from the file; a damaged file is a ValueError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; a run folder keeps its own in artifacts/best_model.pt")
    try:
        return _operator(_read(path)).to(device).eval()
    except _Damaged as problem:
        raise ValueError(f"{path}: {problem}") from problem


class _Damaged(ValueError):
    """What is wrong with a file, in one line."""


class _Allowance(TorchFunctionMode):
    """Refuses to make more numbers than the file itself holds: a small file must not ask for all memory.

    (`torch.device("meta")` would tell the shapes as well, but loads 800 modules in 0.9 s.)
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self._left = numbers

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        if func in (torch.empty, torch.zeros, torch.ones, torch.randn):
            sizes = args[0] if args and isinstance(args[0], tuple | list) else args
            self._left -= math.prod(sizes)
            if self._left < 0:
                raise _Damaged("describes a larger operator than it holds weights of; train it again")
        return func(*args, **(kwargs or {}))


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise _Damaged(f"expected at most {LARGEST_FILE} bytes, got {size}: not a checkpoint")
        return path.read_bytes()
    except OSError as error:
        raise _Damaged(f"not a readable checkpoint ({error.strerror})") from error


def _operator(content: bytes) -> Operator:
    """The operator that the bytes of a file describe."""
    header, data = _header(content)
    described = header.pop("__metadata__")
    if described.get("format") != FORMAT:
        raise _Damaged("not a delay neural operator checkpoint")
    if described.get("format_version") != str(FORMAT_VERSION):
        raise _Damaged(f"format version {described.get('format_version')}, expected {FORMAT_VERSION}")
    _check_digest(content, described.get("sha256"))
    state = {name: _tensor(name, entry, data) for name, entry in header.items()}
    try:
        spec = _spec(json.loads(described["spec"]))
        hyperparameters = json.loads(described["hyperparameters"])
        _check_numbers(hyperparameters, len(state))
        count = _count(described.get("members", "1"), len(state))
        with _Allowance(SPARE_NUMBERS + 2 * sum(tensor.numel() for tensor in state.values())):
            members = [build_operator(described["operator"], hyperparameters, spec) for _ in range(count)]
        operator = Ensemble(members) if count > 1 else members[0]
    except _Damaged:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RuntimeError, ZeroDivisionError) as error:
        text = " ".join(str(error).split())[:200]
        raise _Damaged(f"describes no operator of this version ({type(error).__name__}: {text})") from error
    _check_shapes(state, operator.state_dict())
    operator.load_state_dict(state)
    return operator


def _header(content: bytes) -> tuple[dict[str, dict], memoryview]:
    """The parsed header, every entry a dict, and the bytes of the tensors."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= length <= min(LARGEST_HEADER, len(content) - 8):
        raise _Damaged("not a readable checkpoint (no header): cut, damaged or of another kind; train it again")
    try:
        header = json.loads(content[8 : 8 + length].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _Damaged("not a readable checkpoint (its header is no JSON): damaged; train it again") from error
    is_table = isinstance(header, dict) and all(isinstance(entry, dict) for entry in header.values())
    if not is_table or "__metadata__" not in header:
        raise _Damaged("not a readable checkpoint (its header describes nothing); train it again")
    return header, memoryview(content)[8 + length :]


def _check_digest(content: bytes, stated: object) -> None:
    digits = stated.encode() if isinstance(stated, str) else b""
    place = content.find(b'"sha256":"' + digits + b'"') + len('"sha256":"')
    digest = hashlib.sha256(content[:place])
    digest.update(NO_DIGEST.encode())
    digest.update(memoryview(content)[place + 64 :])
    if len(digits) != 64 or digest.hexdigest().encode() != digits:
        raise _Damaged("the file differs from its sha256: it was cut or altered; train it again")


def _tensor(name: str, entry: Mapping[str, object], data: memoryview) -> torch.Tensor:
    """The tensor of one entry of the header, a copy."""
    dtype, shape, offsets = DTYPES.get(str(entry.get("dtype"))), entry.get("shape"), entry.get("data_offsets")
    is_whole = all(isinstance(v, list) and all(type(n) is int and n >= 0 for n in v) for v in (shape, offsets))
    if dtype is None or not is_whole or len(offsets) != 2:
        raise _Damaged(f"{name}: expected dtype, shape and data_offsets, got {str(dict(entry))[:80]}")
    start, end = offsets
    if not start <= end <= len(data) or end - start != math.prod(shape) * dtype.itemsize:
        raise _Damaged(f"{name}: shape {shape} does not fit bytes {start} to {end} of {len(data)}")
    values = torch.frombuffer(bytearray(data[start:end]), dtype=dtype) if end > start else torch.empty(0, dtype=dtype)
    if not torch.isfinite(values).all():
        raise _Damaged(f"{name}: holds values that are not finite; train it again")
    return values.view(shape)


def _spec(fields: Mapping[str, object]) -> OperatorSpec:
    spec = OperatorSpec(
        channels=fields["channels"],
        points_per_delay=fields["points_per_delay"],
        parameter_names=tuple(fields["parameter_names"]),
        traits=frozenset(fields["traits"]),
    )
    texts = all(isinstance(name, str) for name in (*spec.parameter_names, *spec.traits))
    counts = (spec.channels, spec.points_per_delay)
    if not texts or any(type(count) is not int or not 1 <= count <= LARGEST_NUMBER for count in counts):
        raise _Damaged(f"spec: expected names and counts from 1 to {LARGEST_NUMBER}, got {str(dict(fields))[:80]}")
    return spec


def _count(members: object, n_tensors: int) -> int:
    """How many operators the file holds: more than one are an ensemble."""
    if not isinstance(members, str) or not members.isdecimal() or not 1 <= int(members) <= n_tensors:
        raise _Damaged(f"members: expected a whole number from 1 to {n_tensors}, got {str(members)[:20]!r}")
    return int(members)


def _check_numbers(hyperparameters: Mapping[str, object], n_tensors: int) -> None:
    for name, value in hyperparameters.items():
        largest = n_tensors if name == "n_layers" else LARGEST_NUMBER
        if isinstance(value, int) and value > largest:
            raise _Damaged(f"{name}: expected at most {largest}, got {value}")


def _check_shapes(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        shapes = [tuple(side[name].shape) if name in side else "nothing" for side in (expected, found)]
        if shapes[0] != shapes[1]:
            raise _Damaged(f"{name}: expected {shapes[0]}, got {shapes[1]}: weights of another operator")
