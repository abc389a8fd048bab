"""Proof that an exported folder is the task it was made from: reloaded by other software, measured, written down."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from clora_exp.adapters.exported import Exported
from clora_exp.errors import ModelError
from clora_exp.files import write_atomically
from clora_exp.tasks.stream import Example

TOLERANCE = 1e-5  # of a layer's update (merged: of its weights) and of the logits, each over its largest number
NAME = "certificate.json"


def certify(
    folder: Path, exported: Exported, base: Path, probe: Sequence[Example], logits: Tensor, *, is_merged: bool = False
) -> dict[str, Any]:
    """Reload `folder` in a fresh process with PEFT and transformers alone, and keep what was measured in it.

    Args:
        base: the base model's folder.
        probe, logits: what the task answered before it was exported, (n, c).

    Raises:
        ModelError: the folder does not load there, or a layer's update or a logit is further off than `TOLERANCE`.
    """
    found = _reloaded(folder, exported, base, probe, logits, is_merged)
    assert not found["foreign"], found["foreign"]
    errors = {"the logits": found["logits"], **{f"the update of {n}": e for n, e in found["updates"].items()}}
    for what, error in errors.items():
        if not error <= TOLERANCE:
            raise ModelError(
                f"{folder}: {what} differ by {error:.1e} when reloaded; at most {TOLERANCE:.0e} is allowed"
            )
    if found["left_over"]:
        raise ModelError(f"{folder}: {found['left_over'][0]} is adapted when reloaded and was not before")
    weights = sorted(folder.glob("*.safetensors"))
    certificate = {
        "task": exported.task,
        "base": exported.base,
        "reloaded_with": found["versions"],
        "tolerance": TOLERANCE,
        "largest_error_of_an_update": max(found["updates"].values()),
        "largest_error_of_a_logit": found["logits"],
        "same_answers": found["same_answers"],
        "num_examples": len(probe),
        "error_of_each_update": found["updates"],
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in weights},
    }
    write_atomically(folder / NAME, (json.dumps(certificate, indent=2) + "\n").encode())
    return certificate


def _reloaded(
    folder: Path, exported: Exported, base: Path, probe: Sequence[Example], logits: Tensor, is_merged: bool
) -> dict[str, Any]:
    """Return what `reload.py` measures in a process of its own; `certify` says what it raises."""
    with TemporaryDirectory() as temporary:
        expected = {f"A/{name}": A.double().cpu().contiguous() for name, (A, _) in exported.pairs.items()}
        expected |= {f"B/{name}": B.double().cpu().contiguous() for name, (_, B) in exported.pairs.items()}
        save_file(expected | {"logits": logits.double().cpu().contiguous()}, Path(temporary) / "expected.safetensors")
        specification = {
            "code": exported.code,
            "base": str(base),
            "here": str(folder),
            "texts": [example.text for example in probe],
            "images": [base64.b64encode(example.image_bytes).decode() for example in probe if example.image],
            "expected": str(Path(temporary) / "expected.safetensors"),
            "prefix": exported.classifier.prefix if exported.classifier else "",
            "is_merged": is_merged,
        }
        done = subprocess.run(
            [sys.executable, "-I", str(Path(__file__).with_name("reload.py"))],
            input=json.dumps(specification),
            capture_output=True,
            text=True,
            cwd=temporary,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"{folder} does not load with PEFT and transformers alone: {reason}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
