"""One task's training: the LightningModule, and a new Trainer each time.

A Trainer that has reached its limit trains nothing on a second `fit`, so each session and each evaluation gets its own.
The optimiser step is in here; the loss is `Method.training_loss`.
"""

import logging
import random
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from clora_exp.config import TrainerConfig
from clora_exp.errors import RunError
from clora_exp.evaluation.written import Predicted, Written
from clora_exp.methods.base import Method
from clora_exp.models.batches import Batch, EncodedSplit, JointSplit
from clora_exp.optimizers import build_optimizer, warmup_then_linear

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
        self._started = time.perf_counter()

    def configure_optimizers(self) -> Any:
        """Build what the method's parameter groups ask for; they exist only now that the task has begun."""
        optimizer = build_optimizer(self.method.parameter_groups(self.t), self.config.weight_decay)
        schedule = warmup_then_linear(optimizer, self.num_steps, self.config.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        loss = self.method.training_loss(batch)
        self._losses.append(float(loss.detach()))
        if not np.isfinite(self._losses[-1]):
            raise RunError(
                f"the loss became {self._losses[-1]} in step {len(self.steps) + 1} of task {self.task_name!r}; "
                "what was finished before is kept. Try a smaller trainer.learning_rate, or trainer.gradient_clip=1"
            )
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let strategies change gradients: after accumulation, before clipping, once an optimiser step."""
        self.method.before_optimizer_step()
        loss = sum(self._losses) / len(self._losses)
        self.steps.append(Step(len(self.steps) + 1, loss, time.perf_counter() - self._started))
        self._losses.clear()

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
) -> list[Step]:
    """Train `method` on the split's task and return its optimiser steps; the method's `before_task` has been called.

    Raises:
        RunError: the loss became NaN or infinite.
    """
    batches = split.training_batches(config.batch_size, seed)
    num_steps = -(-len(batches) // config.accumulate) * config.epochs
    num_steps = min(num_steps, config.max_steps or num_steps)
    session = Session(method, split.task, task_name, config, num_steps)
    trainer = _trainer(
        config,
        callbacks,
        max_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.gradient_clip,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        trainer.fit(session, batches)
    return session.steps


def predict(
    method: Method, split: EncodedSplit, config: TrainerConfig, callbacks: Sequence[lightning.Callback] = ()
) -> Predicted:
    """Return the predicted label index of every example of the split, (n,), or what was written."""
    session = Session(method, split.task, "", config, 0)
    trainer = _trainer(config, callbacks)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        outputs = trainer.predict(session, split.evaluation_batches(config.eval_batch_size))
    if outputs and isinstance(outputs[0][1], Written):
        return Written.gathered([(rows.cpu().numpy(), written) for rows, written in outputs])
    predicted = np.full(len(split), -1, dtype=np.int64)
    for rows, labels in outputs or []:
        predicted[rows.cpu().numpy()] = labels.cpu().numpy()
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


def seed_everything(*entropy: int) -> int:
    """Seed Python, NumPy and torch from a list of numbers; return the seed.

    Every task starts from a seed of its own, so a run that resumes at task t draws what the whole run would have.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed


def _trainer(config: TrainerConfig, callbacks: Sequence[lightning.Callback], **limits: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator=config.accelerator,
        devices=1,
        precision=config.precision,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **limits,
    )
