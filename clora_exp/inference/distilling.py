"""A smaller student that answers as the version it was made from: trained on its logits, on the task's own texts.

The loss is the teacher's and the student's cross-entropy at temperature T, times T² (Hinton et al. 2015, arXiv
1503.02531, section 2). The student starts from the SVD of the teacher's update; its head starts as the teacher's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clora_exp.adapters.active import answering
from clora_exp.adapters.backbone import Adapters
from clora_exp.config import MethodConfig
from clora_exp.inference.bank import sharing_weights
from clora_exp.models.base import TaskModel
from clora_exp.models.prompts import Told
from clora_exp.optimizers import warmup_then_linear
from clora_exp.states import pack_layers, unpack_layers
from clora_exp.tasks.stream import Example

TEMPERATURE = 2.0


@dataclass(frozen=True)
class Training:
    """How a student learns."""

    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 1e-3
    head_learning_rate: float = 1e-3
    seed: int = 0


def distilled(
    base: TaskModel,
    tensors: Mapping[str, Tensor],
    layers: Mapping[str, list[str]],
    told: Told,
    examples: Sequence[Example],
    teacher: Callable[[Sequence[str]], Tensor],
    training: Training,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return the tensors of a trained student, and their layers.

    Args:
        tensors, layers: where it starts: pairs of the smaller rank, and the head.
        teacher: texts → logits (n, c).
        progress: is told the step and how many there are.
    """
    state = unpack_layers({name: x for name, x in tensors.items() if not name.startswith("head.")}, dict(layers))
    rank = next(len(x) for name, x in state.items() if name.startswith("A/"))
    modules = [name.removeprefix("A/") for name in state if name.startswith("A/")]
    model = sharing_weights(base)
    settings = MethodConfig(name="student", rank=rank, alpha=float(rank), target_modules=modules, factors="per_task")
    adapters = Adapters(model.backbone, settings, None)
    adapters.start_task(0)
    with torch.no_grad():
        for name, layer in adapters.layers.items():
            for part in "AB":
                layer.part(part).copy_(state[f"{part}/{name}"])
    head = nn.Linear(tensors["head.weight"].shape[1], len(tensors["head.weight"]))
    head.load_state_dict({name.removeprefix("head."): x for name, x in tensors.items() if name.startswith("head.")})
    groups = [
        {"params": [p for group in adapters.parameter_groups() for p in group["params"]], "lr": training.learning_rate},
        {"params": list(head.parameters()), "lr": training.head_learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    generator = torch.Generator().manual_seed(training.seed)
    orders = [torch.randperm(len(examples), generator=generator) for _ in range(training.epochs)]
    batches = [batch.tolist() for order in orders for batch in order.split(training.batch_size)]
    schedule = warmup_then_linear(optimizer, len(batches), 0.1)
    with torch.inference_mode():
        targets = torch.cat([teacher([e.text for e in part]) for part in _parts(examples, training.batch_size)])
    targets = targets.clone()
    for step, rows in enumerate(batches, 1):
        with answering(0):
            features = model.features(model.inputs_of([examples[i] for i in rows], told))
        loss = distillation(head(features), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(step, len(batches))
    adapters.finish_task()
    new = {f"{part}/{name}": adapters.layers[name].stack(part)[0] for part in "AB" for name in adapters.layers}
    packed, of_layers = pack_layers(new)
    heads = {f"head.{name}": x.detach().clone() for name, x in head.state_dict().items()}
    return packed | heads, of_layers


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return T² · KL(teacher ‖ student) at temperature T, the mean over the rows of (n, c)."""
    log_p, log_q = (F.log_softmax(logits / TEMPERATURE, dim=-1) for logits in (teacher, student))
    return TEMPERATURE**2 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def _parts(examples: Sequence[Example], size: int) -> list[Sequence[Example]]:
    return [examples[i : i + size] for i in range(0, len(examples), size)]
