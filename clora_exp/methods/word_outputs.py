"""What `outputs.py` does, for models that answer in words: no heads; labels are chosen by likelihood, or written.

The scenario says among which labels: the task's own, those of all classes seen, or those that all tasks share. A batch
whose rows are of several tasks is answered task by task, since each has labels of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clora_exp.adapters.active import Active, answering
from clora_exp.config import ExperimentConfig
from clora_exp.errors import ConfigError, unknown
from clora_exp.evaluation.written import Written
from clora_exp.methods.outputs import Outputs
from clora_exp.methods.strategy import Answer, Strategy
from clora_exp.models.base import TaskModel
from clora_exp.models.batches import Batch, EncodedSplit
from clora_exp.models.language import LanguageConfig, LanguageModel
from clora_exp.models.prompts import Told, same_words


class WordOutputs(Outputs):
    """Turns batches into log-likelihoods of the scenario's labels, or into texts."""

    model: LanguageModel

    def attach(self, model: TaskModel) -> None:
        """Say whether a prompt may tell of its task.

        Raises:
            ConfigError: a template for a task that is not in the stream, or that nobody knows when it is asked; a task
                whose answers are written, by columns.
        """
        assert isinstance(model, LanguageModel)
        self.model = model
        names = self.scenario.stream.names
        written = next((task.name for task in self.scenario.stream if task.is_free_form), None)
        if written is not None and not self._can_write:
            raise ConfigError(f"method.composition=columns writes no answers; task {written!r} is free-form")
        for name in model.prompts.of_task:
            if name not in names:
                raise ConfigError("prompts: " + unknown("task", name, names))
            if not self.scenario.knows_task:
                raise ConfigError(f"prompts.{name}: scenario={self.scenario.kind} does not know the task of a prompt")
        model.knows_task = self.scenario.knows_task
        model.add_heads([])

    @property
    def _can_write(self) -> bool:
        """Columns run side by side, which transformers' generate does not."""
        return self.settings.composition != "columns"

    def heads_in_session(self, t: int, earlier: bool) -> list[nn.Module]:
        """Return none."""
        return []

    def head(self, t: int) -> None:
        """Return none."""
        return None

    def masked(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the logits: classes do not compete in the loss of an answer's tokens, the vocabulary does."""
        return logits

    def _answer(
        self, batch: Batch, task: int | Tensor | None, route: Active | None, is_training: bool = False
    ) -> Answer:
        """Return hidden states (m, d) and logits (m, V) at the m supervised positions of the batch's answers."""
        active = self._active_of(task) if route is None else route
        return Answer(*self._run(self.model.taught, batch.inputs, active))

    def _label_logits(self, batch: Batch, task: int | Tensor | None, route: Active | None) -> Tensor:
        if not isinstance(task, Tensor) or not task.ndim:
            told, first = self._told(None if task is None else int(task))
            active = self._active_of(task) if route is None else route
            own = self._run(lambda inputs: self.model.scores(inputs, told), batch.inputs, active)
            width = first + own.shape[1] if self.scenario.knows_task else len(self.scenario.classes)
            return F.pad(own, (first, width - first - own.shape[1]), value=-torch.inf)
        rows_of = {t: (task == t).nonzero().flatten() for t in task.unique().tolist()}
        own_of = {}
        for t, rows in rows_of.items():
            some = Batch({name: value[rows] for name, value in batch.inputs.items()}, batch.labels[rows], t, rows)
            own_route = route[rows] if isinstance(route, Tensor) and route.ndim else route
            own_of[t] = self._label_logits(some, t, own_route)
        width = max(own.shape[1] for own in own_of.values())
        every = torch.cat([F.pad(own, (0, width - own.shape[1]), value=-torch.inf) for own in own_of.values()])
        return every[torch.cat(list(rows_of.values())).argsort()]

    def _told(self, task: int | None) -> tuple[Told, int]:
        """Return what is asked, its labels those to choose among, and the place of the first of them among all."""
        scenario = self.scenario
        if scenario.knows_task:
            assert task is not None
            return self.model.told(scenario.stream.tasks[task]), 0
        if not scenario.grows:
            return Told("", "", tuple(scenario.classes), is_known=False), 0
        first, last = (0, scenario.first[self.num_begun]) if task is None else scenario.first[task : task + 2]
        return Told("", "", tuple(scenario.classes[first:last]), is_known=False), first

    def log_probabilities(self, batch: Batch) -> Tensor:
        """Return log p of each label, (n, c), given that it is one of them, tasks being known as in training.

        Of a free-form task (n, 1): zeros with the gradient of log p(response), the one answer there is.
        """
        known = self._known(batch)
        if self.scenario.knows_task and not self.scenario.stream.tasks[int(torch.as_tensor(batch.task).max())].labels:
            active = self._active_of(known)
            log_p = self._run(lambda inputs: self.model.answer_log_p(inputs)[:, None], batch.inputs, active)
            return log_p - log_p.detach()
        return F.log_softmax(self._label_logits(batch, known, None), dim=-1)

    def predicted(self, batch: Batch, route: Active | None = None) -> Tensor | Written:
        """Return each row's label among the scenario's, (n,), or what the model wrote; a batch of one task."""
        assert isinstance(batch.task, int)
        task = self.scenario.stream.tasks[batch.task]
        if not self.model.writes(self.model.told(task)):
            return super().predicted(batch, route)
        active = self._active_of(self._asked(batch)) if route is None else route
        nll, num_tokens = torch.zeros(2, len(batch.labels))
        with answering(active):
            texts = self.model.write(batch.inputs)
            if task.is_free_form:
                nll, num_tokens = self.model.reference_nll(batch.inputs)
            else:
                names = {same_words(label): label for label in self.scenario.labels(batch.task)}
                texts = [names.get(same_words(text), text) for text in texts]
        return Written(texts, nll.double().cpu().numpy(), num_tokens.long().cpu().numpy())

    @torch.no_grad()
    def samples(self, splits: Sequence[EncodedSplit], count: int) -> list[dict[str, Any]]:
        """Return so many examples of all tasks together: prompt, right answer, and what the model writes, greedily.

        Columns write none.
        """
        found: list[dict[str, Any]] = []
        if not self._can_write:
            return found
        device = next(self.model.parameters()).device
        for t, split in enumerate(splits):
            share = count // len(splits) + (t < count % len(splits))
            rows = np.unique(np.arange(share) * len(split) // max(share, 1)).tolist()
            if not rows:
                continue
            batch = split[rows]
            batch.inputs = {name: value.to(device) for name, value in batch.inputs.items()}
            with answering(self._active_of(self._asked(batch))):
                texts = self.model.write(batch.inputs)
            right = self.model.tokenizer.batch_decode(batch.inputs["answer_ids"], skip_special_tokens=True)
            prompts = self.model.tokenizer.batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)
            name = self.scenario.stream.names[t]
            found += [
                {"task": name, "prompt": prompt, "right": answer.strip(), "written": text}
                for prompt, answer, text in zip(prompts, right, texts, strict=True)
            ]
        return found


def not_in_words(config: ExperimentConfig, strategies: Mapping[str, type[Strategy]]) -> str | None:
    """Return why an experiment cannot work with a model that answers in words; None where it can."""
    method, kind, name = config.method, config.model.kind, config.model.name
    settings: LanguageConfig = config.model.settings
    if method.trainable == "heads":
        return f"method.trainable=heads: model={name} has no heads, nothing trains; its row `init` is the frozen one"
    if method.trainable == "all" and settings.dtype != "float32":
        return f"method.trainable=all: model.{kind}.dtype={settings.dtype} is too coarse for steps; set float32"
    if method.head != "linear":
        return f"method.head={method.head}: model={name} has no heads; have: linear, which none are then"
    if method.composition == "columns" and settings.scoring == "generation":
        return f"model.{kind}.scoring=generation: method.composition=columns writes no answers; have: likelihood"
    for strategy, of_class in strategies.items():
        if of_class.needs_heads:
            return f"method.{strategy} keeps the logits of every example, and those of model={name} are a vocabulary's"
    return None
