"""The loops that `loop.py` compares: this project's, one written by hand, and transformers' Trainer.

All train MiniLM with PEFT's LoRA and a head a task from the same weights. A side is asked for chunks, one task's
training or the evaluation of some tasks, and says what each took; Avalanche's is `peers/avalanche_texts.py`.
"""

import copy
import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModel, DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

from clora_exp.checkpoints import SessionCheckpoints
from clora_exp.config import ExperimentConfig
from clora_exp.interrupts import StopOnSignal
from clora_exp.loop import evaluate
from clora_exp.methods.base import Method
from clora_exp.models.batches import EncodedTexts
from clora_exp.models.weights import weights_folder
from clora_exp.progress import Progress
from clora_exp.randomness import seed_everything
from clora_exp.reports.progress import Watch
from clora_exp.reports.terminal import Terminal
from clora_exp.session import fit, predict
from clora_exp.tasks.stream import TaskStream


class Chunk(NamedTuple):
    """Seconds of a chunk, the losses of its steps, the answers it gave: one array a task."""

    seconds: float
    losses: list[float]
    answers: list[np.ndarray]


class Side(Protocol):
    """A loop that can be asked chunk by chunk."""

    def restart(self, seed: int) -> None:
        """Go back to the weights before the first task."""

    def train(self, t: int) -> Chunk:
        """Learn task t."""

    def evaluate(self, tasks: Sequence[int]) -> Chunk:
        """Answer the held-out examples of these tasks."""


class Setting(NamedTuple):
    """What all sides have in common."""

    config: ExperimentConfig
    stream: TaskStream
    train: list[EncodedTexts]
    held_out: list[EncodedTexts]
    start: dict[str, Tensor]  # heads and adapters before the first task, as PEFT and a module list name them

    def batches(self, seed: int, t: int) -> DataLoader[Any]:
        """Return the batches of task t."""
        trainer = self.config.trainer
        return self.train[t].training_batches(trainer.batch_size, seed_everything(seed, t + 1), trainer.epochs)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of a task."""
        assert self.config.trainer.max_steps is not None
        return self.config.trainer.max_steps


class Ours:
    """A run's own sessions and evaluations, with the callbacks that a run has; nothing is written."""

    def __init__(self, setting: Setting, method: Method, carries_over: bool = False) -> None:
        """`carries_over`: evaluate as a run does, which keeps the answers that cannot have changed."""
        self._setting, self._method, self._carries_over = setting, method, carries_over
        self._start = copy.deepcopy(method.state_dict())

    def restart(self, seed: int) -> None:
        self._seed = seed
        self._method.load_state_dict(copy.deepcopy(self._start))
        self._progress = Progress(self._method.scenario, self._setting.config)

    def train(self, t: int) -> Chunk:
        setting, task = self._setting, self._setting.stream.tasks[t]
        seed, trainer = seed_everything(self._seed, t + 1), setting.config.trainer
        with _watch(setting.config) as watch, timed() as took:
            self._method.before_task(t, task)
            callbacks = watch.learning(task.name, setting.train[t])
            steps = fit(self._method, setting.train[t], task.name, trainer, seed, callbacks)
            self._method.after_task(t, task)
        return Chunk(took(), [step.loss for step in steps], [])

    def evaluate(self, tasks: Sequence[int]) -> Chunk:
        setting, method = self._setting, self._method
        config, splits = setting.config, setting.held_out
        answers: list[Any]
        with _watch(config) as watch, timed() as took:
            if self._carries_over:
                found, _ = evaluate(method, list(splits), tasks, config, self._progress, watch)
                answers = list(found.values())
            else:
                names = setting.stream.names
                watched = [(splits[t], watch.measuring(names[t], splits[t])) for t in tasks]
                answers = [predict(method, split, config.trainer, callbacks) for split, callbacks in watched]
        for t, predicted in zip(tasks, answers, strict=True):
            self._progress.predicted[tasks[-1] + 1, t] = predicted
        return Chunk(took(), [], answers)


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds that the block took."""
    start = time.perf_counter()
    end = start
    yield lambda: end - start
    end = time.perf_counter()


def _watch(config: ExperimentConfig) -> Watch:
    stop = StopOnSignal()
    keep = SessionCheckpoints(lambda state: None, config.trainer.checkpoint_every, stop)
    return Terminal(Console(file=io.StringIO())).watching(config.trainer, [keep, stop])


class Texts(nn.Module):
    """MiniLM with PEFT's LoRA, its mean over the mask, and a head a task; dropout is 0 on all sides."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        config, method = setting.config.model, setting.config.method
        lora = LoraConfig(r=method.rank, lora_alpha=method.alpha, target_modules=config.settings.target_modules)
        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        backbone = AutoModel.from_pretrained(weights_folder(config), dtype=torch.float32, **off)
        self.backbone = get_peft_model(backbone, lora)
        width = backbone.config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(width, len(task.labels)) for task in setting.stream)
        self.t = 0

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor]:
        """Return logits, and the loss where there are labels."""
        mask = attention_mask[..., None].float()
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.heads[self.t]((hidden * mask).sum(1) / mask.sum(1))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def trained(self, t: int) -> list[dict[str, Any]]:
        """Return the optimiser's groups in task t."""
        adapters = [p for name, p in self.backbone.named_parameters() if "lora_" in name]
        return [{"params": adapters}, {"params": [*self.heads[t].parameters()]}]

    def restart(self, start: dict[str, Tensor]) -> None:
        """Take the weights before the first task."""
        missing, extra = self.load_state_dict(start, strict=False)
        assert not extra
        assert not any("lora_" in name or "heads" in name for name in missing)


def optimised(model: Texts, setting: Setting, t: int) -> tuple[torch.optim.Optimizer, Any]:
    """Return AdamW and the schedule for task t, as a script has them."""
    trainer, num_steps = setting.config.trainer, setting.num_steps
    adapters, head = model.trained(t)
    groups = [adapters | {"lr": trainer.learning_rate}, head | {"lr": trainer.head_learning_rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=trainer.weight_decay)
    warm = round(trainer.warmup * num_steps)

    def factor(step: int) -> float:
        return (step + 1) / (warm + 1) if step < warm else (num_steps - step) / max(1, num_steps - warm)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class Plain:
    """The loop that a careful user writes by hand."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._model = setting, Texts(setting).eval()

    def restart(self, seed: int) -> None:
        self._seed = seed
        self._model.restart(self._setting.start)

    def train(self, t: int) -> Chunk:
        setting, model, losses = self._setting, self._model, []
        batches = setting.batches(self._seed, t)
        with timed() as took:
            optimizer, schedule = optimised(model, setting, t)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            model.t = t
            for batch in batches:
                loss = model(**batch.inputs, labels=batch.labels)["loss"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, setting.config.trainer.gradient_clip)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                if len(losses) == setting.num_steps:
                    break
        return Chunk(took(), losses, [])

    @torch.no_grad()
    def evaluate(self, tasks: Sequence[int]) -> Chunk:
        model, answers = self._model, []
        with timed() as took:
            for t in tasks:
                split, model.t = self._setting.held_out[t], t
                predicted = np.zeros(len(split), dtype=np.int64)
                for batch in split.evaluation_batches(self._setting.config.trainer.eval_batch_size):
                    predicted[batch.rows.numpy()] = model(**batch.inputs)["logits"].argmax(-1).numpy()
                answers.append(predicted)
        return Chunk(took(), [], answers)


class Examples(Dataset[dict[str, Any]]):
    """Tokenised texts as a user hands them to the Trainer: one dictionary each."""

    def __init__(self, split: EncodedTexts) -> None:
        self._rows = [
            {"input_ids": split.example(row).tolist(), "labels": int(split.labels[row])} for row in range(len(split))
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self._rows[row]


class Given(Dataset[dict[str, Any]]):
    """A split whose items are whole batches."""

    def __init__(self, split: EncodedTexts) -> None:
        self.split = split

    def __getitem__(self, rows: list[int]) -> dict[str, Any]:
        batch = self.split[rows]
        return {**batch.inputs, "labels": batch.labels}


class Recording(Trainer):
    """Keeps the losses; with `order` it goes through given batches."""

    order: Any = None
    losses: list[Tensor]

    def compute_loss(self, model: nn.Module, inputs: Any, *arguments: Any, **keywords: Any) -> Any:
        """Return what the Trainer's own gives."""
        found = super().compute_loss(model, inputs, *arguments, **keywords)
        if model.training:
            self.losses.append(found.detach())
        return found

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the Trainer's own loader, or one of the given batches."""
        if self.order is None:
            return super().get_train_dataloader()
        return DataLoader(self.train_dataset, batch_size=None, sampler=self.order)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """Return the Trainer's own loader, or one of the given batches."""
        if not isinstance(test_dataset, Given):
            return super().get_test_dataloader(test_dataset)
        order = test_dataset.split.evaluation_batches(self.args.per_device_eval_batch_size).sampler
        return DataLoader(test_dataset, batch_size=None, sampler=order)


class HuggingFace:
    """transformers' Trainer, a new one for each task: with the batches of the others, or as its users have it.

    Then it shuffles, pads to the longest of a batch of any lengths, and evaluates in the order of the data.
    """

    def __init__(self, setting: Setting, folder: str, tokenizer: Any, own_batches: bool) -> None:
        self._setting, self._own = setting, own_batches
        self._model, self._folder = Texts(setting), folder
        self._collate = DataCollatorWithPadding(tokenizer)
        kind = Examples if own_batches else Given
        self._train, self._held_out = ([kind(split) for split in s] for s in (setting.train, setting.held_out))

    def restart(self, seed: int) -> None:
        self._seed = seed
        self._model.restart(self._setting.start)

    def train(self, t: int) -> Chunk:
        setting = self._setting
        order = setting.batches(self._seed, t).sampler
        with timed() as took:
            self._model.t = t
            self._trainer = Recording(
                self._model,
                self._arguments(),
                data_collator=self._collate,
                train_dataset=self._train[t],
                optimizers=optimised(self._model, setting, t),
            )
            self._trainer.remove_callback(PrinterCallback)
            self._trainer.order = None if self._own else order
            self._trainer.losses = []
            self._trainer.train()
        return Chunk(took(), [float(loss) for loss in self._trainer.losses], [])

    def _arguments(self) -> TrainingArguments:
        trainer = self._setting.config.trainer
        return TrainingArguments(
            output_dir=self._folder,
            max_steps=self._setting.num_steps,
            per_device_train_batch_size=trainer.batch_size,
            per_device_eval_batch_size=trainer.eval_batch_size,
            max_grad_norm=trainer.gradient_clip,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=self._seed,
            dataloader_pin_memory=False,
        )

    def evaluate(self, tasks: Sequence[int]) -> Chunk:
        answers = []
        with timed() as took:
            for t in tasks:
                self._model.t = t
                answers.append(self._trainer.predict(self._held_out[t]).predictions.argmax(-1))
        if not self._own:  # back in the order of the data
            for t, predicted in zip(tasks, answers, strict=True):
                order = self._setting.held_out[t].evaluation_batches(1).sampler
                restored = np.zeros_like(predicted)
                restored[np.concatenate(list(order))] = predicted
                predicted[:] = restored
        return Chunk(took(), [], answers)
