"""What makes two runs the same run: every setting, datum and weight that decides its numbers, in eight hex digits."""

import dataclasses
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from clora_exp.config import ExperimentConfig
from clora_exp.structuring import PARTS

NOT_IN_HASH = (  # what does not change the numbers, and what a seed average spans
    "seed",
    "results_dir",
    "dry_run",
    "overwrite",
    "report",
    "reproduce",
    "logger",
    "store.path",
    "trainer.num_workers",
    "trainer.checkpoint_every",
    "trainer.energy",
)
SINCE = {  # fields that came when there were runs already, with what those did: at that value they are not hashed
    "scenario": "task_incremental",
    "store.parent": None,
    "method.old_path": "detached",
    "method.composition": "own",
    "method.magnitudes": "fixed",
    "method.head": "linear",
    "method.cosine_scale": 10.0,
    "method.trained_classes": "seen",
    "method.identifier": "gaussian",
    "method.gem.earlier_heads": "kept",
    "method.agem.earlier_heads": "kept",
    "tasks.icd10.sessions": 1,
    "trainer.max_eval_examples": None,
}


class Facts(Protocol):
    """What is asked of a stream here."""

    @property
    def names(self) -> list[str]: ...
    def fingerprints(self) -> dict[str, dict[str, str]]: ...


def run_folder(config: ExperimentConfig, stream: Facts, model_sha256: str) -> Path:
    """Return where a run lies: <results_dir>/<tasks>/<method>/<hash>-s<seed>."""
    place = Path(config.results_dir).expanduser() / config.tasks.name / config.method.name
    return place / f"{run_hash(config, stream, model_sha256)}-s{config.seed}"


def plain_config(config: ExperimentConfig) -> dict[str, Any]:
    """Return the configuration as Hydra composed it: parts stand under their own names again."""
    plain = dataclasses.asdict(config)
    for section, key in PARTS.items():
        plain[section] |= plain[section].pop(key)
    kind = plain["model"].pop("kind")
    plain["model"][kind] = plain["model"].pop("settings")
    return plain


def run_hash(config: ExperimentConfig, stream: Facts, model_sha256: str) -> str:
    """Return eight hex digits of what decides the numbers of a run, its seed apart.

    Content stands in for places: the data's fingerprints, and the weights' hash in place of where they lie.
    """
    plain = plain_config(config)
    for key in NOT_IN_HASH:
        section, _, name = key.rpartition(".")
        del (plain[section] if section else plain)[name]
    for key in ("path", "package", "subfolder", "recipe", "hub_id"):
        del plain["model"][key]
    del plain["tasks"]["description"]
    plain["tasks"] = _without(plain["tasks"], ("path", "revision"))
    for key, value in SINCE.items():
        *sections, name = key.split(".")
        place = plain
        for section in sections:
            place = place.get(section, {})
        if place.get(name, ...) == value:
            del place[name]
    plain = {section: value for section, value in plain.items() if value != {}}  # nothing of it is left
    identity = {"config": plain, "data": stream.fingerprints(), "tasks": stream.names, "model": model_sha256}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def _without(value: Any, names: Collection[str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without(inner, names) for key, inner in value.items() if key not in names}
