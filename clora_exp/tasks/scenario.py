"""What an answer is chosen among: a task's own labels, all classes seen so far, or the labels that all tasks share.

The three scenarios are those of van de Ven & Tolias 2019 (arXiv 1904.07734). Which task an example is from is known
when it is answered in the task-incremental scenario only.
"""

from functools import cached_property

import numpy as np

from clora_exp.config import ScenarioName
from clora_exp.errors import ConfigError
from clora_exp.tasks.stream import Task, TaskStream


class Scenario:
    """The label space of a stream. Tasks are counted from 0; `kind` is the configuration's `scenario`."""

    def __init__(self, kind: ScenarioName, stream: TaskStream) -> None:
        """Look whether the stream's tasks fit the scenario.

        Raises:
            ConfigError: they do not, with the task and the labels that are in the way.
        """
        self.kind, self.stream = kind, stream
        for task in stream:
            if task.is_free_form and kind != "task_incremental":
                raise ConfigError(f"scenario={kind}: task {task.name!r} is free-form, it has no labels to choose among")
        check = {"task_incremental": _check_alone, "class_incremental": _check_apart, "domain_incremental": _check_same}
        check[kind](stream)

    @property
    def knows_task(self) -> bool:
        """Whether the task of an example is known when it is answered."""
        return self.kind == "task_incremental"

    @property
    def grows(self) -> bool:
        """Whether every task adds classes to one label space."""
        return self.kind == "class_incremental"

    @cached_property
    def classes(self) -> list[str]:
        """The one label space, where there is one: in turn those of all tasks, or those that all tasks share."""
        if self.grows:
            return [label for task in self.stream for label in task.labels]
        return self.stream.tasks[0].labels

    @cached_property
    def first(self) -> list[int]:
        """Class-incremental: the index of each task's first class; in the end their number, so T + 1 long."""
        return np.cumsum([0, *(len(task.labels) for task in self.stream)]).tolist()

    def labels(self, t: int) -> list[str]:
        """Return the names that a predicted index of an example of task t stands for."""
        return self.stream.tasks[t].labels if self.knows_task else self.classes

    def index(self, t: int) -> np.ndarray:
        """Return for each label of task t, in its own order, its index in `labels(t)`, (c,)."""
        if self.grows:
            return np.arange(self.first[t], self.first[t + 1])
        place = {label: i for i, label in enumerate(self.labels(t))}
        return np.array([place[label] for label in self.stream.tasks[t].labels], dtype=np.int64)

    def head_sizes(self, head_per_task: bool) -> list[int]:
        """Return the labels of each head: one a task, or of a fixed label space one for all unless tasks own theirs."""
        if self.kind == "domain_incremental":
            return [len(self.classes)] * (len(self.stream) if head_per_task else 1)
        return [len(task.labels) for task in self.stream]

    def can_answer(self, t: int, num_begun: int) -> bool:
        """Tell whether an example of task t can be answered right when so many tasks have begun."""
        return not self.grows or t < num_begun


def _check_alone(stream: TaskStream) -> None:
    for task in stream:
        trained = {example.label for example in task.train}
        if not task.is_free_form and (len(task.labels) == 1 or len(trained) == 1):
            raise ConfigError(
                f"task {task.name!r}: all {len(task.train)} training examples are of one class, {min(trained)!r}; "
                "a head of its own needs two to learn from. scenario=class_incremental takes one"
            )


def _check_apart(stream: TaskStream) -> None:
    owner: dict[str, Task] = {}
    for task in stream:
        for label in task.labels:
            if label in owner:
                raise ConfigError(
                    f"scenario=class_incremental: label {label!r} stands in the tasks {owner[label].name!r} and "
                    f"{task.name!r}; every task must bring classes of its own. Have: task_incremental, and where all "
                    "tasks have the same labels domain_incremental"
                )
            owner[label] = task
    if len(owner) < 2:
        raise ConfigError(f"scenario=class_incremental: the stream has one class, {min(owner)!r}")


def _check_same(stream: TaskStream) -> None:
    first = stream.tasks[0]
    for task in stream:
        differing = set(task.labels) ^ set(first.labels)
        if differing:
            raise ConfigError(
                f"scenario=domain_incremental: label {min(differing)!r} stands in only one of the tasks "
                f"{first.name!r} and {task.name!r}; all tasks must have the same labels. "
                "Have: task_incremental, class_incremental"
            )
    _check_alone(stream)
