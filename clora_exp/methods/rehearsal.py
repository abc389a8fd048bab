"""What strategies that keep examples have in common: the keys of a bounded memory, and when rehearsing makes sense."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from clora_exp.config import STRICT, Count, ExperimentConfig
from clora_exp.methods.invariant import Invariant
from clora_exp.methods.memory import ExampleMemory, Selection, memory_promises
from clora_exp.methods.projection import flattened
from clora_exp.methods.strategy import Strategy

EarlierHeads = Literal["kept", "trained"]  # of a constraint, with a head a task: see gem.py


@dataclass(frozen=True)
class MemoryConfig:
    """Bounds of a memory. Not the Config of a strategy itself."""

    __pydantic_config__ = STRICT
    selection: Selection = "reservoir"  # or class_balanced
    capacity: Count | None = None  # examples
    capacity_bytes: Count | None = None


class Rehearsal(Strategy):
    """A strategy with an example memory; it draws from generators of its own, seeded by the run's seed."""

    in_processes: ClassVar[str] = "the memory is the same in every process, and so is what is drawn from it"
    trains_earlier_heads = True
    memory: ExampleMemory

    @classmethod
    def objection(cls, config: ExperimentConfig) -> str | None:
        """Earlier tasks' examples teach nothing where all that answers them is frozen."""
        if config.method.trainable == "adapters" and config.method.inference_routing == "snapshot":
            return "method.inference_routing=snapshot: earlier tasks' routings are frozen, their examples teach nothing"
        return nothing_shared(config)

    def gradient_of(self, places: list[int]) -> Tensor:
        """Return the gradient of the mean loss on kept examples at today's parameters, (p,), of all that trains.

        In the session's precision and batches of its size; where a setting's mechanism changes the factors' gradients,
        the loss's own: a constraint is on the loss.
        """
        method, total = self.method, None
        parameters = method.trained_parameters()
        with method.whole_gradients(), torch.enable_grad():
            for start in range(0, len(places), method.batch_size):
                chunk = places[start : start + method.batch_size]
                kept, _ = self.memory.batch(chunk, method.model, method.device)
                with method.autocast():
                    loss = method.loss(kept, method.answer(kept)) * (len(chunk) / len(places))
                part = flattened(torch.autograd.grad(loss, parameters, allow_unused=True), parameters)
                total = part if total is None else total + part
        assert total is not None
        return total

    @classmethod
    def invariants(cls) -> Iterator[Invariant]:
        """The memory."""
        yield from memory_promises()

    def state_dict(self) -> dict[str, Any]:
        """Return the memory's state."""
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.memory.load_state_dict(state["memory"])


def nothing_shared(config: ExperimentConfig) -> str | None:
    """Return why it is no use to hold on to earlier tasks; None where something that answers them goes on training."""
    method = config.method
    if method.trainable == "heads" and config.scenario == "task_incremental":
        return "method.trainable=heads with a head a task: nothing that answers earlier tasks goes on training"
    if method.trainable == "adapters" and not method.forgets:
        return "with this adapter setting nothing that answers earlier tasks goes on training: they cannot be forgotten"
    return None
