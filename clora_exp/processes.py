"""The processes of one run, as torchrun starts them: each computes its share of every batch, the first one writes.

Everything here is trivial in a run of one process, which is the ordinary case. Imports torch where there are several.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

RANK, WORLD, LOCAL_RANK, LOCAL_WORLD = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"

NO_SWEEP = (
    "a sweep runs each job in one process; start one job over several devices with torchrun and without -m, "
    "or the sweep with python, each job on a device of its own"
)


def world_size() -> int:
    """Return how many processes this run has."""
    return int(os.environ[WORLD]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Return which of them this is; 0 writes."""
    return int(os.environ[RANK]) if world_size() > 1 else 0


def num_here() -> int:
    """Return how many of them are on this machine."""
    return int(os.environ[LOCAL_WORLD]) if world_size() > 1 else 1


def launcher() -> list[str]:
    """Return what this run was started with: python, or torchrun and its number of processes."""
    if world_size() == 1:
        return ["python"]
    nodes = world_size() // num_here()
    return ["torchrun", *([f"--nnodes={nodes}"] if nodes > 1 else []), f"--nproc-per-node={num_here()}"]


@contextmanager
def joined() -> Iterator[None]:
    """Connect the processes while the block runs: NCCL where each has a GPU, else gloo."""
    if world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    has_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= num_here()
    if has_gpus:
        torch.cuda.set_device(int(os.environ[LOCAL_RANK]))
    dist.init_process_group("nccl" if has_gpus else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait() -> None:
    """Wait for the other processes to come here."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


def any_of(claim: bool) -> bool:
    """Return whether the claim holds in one of the processes; all must ask."""
    return claim if world_size() == 1 else bool(sums(float(claim))[0] > 0)


def sums(*values: float) -> list[float]:
    """Return each value summed over the processes; all must ask."""
    if world_size() == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()


def gathered(value: Any) -> list[Any]:
    """Return the value of every process, in their order; all must ask."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def share(rows: Sequence[Any]) -> Sequence[Any]:
    """Return this process's share of a batch's rows; of fewer rows than processes each has all, which means the same.

    Shares may differ by a row: the mean over all is that of the shares' means weighted by their sizes.
    """
    return rows if len(rows) < world_size() else rows[rank() :: world_size()]
