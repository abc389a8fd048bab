"""What the tests of the loggers share: a run that is stopped in the middle of a task, and W&B's files read back.

A .wandb file is a log of LevelDB's format behind a header of seven bytes: blocks of 32 KiB, records in chunks of
checksum, length and type (full 1, first 2, middle 3, last 4), each record one message of wandb's own protocol.
"""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from trials import quiet
from wandb.proto import wandb_internal_pb2 as protocol

from clora_exp.config import ExperimentConfig
from clora_exp.errors import Interrupted
from clora_exp.loop import ingredients, run
from clora_exp.results import RunDirectory
from clora_exp.tasks.stream import load_stream

BLOCK, CHUNK = 32768, struct.Struct("<IHB")


class Stop(lightning.Callback):
    """Raises an error after a step of a task."""

    def __init__(self, task: str, step: int, error: Exception) -> None:
        self.at, self.error = (task, step), error

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if (pl_module.task_name, len(pl_module.steps)) == self.at:
            raise self.error


def stopped(config: ExperimentConfig, task: str, step: int, error: Exception) -> None:
    """Run until a step of a task, where the error is raised."""
    try:
        run(config, "python run.py", quiet(), [Stop(task, step, error)])
    except type(error):
        return
    raise AssertionError("the run was not stopped")


def stopped_and_gone_on(config: ExperimentConfig) -> RunDirectory:
    """Return a run that was stopped after step 3 of its second task, and went on."""
    stopped(config, tasks_of(config)[1], 3, Interrupted(15))
    return run(config, "python run.py", quiet())


def tasks_of(config: ExperimentConfig) -> list[str]:
    """Return the names of the word tasks, in their order."""
    return load_stream(config.tasks, config.data_seed).names


def name_of(config: ExperimentConfig) -> str:
    """Return what the folder of the run is called."""
    return RunDirectory(config, *ingredients(config, quiet())).path.name


class Kept:
    """One run of W&B, read back from the files of all its pieces."""

    def __init__(self, results: Path, begins: str) -> None:
        """Read the newest run whose id begins so."""
        pieces = sorted((results / ".wandb").glob(f"offline-run-*-{begins}-*/run-*.wandb"))
        self.id = pieces[-1].stem.removeprefix("run-")
        self.pieces = [piece for piece in pieces if piece.stem == f"run-{self.id}"]
        deadline = time.monotonic() + 60
        while True:  # wandb's own process writes the end of a run a little later where the machine is busy
            each = [list(_records(piece)) for piece in self.pieces]
            if any(record.WhichOneof("record_type") == "exit" for record in each[-1]) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        self.records = [record for records in each for record in records]
        self.run = next(self.of("run"))
        self.config = {update.key: json.loads(update.value_json) for update in self.run.config.update}

    def of(self, kind: str) -> Iterator[Any]:
        """Yield the records of a kind."""
        return (getattr(record, kind) for record in self.records if record.WhichOneof("record_type") == kind)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every logged row, in order; `_step` is its number."""
        return [_plain(row.item) for row in self.of("history")]

    @property
    def summary(self) -> dict[str, Any]:
        """The last value of every key."""
        return {key: value for record in self.of("summary") for key, value in _plain(record.update).items()}

    @property
    def exit_codes(self) -> list[int]:
        """How each piece ended."""
        return [record.exit_code for record in self.of("exit")]

    def file(self, media: dict[str, Any]) -> Path:
        """Return where a logged table or image lies."""
        return self.pieces[-1].parent / "files" / media["path"]


def _records(path: Path) -> Iterator[Any]:
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, record = 7, b""
    while at + CHUNK.size <= len(content):
        if BLOCK - at % BLOCK < CHUNK.size:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = CHUNK.unpack_from(content, at)
        if at + CHUNK.size + length > len(content):  # still being written
            return
        record += content[at + CHUNK.size : at + CHUNK.size + length]
        at += CHUNK.size + length
        if kind in (1, 4):
            message = protocol.Record()
            message.ParseFromString(record)
            yield message
            record = b""


def _plain(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        *outer, name = item.nested_key or [item.key]
        place = found
        for key in outer:
            place = place.setdefault(key, {})
        place[name] = json.loads(item.value_json)
    return found
