"""The records of a run folder and their strict reading; `docs/formats.md` describes every field."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

SCHEMA_VERSION = 1
ROLES = ("trial", "confirmation", "rerun")
STATUSES = ("complete", "pruned", "failed", "interrupted")

LATER = {"later": True}  # of a field that folders from before it was added lack

Scalar = bool | int | float | str | None
Metric = int | float | list[float]


class RecordError(ValueError):
    """A file of a run folder that cannot be read; one line that names what was expected and what came."""

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(text.split()))  # it may quote the file, line breaks and all


@dataclass(frozen=True)
class _Record:
    def to_json(self) -> str:
        """Valid JSON: numbers that are not finite become null."""
        return json.dumps(_plain(dataclasses.asdict(self)), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The record in this text. Raises RecordError for anything that this program would not have written."""
        return cls(**_checked_fields(cls, _parse(text)))


@dataclass(frozen=True)
class RunConfig(_Record):
    """Everything that is needed to train this trial again: `config.json`."""

    study: str
    slot: int
    attempt: int  # 0, and one more each time the slot's process was killed
    role: str  # one of ROLES
    search_type: str
    model: str
    family: str
    hyperparameters: dict[str, Scalar]  # all of them, defaults included
    seed: int  # of this training
    max_epochs: int
    patience: int
    max_seconds: float | None
    objectives: list[str]
    device: str
    threads: int
    data_root: str
    dataset_sha256: dict[str, str]  # by split
    versions: dict[str, str]  # python, torch, numpy, optuna
    command: str
    created: str  # ISO 8601 with offset
    origin: int | None = None  # of a confirmation: the slot whose configuration it repeats
    rungs: list[int] = field(default_factory=list, metadata=LATER)  # epochs at which a cycle of the learning rate ends
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _expect("role", self.role, ROLES)
        for name in ("model", "family"):
            value = getattr(self, name)
            if not value or "/" in value or "\\" in value or value.startswith("."):
                raise RecordError(f"{name}: expected a plain name that can be part of a folder's name, got {value!r}")


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: one row of `metrics.csv`. What was not computed is nan, and an empty cell in the file."""

    epoch: int  # from 1
    train_loss: float
    val_rel_error: float = math.nan
    learning_rate: float = math.nan
    gradient_norm: float = math.nan
    epoch_seconds: float = math.nan
    elapsed_seconds: float = math.nan  # since the training started


@dataclass(frozen=True)
class FinalResults(_Record):
    """How a run ended: `final_results.json`. `RunFolder.finish` fills `files` and `digest`."""

    status: str  # one of STATUSES
    reason: str | None
    metrics: dict[str, Metric]  # not computed: absent; not finite: null in the file, nan here
    seconds: dict[str, float]  # training, evaluation, total
    files: dict[str, str] = field(default_factory=dict)  # sha256 of the folder's other files, by relative path
    traceback: str | None = None
    digest: str = ""  # sha256 of this record without its digest
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _expect("status", self.status, STATUSES)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """As of every record; NaN and Infinity, which other programs write for a metric, are read as null."""
        return cls(**_checked_fields(cls, _parse(text, lambda name: None)))


def _expect(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RecordError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")


def _plain(value: object) -> object:
    """The value as JSON can hold it; numpy and torch numbers and arrays become Python's."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    raise RecordError(f"expected numbers, strings and lists of them in a record, got {type(value).__name__} {value!r}")


def _refuse_constant(name: str) -> None:
    raise RecordError(f"expected valid JSON, got the literal {name}")


def _whole_number(digits: str) -> int:
    if len(digits) > 19:
        raise RecordError(f"expected whole numbers of 64 bits, got {digits[:20]}...")
    return int(digits)


def _parse(text: str, constant: Callable[[str], None] = _refuse_constant) -> dict[str, object]:
    """The JSON object in a text; `constant` is told of NaN and Infinity, which are no JSON."""
    try:
        content = json.loads(text, parse_constant=constant, parse_int=_whole_number)
    except json.JSONDecodeError as error:
        raise RecordError(f"expected valid JSON, got {error.msg} at line {error.lineno}") from error
    except RecursionError as error:
        raise RecordError("expected a flat JSON object, got one nested too deeply") from error
    if not isinstance(content, dict):
        raise RecordError(f"expected a JSON object, got {type(content).__name__}")
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # half of a pair, which no text can hold
        raise RecordError("expected UTF-8 text, got an escape of half a character") from error
    return content


def _checked_fields(cls: type, content: dict[str, object]) -> dict[str, object]:
    version = content.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise RecordError(f"schema_version: expected {SCHEMA_VERSION}, got {version!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(content) - set(hints))
    if unknown:
        raise RecordError(f"{unknown[0]}: no such field is known")
    later = {field.name for field in dataclasses.fields(cls) if field.metadata == LATER}
    missing = [name for name in hints if name not in content and name not in later]
    if missing:
        raise RecordError(f"{missing[0]}: expected this field, got a file without it")
    return {name: _checked(name, content[name], hint) for name, hint in hints.items() if name in content}


def _checked(name: str, value: object, hint: object) -> object:
    """The value if it is of the annotated type, null becoming nan where only numbers are expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict and isinstance(value, dict):
        return {key: _checked(f"{name}.{key}", item, arguments[1]) for key, item in value.items()}
    if origin is list and isinstance(value, list):
        return [_checked(name, item, arguments[0]) for item in value]
    if origin is types.UnionType:
        # The value's own type first: a whole number stays one where int and float are both allowed.
        members = sorted(arguments, key=lambda member: member is not type(value))
        return _first_fitting(name, value, members, hint)
    if hint is float and value is None:
        return math.nan
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint is not float and type(value) is hint:
        return value
    raise _mismatch(name, value, hint)


def _first_fitting(name: str, value: object, members: list[object], hint: object) -> object:
    for member in members:
        try:
            return _checked(name, value, member)
        except RecordError:
            continue
    raise _mismatch(name, value, hint)


def _mismatch(name: str, value: object, hint: object) -> RecordError:
    text = repr(value)
    expected = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return RecordError(f"{name}: expected {expected}, got {text if len(text) <= 60 else text[:57] + '...'}")
