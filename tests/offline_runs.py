"""Reads the transaction log of a W&B run that was logged offline, so that tests can look at what was logged."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER = 7
BLOCK = 32768
CHUNK = struct.Struct("<IHB")  # crc, length, type: 1 whole, 2 first, 3 middle, 4 last


@dataclass
class OfflineRun:
    """What one offline run holds."""

    group: str = ""
    job_type: str = ""
    name: str = ""
    entity: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, object] = field(default_factory=dict)
    history: list[dict[str, object]] = field(default_factory=list)
    summary: dict[str, object] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)  # step metric of each defined metric
    artifacts: dict[str, list[str]] = field(default_factory=dict)  # file names by artifact type
    exit_code: int | None = None


def offline_folders(results_dir: Path) -> list[Path]:
    """The folders of all offline runs below a results folder."""
    return sorted((results_dir / "wandb").glob("offline-run-*"))


def read_offline_run(folder: Path) -> OfflineRun:
    """The offline run in this folder."""
    (path,) = folder.glob("*.wandb")
    run = OfflineRun()
    for content in _messages(path.read_bytes()):
        record = Record()
        record.ParseFromString(content)
        _take(run, record)
    return run


def _messages(content: bytes) -> list[bytes]:
    """The records of a LevelDB log: chunks in blocks of 32 KiB, the first block beginning with a file header."""
    assert content[:4] == b":W&B"
    messages, parts, position = [], [], FILE_HEADER
    while position + CHUNK.size <= len(content):
        left = BLOCK - position % BLOCK
        if left < CHUNK.size:
            position += left
            continue
        _, length, kind = CHUNK.unpack_from(content, position)
        if kind == 0:
            position += left
            continue
        start = position + CHUNK.size
        parts.append(content[start : start + length])
        position = start + length
        if kind in (1, 4):
            messages.append(b"".join(parts))
            parts = []
    return messages


def _values(items: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for item in items:
        *path, last = item.nested_key or [item.key]
        place = found
        for name in path:
            place = place.setdefault(name, {})
        place[last] = json.loads(item.value_json)
    return found


def _take(run: OfflineRun, record: Record) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        for name in ("job_type", "entity", "project"):
            setattr(run, name, getattr(record.run, name))
        run.group, run.name = record.run.run_group, record.run.display_name
        run.tags = list(record.run.tags)
        run.config |= _values(record.run.config.update)
    elif kind == "config":
        run.config |= _values(record.config.update)
    elif kind == "history":
        run.history.append(_values(record.history.item))
    elif kind == "summary":
        run.summary |= _values(record.summary.update)
    elif kind == "metric":
        run.steps[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    elif kind == "artifact":
        names = [entry.path for entry in record.artifact.manifest.contents]
        run.artifacts.setdefault(record.artifact.type, []).extend(names)
    elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
        artifact = record.request.log_artifact.artifact
        run.artifacts.setdefault(artifact.type, []).extend(entry.path for entry in artifact.manifest.contents)
    elif kind == "exit":
        run.exit_code = record.exit.exit_code
