"""What a task can start from that this run has not learned: an update, and the mean feature of its texts."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from clora_exp.adapters.exported import Pairs


@dataclass(frozen=True)
class Start:
    """One task that was learned elsewhere."""

    label: str  # task@version
    mean: Tensor  # (d,), of the frozen backbone's features
    train_sha256: str  # of its training texts
    pairs: Callable[[], Pairs]  # its update, read when it is chosen
