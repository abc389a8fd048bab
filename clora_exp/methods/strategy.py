"""What a new method subclasses: the hooks that the loop and a session call. `base.py` calls them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor

from clora_exp.adapters.active import Active
from clora_exp.config import ExperimentConfig, ScenarioName
from clora_exp.methods.invariant import Invariant
from clora_exp.models.batches import Batch
from clora_exp.tasks.stream import Task

if TYPE_CHECKING:
    from clora_exp.methods.base import Method

EVERY_SCENARIO: tuple[ScenarioName, ...] = ("task_incremental", "class_incremental", "domain_incremental")


class Answer(NamedTuple):
    """What the model gives for a batch in training: features (n, d), and logits (n, c) before any mask of classes.

    Of a language model hidden states (m, d) and the vocabulary's logits (m, V) at the m tokens of the answers. What
    they are to predict is `TaskModel.targets(batch)`; the loss is `Method.loss(batch, answer)`.
    """

    features: Tensor
    logits: Tensor


class Strategy:
    """What a method adds to plain training. Every hook has a harmless default; none sees a Trainer, logger or file.

    A strategy `x` is the one subclass in `methods/x.py`, beside its `Config`. Apart from gradients in
    `before_optimizer_step`, hooks return values and change nothing but the strategy's own state. What it draws comes
    from a generator of its own, so that at strength 0 it trains as its bare setting does.
    """

    source: ClassVar[str] = ""  # the paper
    stores: ClassVar[str] = "nothing"  # between tasks
    step_cost: ClassVar[str] = "flat"  # of an optimiser step, in the number of tasks before
    task_cost: ClassVar[str] = "none"  # around a task
    scenarios: ClassVar[tuple[ScenarioName, ...]] = EVERY_SCENARIO
    needs_heads: ClassVar[bool] = False  # it works on logits of heads, a few an example
    trains_earlier_heads: bool = False  # it has a loss on earlier tasks' heads, so they go on training
    in_processes: ClassVar[str] = "every process comes to the same state"  # of several that do one run
    needs_one_process: ClassVar[str] = ""  # why it cannot run in several
    off: ClassVar[dict[str, Any]] = {}  # values of its keys with which it trains as its bare setting does

    def __init__(self, config: Any, method: "Method") -> None:
        self.config = config
        self.method = method

    @classmethod
    def objection(cls, config: ExperimentConfig) -> str | None:
        """Return why the strategy cannot work in this experiment, said before work starts; None where it can."""
        return None

    @classmethod
    def invariants(cls) -> Iterator[Invariant]:
        """Yield what the strategy promises, measured on small exact problems: `python -m clora_exp.methods verify`."""
        yield from ()

    def before_task(self, t: int, task: Task) -> None:
        """Called before task t (0-based) trains, when its adapters are ready."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return further optimiser groups: {"params": […], "optimizer": "adamw" | "sgd", "lr"?, "weight_decay"?}."""
        return []

    def training_loss(self, batch: Batch, answer: Answer) -> Tensor | None:
        """Return a term to add to the batch's cross-entropy, e.g. on examples from a memory."""
        return None

    def penalty(self) -> Tensor | None:
        """Return a term to add that depends on the parameters alone."""
        return None

    def route(self, batch: Batch) -> Active | None:
        """Return the index of the task, or of each row's, whose adapters answer the batch; None: the batch's own."""
        return None

    def before_optimizer_step(self) -> None:
        """Change gradients; called once an optimiser step, after accumulation and before clipping."""

    def after_task(self, t: int, task: Task) -> None:
        """Called when task t has been trained, before it is evaluated."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values that the next step and the next task need; what `before_task` makes apart.

        A session that was interrupted goes on from the state before its task, `before_task`, and the state then.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
