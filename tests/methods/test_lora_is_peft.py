"""`lora` here against PEFT's own LoRA trained by a bare PyTorch loop: same seed, same batches, same numbers."""

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertModel

from clora_exp.methods.base import Method
from clora_exp.randomness import seed_everything
from clora_exp.session import fit
from clora_exp.tasks.stream import load_stream


def bare_loop(folder, config, stream, batches_of) -> tuple[dict[str, torch.Tensor], list[float]]:
    """What a careful user writes by hand with PEFT: one adapter, a head a task, AdamW and a schedule anew each task."""
    seed_everything(config.seed)
    backbone = BertModel.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    heads = nn.ModuleList(nn.Linear(32, len(task.labels)) for task in stream)
    model = get_peft_model(backbone, LoraConfig(r=4, lora_alpha=config.method.alpha, target_modules=["query", "value"]))
    model.eval()
    adapters = [p for p in model.parameters() if p.requires_grad]
    losses = []
    for t, task in enumerate(stream):
        seed = seed_everything(config.seed, t + 1)
        head = list(heads[t].parameters())
        groups = [{"params": adapters, "lr": 1e-3}, {"params": head, "lr": 1e-2}]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        batches = batches_of(t, task).training_batches(8, seed, config.trainer.epochs)
        num_steps = len(batches)
        warm = round(0.1 * num_steps)
        for step, batch in enumerate(batches):
            factor = (step + 1) / (warm + 1) if step < warm else (num_steps - step) / (num_steps - warm)
            for group, lr in zip(optimizer.param_groups, (1e-3, 1e-2), strict=True):
                group["lr"] = lr * factor
            mask = batch.inputs["attention_mask"][..., None].float()
            hidden = model(**batch.inputs).last_hidden_state
            loss = F.cross_entropy(heads[t]((hidden * mask).sum(1) / mask.sum(1)), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*adapters, *head], 1.0)
            optimizer.step()
            losses.append(loss.item())
    state = {n.removeprefix("base_model.model."): p.detach() for n, p in model.named_parameters() if "lora_" in n}
    return state, losses


@pytest.mark.parametrize(("name", "num_tasks"), [("lora", 3), ("clora", 1)])
def test_lora_and_the_first_task_of_clora_are_peft_in_a_bare_loop_seed_for_seed(
    tiny, tiny_bert, name: str, num_tasks: int
) -> None:
    """With its routing held at the identity C-LoRA's first task is a plain LoRA, step by step."""
    rates = ["learning_rate=1e-3", "factor_learning_rate=1e-3", "head_learning_rate=1e-2"]
    tasks = f"tasks.words.names=[{','.join(['first', 'second', 'third'][:num_tasks])}]"
    config = tiny(f"method={name}", "trainer.epochs=3", tasks, *(f"method.{rate}" for rate in rates))
    stream = load_stream(config.tasks, config.data_seed)
    assert len(stream) == num_tasks
    seed_everything(config.seed)
    method = Method(config, stream)
    losses = []
    for t, task in enumerate(stream):
        seed = seed_everything(config.seed, t + 1)
        method.before_task(t, task)
        for layer in method.adapters.layers.values():
            if name == "clora":
                layer.part("routing").requires_grad_(False)
        losses += [s.loss for s in fit(method, method.model.encode(t, task, "train"), task.name, config.trainer, seed)]
        method.after_task(t, task)
    state, reference = bare_loop(tiny_bert, config, stream, lambda t, task: method.model.encode(t, task, "train"))
    assert losses == pytest.approx(reference, abs=1e-6)
    ours = {n: p for n, p in method.model.backbone.named_parameters() if "lora_A" in n or "lora_B" in n}
    assert ours.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)
