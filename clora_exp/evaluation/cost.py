"""What a task costs beside its accuracy: parameters, bytes, seconds, memory, energy; a row a session in `cost.csv`."""

import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from clora_exp.evaluation.energy import OFF, Energy, EnergyMeter

PROC = Path("/proc/self")


@dataclass(frozen=True)
class TaskCost:
    """The cost of one session. `adapter_bytes` is the size of adapter.safetensors, head included.

    `answering_bytes` is all that answers the tasks so far, beside a frozen backbone: adapters, heads, what identifies
    tasks, or the whole of a backbone that trains. `kept_bytes` is what later tasks are learned by, e.g. examples.
    `energy_joules` is of learning, see `energy.py`; None where `energy_source` is off or unknown, with the reason.
    """

    task: str
    trainable_parameters: int
    adapter_bytes: int
    train_seconds: float
    evaluation_seconds: float
    peak_memory_bytes: int  # of the whole process; on a GPU what torch allocated there
    answering_bytes: int = 0
    kept_bytes: int = 0
    energy_joules: float | None = None
    energy_source: str = OFF  # or measured, estimated, "unknown: …"
    evaluated_examples: int = 0  # in evaluation_seconds: answers that cannot have changed are carried over


class CostMeter:
    """Measures one session from its making on; `earlier_s` are the seconds that an interrupted one has trained."""

    def __init__(self, device: torch.device, earlier_s: float = 0.0, energy: EnergyMeter | None = None) -> None:
        self._device, self._meter, self._energy = device, energy, Energy()
        self._is_whole = earlier_s == 0
        if energy is not None:
            energy.start()
        self._started = time.perf_counter() - earlier_s
        self._train_seconds, self._num_trainable = 0.0, 0
        restart_peak_memory(device)

    def has_trained(self, num_trainable: int) -> None:
        """Say that training is over, and how many parameters it moved."""
        self._num_trainable = num_trainable
        self._train_seconds = time.perf_counter() - self._started
        if self._meter is not None:
            counted = self._meter.stop()
            goes_on = counted.source != OFF and not self._is_whole
            self._energy = Energy(None, "unknown: the session was interrupted") if goes_on else counted

    def of(
        self,
        task: str,
        adapter_bytes: int,
        answering_bytes: int,
        kept_bytes: int,
        evaluation_seconds: float,
        evaluated_examples: int,
    ) -> TaskCost:
        """Return the session's cost."""
        return TaskCost(
            task,
            self._num_trainable,
            adapter_bytes,
            round(self._train_seconds, 3),
            round(evaluation_seconds, 3),
            peak_memory_bytes(self._device),
            answering_bytes,
            kept_bytes,
            self._energy.joules,
            self._energy.source,
            evaluated_examples,
        )


def restart_peak_memory(device: torch.device) -> None:
    """Let the next `peak_memory_bytes` count from here; where the system cannot, it counts from the process's start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (PROC / "clear_refs").write_text("5")  # Linux: resets VmHWM, see proc(5)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the largest resident memory since `restart_peak_memory`, in bytes; of the GPU where there is one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", (PROC / "status").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except ImportError:  # Windows keeps the peak in its own field
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
