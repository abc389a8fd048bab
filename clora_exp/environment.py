"""What a run ran on: versions, commit, hardware, data. Enough to say later why two runs differ."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from clora_exp.tasks.stream import TaskStream

PACKAGES = (
    "clora-exp",
    "torch",
    "transformers",
    "peft",
    "pytorch-lightning",
    "hydra-core",
    "numpy",
    "pandas",
    "safetensors",
    "tokenizers",
)


def describe_environment(stream: TaskStream, model_sha256: str, device: torch.device) -> dict[str, Any]:
    """Return versions, commit, hardware, threads and fingerprints, as JSON values."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch_threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
        "model_sha256": model_sha256,
        "data_sha256": stream.fingerprints(),
    }


def _commit() -> str | None:
    """Return the checkout's commit, "+changes" where files differ from it, None outside a checkout."""
    root = Path(__file__).parent.parent
    try:
        show = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(show, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
