"""How far a run is: what resume starts from, and what every result file is made from."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from clora_exp.config import ExperimentConfig
from clora_exp.evaluation import predictions
from clora_exp.evaluation.cost import TaskCost
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import Metric, metrics_of_run
from clora_exp.evaluation.written import Predicted, Written, free_form_scores
from clora_exp.models.language import LanguageConfig
from clora_exp.tasks.scenario import Scenario

if TYPE_CHECKING:  # reading a run needs no Lightning
    from clora_exp.session import Step


class Progress:
    """The matrix, the answers, the curves and the costs of the sessions so far."""

    def __init__(self, scenario: Scenario, config: ExperimentConfig) -> None:
        self.scenario, self.stream, self.split = scenario, scenario.stream, config.eval_split
        self.protocol = config.method.protocol
        settings = config.model.settings
        self.answers_untrained = isinstance(settings, LanguageConfig)
        self.free_form_score = settings.free_form_score if isinstance(settings, LanguageConfig) else ""
        self.matrix = AccuracyMatrix(self.stream.names)
        self.num_tasks_done = 0
        self.predicted: dict[tuple[int, int], Predicted] = {}  # (row, task) → answers
        self.history: list[dict[str, Any]] = []  # rows of metrics.csv
        self.costs: list[TaskCost] = []
        self.answered_by: dict[int, str] = {}  # task → fingerprint of what gave its last answers
        self._packed: dict[int, bytes] = {}  # row → its part of predictions.csv.gz
        self.num_measured = 0  # examples of the last evaluation; other answers were carried over

    def add_row(self, after: str, i: int, predicted: Mapping[int, Predicted], seconds: float) -> None:
        """Enter row i of the matrix, from the answers to the tasks that were evaluated."""
        for t, answers in predicted.items():
            task = self.stream.tasks[t]
            self.predicted[i, t] = answers
            scores = self._scores(t, answers)
            accuracy = scores[self.free_form_score if task.is_free_form else "accuracy"]
            self.matrix.values[i, t] = accuracy
            self.history += [_row(task.name, f"{n} after {after}", v, i, seconds) for n, v in scores.items()]

    def last_answers(self, t: int) -> Predicted:
        """Return the answers to task t of its last evaluation."""
        return next(self.predicted[i, t] for i in range(len(self.stream), -1, -1) if (i, t) in self.predicted)

    def _scores(self, t: int, answers: Predicted) -> dict[str, float]:
        """Return the accuracy of answers to task t, or of a free-form task every score."""
        labels = [example.label for example in self.stream.tasks[t].split(self.split)]
        if isinstance(answers, Written) and self.stream.tasks[t].is_free_form:
            return free_form_scores(answers, labels)
        names = predictions.names_of(self.scenario, t, answers)
        return {"accuracy": float(np.mean([name == label for name, label in zip(names, labels, strict=True)]))}

    def _free_form_scores(self) -> dict[str, float]:
        """Return the free-form tasks' scores after the last task, means over the tasks; none where there are none."""
        last = [(t, a) for (i, t), a in self.predicted.items() if i == len(self.stream) and isinstance(a, Written)]
        each = [self._scores(t, answers) for t, answers in last if self.stream.tasks[t].is_free_form]
        return {name: float(np.mean([scores[name] for scores in each])) for name in (each[0] if each else {})}

    def end_session(
        self, t: int, what: str, steps: "list[Step]", predicted: Mapping[int, Predicted], seconds: float
    ) -> None:
        """Enter a session: its training curve, and the answers after it."""
        self.history += [_row(what, "train_loss", s.loss, s.step, s.seconds) for s in steps]
        self.add_row(self.stream.tasks[t].name, t + 1, predicted, seconds)
        self.num_tasks_done = t + 1

    def frame(self) -> pd.DataFrame:
        """Return every answer, see `evaluation/predictions.py`."""
        return predictions.to_frame(self.scenario, self.split, self.predicted)

    def predictions(self) -> bytes:
        """Return `predictions.csv.gz`; each row of the matrix is packed once."""
        for i in sorted({i for i, _ in self.predicted} - self._packed.keys()):
            answers = {t: a for (row, t), a in self.predicted.items() if row == i}
            self._packed[i] = predictions.row_to_bytes(self.scenario, self.split, i, answers)
        return predictions.HEADER + b"".join(packed for _, packed in sorted(self._packed.items()))

    def metrics(self) -> dict[str, Metric]:
        """Return the metrics of what there is."""
        identified = None
        if self.scenario.grows and self.num_tasks_done == len(self.stream):
            classes = {label: task.name for task in self.stream for label in task.labels}
            identified = predictions.identified(self.frame(), classes)
        num_examples = np.array([len(task.split(self.split)) for task in self.stream])
        return metrics_of_run(
            self.matrix,
            scenario=self.scenario.kind,
            protocol=self.protocol,
            num_examples=num_examples,
            identified=identified,
            answers_untrained=self.answers_untrained,
            written=self._free_form_scores(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values; answers that were carried over stand where they were given."""
        predicted = {
            f"{i} {t}": a.state_dict() if isinstance(a, Written) else torch.from_numpy(a).to(torch.int32)
            for (i, t), a in self.predicted.items()
            if a is not self.predicted.get((i - 1, t))
        }
        return {
            "matrix": self.matrix.to_csv(),
            "num_tasks_done": self.num_tasks_done,
            "predicted": predicted,
            "history": self.history,
            "costs": [dataclasses.asdict(cost) for cost in self.costs],
            "answered_by": [[t, fingerprint] for t, fingerprint in self.answered_by.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.matrix = AccuracyMatrix.from_csv(state["matrix"])
        self.num_tasks_done = state["num_tasks_done"]
        if self.num_tasks_done not in range(len(self.stream) + 1) or self.matrix.tasks != self.stream.names:
            raise ValueError(f"{self.num_tasks_done} tasks done of {', '.join(self.matrix.tasks)}")
        for key, answers in state["predicted"].items():
            i, t = map(int, key.split())
            is_written = isinstance(answers, dict)
            self.predicted[i, t] = Written.from_state(answers) if is_written else answers.numpy().astype(np.int64)
        for i, t in np.argwhere(~np.isnan(self.matrix.values)).tolist():  # row by row
            if (i, t) not in self.predicted:
                self.predicted[i, t] = self.predicted[i - 1, t]
        self.history = state["history"]
        self.costs = [TaskCost(**cost) for cost in state["costs"]]
        self.answered_by = dict(state["answered_by"])


def _row(task: str, metric: str, value: float, step: int, seconds: float) -> dict[str, Any]:
    return {"task": task, "metric": metric, "value": value, "step": step, "seconds": round(seconds, 3)}
