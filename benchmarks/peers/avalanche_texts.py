"""Avalanche's loop on what `benchmarks/loop.py` hands over: the same MiniLM, LoRA, heads and texts.

It imports nothing of this project. It stays up and answers a request a line: {"do": "restart" | "train" | "evaluate"},
each by one line with the seconds it took, the losses of the steps and the answers. Its environment is that of
`avalanche_digits.py`, and in it

    avalanche-env/bin/pip install --no-deps peft==0.21.2 accelerate==1.15.0
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from avalanche_digits import HeadPerTask  # first: it makes torchvision importable

# isort: split
import torch
from avalanche.benchmarks import benchmark_from_datasets, with_task_labels
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.models import MultiTaskModule
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModel


class Texts(MultiTaskModule):
    """MiniLM with LoRA, its mean over the mask, and a head a task; x (n, l) are token ids, −1 beyond the end."""

    def __init__(self, backbone: nn.Module, heads: HeadPerTask) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, heads

    def adaptation(self, experience: Any) -> None:
        """The heads have theirs."""

    def forward(self, x: Tensor, task_labels: Any) -> Any:
        """Return the logits of the head of a batch's task, which all its texts have."""
        mask = (x >= 0).long()
        hidden = self.backbone(input_ids=x.clamp(min=0), attention_mask=mask).last_hidden_state
        mask = mask[..., None].float()
        return self.heads.forward_single_task((hidden * mask).sum(1) / mask.sum(1), int(task_labels[0]))


class Tokenised(Dataset[tuple[Tensor, int]]):
    """Token ids and label of each text."""

    def __init__(self, ids: Tensor, starts: list[int], labels: list[int]) -> None:
        self._rows = [(ids[a:b].long(), label) for a, b, label in zip(starts, starts[1:], labels, strict=False)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self._rows[row]


def padded(rows: list[Any]) -> list[Tensor]:
    """Return texts padded to the longest, labels, tasks."""
    ids, labels, tasks = zip(*rows, strict=True)
    x = nn.utils.rnn.pad_sequence(list(ids), batch_first=True, padding_value=-1)
    return [x, torch.tensor(labels), torch.tensor(tasks)]


class Steps(SupervisedPlugin):
    """Schedule, clipping, an end after so many steps, losses and answers; given batches where there are some."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self._factors, self._clip = settings["factors"], settings["gradient_clip"]
        self._rates: list[float] = []
        self.order: list[list[int]] | None = None  # of the training or evaluation at hand
        self.losses: list[Tensor] = []
        self.answers: list[list[int]] = []

    def _given(self, strategy: Any) -> None:
        if self.order is not None:
            dataset = strategy.adapted_dataset
            strategy.dataloader = DataLoader(dataset, batch_sampler=self.order, collate_fn=padded)

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        """Start a task."""
        self.losses = []
        self._rates = self._rates or [group["lr"] for group in strategy.optimizer.param_groups]
        self._given(strategy)

    def before_update(self, strategy: Any, **_: Any) -> None:
        """Clip, and set the learning rates of the step."""
        nn.utils.clip_grad_norm_(strategy.trained, self._clip)
        for group, rate in zip(strategy.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._factors[len(self.losses)]

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Keep the loss; end."""
        self.losses.append(strategy.loss.detach())
        if len(self.losses) == len(self._factors):
            strategy.stop_training()

    def before_eval_exp(self, strategy: Any, **_: Any) -> None:
        """Start the answers to a task."""
        self.answers.append([])
        self._given(strategy)

    def after_eval_iteration(self, strategy: Any, **_: Any) -> None:
        """Keep the answers."""
        self.answers[-1] += strategy.mb_output.argmax(-1).tolist()


class Loop:
    """Avalanche's Naive, asked chunk by chunk."""

    def __init__(self, folder: Path) -> None:
        self._settings = json.loads((folder / "settings.json").read_text())
        self._start = load_file(folder / "start.safetensors")
        splits = load_file(folder / "splits.safetensors")
        num_tasks = self._settings["num_tasks"]
        found: dict[str, list[Any]] = {"train": [], "test": []}
        for split, datasets in found.items():
            for t in range(num_tasks):
                ids, starts, labels = (splits[f"{t}/{split}/{part}"] for part in ("token_ids", "starts", "labels"))
                own = Tokenised(ids, starts.tolist(), labels.tolist())
                kinds = {"task_labels": t, "targets": labels.tolist(), "collate_fn": padded}
                datasets.append(_make_taskaware_classification_dataset(own, **kinds))
        self._benchmark = with_task_labels(benchmark_from_datasets(**found))
        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        backbone = AutoModel.from_pretrained(self._settings["model"], dtype=torch.float32, **off)
        self._backbone = get_peft_model(backbone, LoraConfig(**self._settings["lora"]))
        sizes = [len(self._start[f"heads.{t}.bias"]) for t in range(num_tasks)]
        blocks = nn.ModuleList(nn.Linear(backbone.config.hidden_size, size) for size in sizes)
        self._heads, self._orders = HeadPerTask(blocks), {}
        for path in folder.glob("order-*.json"):
            self._orders[path.stem] = json.loads(path.read_text())
        self.restart(0)

    def restart(self, seed: int) -> dict[str, Any]:
        """Go back to the weights before the first task."""
        settings, blocks = self._settings, self._heads.blocks
        self._seed = seed
        torch.manual_seed(seed)
        model = nn.ModuleDict({"backbone": self._backbone, "heads": blocks})
        model.load_state_dict(self._start, strict=False)
        adapters = [p for name, p in self._backbone.named_parameters() if "lora_" in name]
        groups = [{"params": adapters}, {"params": [*blocks.parameters()], "lr": settings["head_learning_rate"]}]
        self._steps = Steps(settings)
        self._strategy = Naive(
            model=Texts(self._backbone, self._heads),
            optimizer=torch.optim.AdamW(groups, lr=settings["learning_rate"], weight_decay=settings["weight_decay"]),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=settings["batch_size"],
            train_epochs=settings["epochs"],
            eval_mb_size=settings["eval_batch_size"],
            plugins=[self._steps],
            evaluator=EvaluationPlugin(loggers=[]),
        )
        self._strategy.trained = [p for group in groups for p in group["params"]]
        return {}

    def train(self, t: int, own_batches: bool) -> dict[str, Any]:
        """Learn a task."""
        self._steps.order = None if own_batches else self._orders[f"order-{self._seed}"][t]
        start = time.perf_counter()
        self._strategy.train(self._benchmark.train_stream[t], reset_optimizer_state=True)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "losses": [float(loss) for loss in self._steps.losses], "answers": []}

    def evaluate(self, tasks: list[int], own_batches: bool) -> dict[str, Any]:
        """Answer tasks."""
        self._steps.answers = []
        start = time.perf_counter()
        for t in tasks:
            self._steps.order = None if own_batches else self._orders["order-test"][t]
            self._strategy.eval(self._benchmark.test_stream[t])
        seconds = time.perf_counter() - start
        answers = self._steps.answers
        for t, found in zip(tasks, answers, strict=True):  # in the order of the data
            if not own_batches:
                rows = [row for batch in self._orders["order-test"][t] for row in batch]
                found[:] = [answer for _, answer in sorted(zip(rows, found, strict=True))]
        return {"seconds": seconds, "losses": [], "answers": answers}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(json.loads((folder / "settings.json").read_text())["threads"])
    answers, sys.stdout = sys.stdout, sys.stderr  # what Avalanche prints is no answer
    loop = Loop(folder)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(loop, request.pop("do"))(**request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
