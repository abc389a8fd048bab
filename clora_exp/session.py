"""One task's training: the LightningModule, and a new Trainer each time.

A Trainer that has reached its limit trains nothing on a second `fit`, so each session and each evaluation gets its own.
The optimiser step is in here; the loss is `Method.training_loss`.
"""

import logging
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from clora_exp.config import TrainerConfig
from clora_exp.errors import RunError
from clora_exp.evaluation.written import Predicted, Written
from clora_exp.methods.base import Method
from clora_exp.models.batches import Batch, EncodedSplit, JointSplit
from clora_exp.optimizers import build_optimizer, warmup_then_linear, with_numbers
from clora_exp.processes import gathered, num_here, sums, world_size
from clora_exp.randomness import random_state, set_random_state

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Step:
    """One optimiser step of a session: its number from 1, the mean loss of its batches, seconds since the start."""

    step: int
    loss: float
    seconds: float


class Session(lightning.LightningModule):
    """Training of `method` on task t, or its answers."""

    def __init__(self, method: Method, t: int, task_name: str, config: TrainerConfig, num_steps: int) -> None:
        super().__init__()
        self.model = method.model
        self.method, self.t, self.task_name, self.config, self.num_steps = method, t, task_name, config, num_steps
        self.steps: list[Step] = []
        self._losses: list[float] = []
        self._begun: dict[str, Any] | None = None
        self._started = time.perf_counter()

    def configure_optimizers(self) -> Any:
        """Build what the method's parameter groups ask for; they exist only now that the task has begun."""
        self.optimizer = build_optimizer(self.method.parameter_groups(self.t), self.config.weight_decay)
        self.schedule = warmup_then_linear(self.optimizer, self.num_steps, self.config.warmup)
        if self._begun is not None:
            self.optimizer.load_state_dict(with_numbers(self._begun["optimizer"]))
            self.schedule.load_state_dict(self._begun["schedule"])
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": self.schedule, "interval": "step"}}

    @property
    def is_between_steps(self) -> bool:
        """Whether no batch of an unfinished optimiser step has been seen."""
        return not self._losses

    def checkpoint(self) -> dict[str, Any]:
        """Return, between two steps, all that the rest of the session depends on beside the method before the task.

        What `before_task` makes is left out: it is made again, from the method's own checkpoint.
        """
        return {
            "losses": torch.tensor([step.loss for step in self.steps], dtype=torch.float64),
            "seconds": torch.tensor([step.seconds for step in self.steps], dtype=torch.float64),
            "method": self.method.session_state(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": random_state(),
        }

    def go_on(self, begun: dict[str, Any]) -> None:
        """Take back what `checkpoint` gave, before training; optimiser and generators follow when it starts."""
        self._begun = begun
        losses, seconds = begun["losses"].tolist(), begun["seconds"].tolist()
        self.steps = [Step(i + 1, *pair) for i, pair in enumerate(zip(losses, seconds, strict=True))]
        self._started = time.perf_counter() - (seconds[-1] if seconds else 0.0)
        self.method.load_session_state(begun["method"])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Before the first step draw from where the generators were: what came before has drawn too."""
        if self._begun is not None and batch_idx == 0:
            set_random_state(self._begun["random"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        loss = self.method.training_loss(batch)
        mean, weight = self._over_processes(float(loss.detach()), batch)
        self._losses.append(mean)
        if not np.isfinite(self._losses[-1]):
            raise RunError(
                f"the loss became {self._losses[-1]} in step {len(self.steps) + 1} of task {self.task_name!r}; "
                "what was finished before is kept. Try a smaller trainer.learning_rate, or trainer.gradient_clip=1"
            )
        return loss if weight == 1 else loss * weight

    def _over_processes(self, loss: float, batch: Batch) -> tuple[float, float]:
        """Return the mean loss over all processes' shares, and the weight of this one's.

        Gradients are averaged over processes, so each loss counts by its share's number of targets over the mean
        number; terms that are not of the batch are the same everywhere, and the weights' mean is 1.
        """
        if world_size() == 1:
            return loss, 1.0
        num = float(len(self.method.model.targets(batch)))
        total, summed = sums(num, num * loss)
        return summed / total, num * world_size() / total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let strategies change gradients: after accumulation, before clipping, once an optimiser step."""
        self.method.before_optimizer_step()
        loss = sum(self._losses) / len(self._losses)
        self.steps.append(Step(len(self.steps) + 1, loss, time.perf_counter() - self._started))
        self._losses.clear()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Return the batch where the model is; on a CPU as it came, which Lightning would copy field by field."""
        return batch if device.type == "cpu" else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def cpu(self) -> "Session":
        """Stay on the device: Lightning would move the model to the CPU after every fit and prediction."""
        return self

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor | Written]:
        """Return (rows of the split, predicted label indices or what was written)."""
        return batch.rows, self.method.predicted(batch)


def fit(
    method: Method,
    split: EncodedSplit | JointSplit,
    task_name: str,
    config: TrainerConfig,
    seed: int,
    callbacks: Sequence[lightning.Callback] = (),
    begun: dict[str, Any] | None = None,
) -> list[Step]:
    """Train `method` on the split's task and return its optimiser steps; the method's `before_task` has been called.

    All epochs are one pass of Lightning's, so that a session that has `begun` goes on where its checkpoint was taken.

    Raises:
        RunError: the loss became NaN or infinite.
    """
    num_steps = num_steps_of(split, config)
    session = Session(method, split.task, task_name, config, num_steps)
    if begun is not None:
        session.go_on(begun)
    num_done = len(session.steps)
    if begun is not None and num_done == num_steps:  # interrupted after its last step
        set_random_state(begun["random"])
        return session.steps
    trainer = _trainer(
        config,
        callbacks,
        max_epochs=1,
        max_steps=num_steps - num_done,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.gradient_clip,
    )
    start = num_done * config.accumulate
    batches = split.training_batches(config.batch_size, seed, config.epochs, start, config.num_workers)
    with warnings.catch_warnings(), attention_for(config.precision, trainer.strategy.root_device):
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        trainer.fit(session, batches)
    return session.steps


def attention_for(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which attention trains fast: on a CPU in bfloat16 not by torch's fused kernel.

    That one's backward pass is slow there: a step takes 0.97 of one in single precision with it, 0.63 by plain products
    (benchmarks/precision.py).
    """
    is_slow = precision == "bf16-mixed" and device.type == "cpu"
    return sdpa_kernel(SDPBackend.MATH) if is_slow else nullcontext()


def num_steps_of(split: EncodedSplit | JointSplit, config: TrainerConfig) -> int:
    """Return the optimiser steps of a session."""
    num_steps = -(-split.num_batches(config.batch_size) * config.epochs // config.accumulate)
    return min(num_steps, config.max_steps or num_steps)


def predict(
    method: Method, split: EncodedSplit, config: TrainerConfig, callbacks: Sequence[lightning.Callback] = ()
) -> Predicted:
    """Return the predicted label index of every example of the split, (n,), or what was written."""
    session = Session(method, split.task, "", config, 0)
    trainer = _trainer(config, callbacks)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        outputs = trainer.predict(session, split.evaluation_batches(config.eval_batch_size, config.num_workers))
    own = [
        (rows.cpu().numpy(), found if isinstance(found, Written) else found.cpu().numpy())
        for rows, found in outputs or []
    ]
    everyone = [pair for pairs in gathered(own) for pair in pairs]
    if isinstance(everyone[0][1], Written):
        return Written.gathered(everyone)
    predicted = np.full(len(split), -1, dtype=np.int64)
    for rows, labels in everyone:
        predicted[rows] = labels
    assert (predicted >= 0).all()
    return predicted


def device_of(config: TrainerConfig) -> torch.device:
    """Return the device that training and evaluation run on.

    Raises:
        RunError: a GPU is asked for and there is none.
    """
    try:
        return _trainer(config, ()).strategy.root_device
    except MisconfigurationException as error:
        raise RunError(f"trainer.accelerator={config.accelerator}: there is none here; have: auto, cpu") from error


def _trainer(config: TrainerConfig, callbacks: Sequence[lightning.Callback], **limits: Any) -> lightning.Trainer:
    is_one_of_many = world_size() > 1
    trainer = lightning.Trainer(
        accelerator=config.accelerator,
        devices=num_here(),
        num_nodes=world_size() // num_here(),
        strategy=DDPStrategy(find_unused_parameters=True) if is_one_of_many else "auto",  # heads of other tasks
        precision=config.precision,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        # one process where torchrun has not started several, also where a cluster's variables promise more
        plugins=[TorchElasticEnvironment() if is_one_of_many else LightningEnvironment()],
        **limits,
    )
    # Signals are ours: Lightning's handlers would end the process, or on a cluster requeue it, on their own terms.
    setattr(trainer._signal_connector, "register_signal_handlers", lambda: None)  # noqa: B010
    return trainer
