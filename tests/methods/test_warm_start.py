"""A task starts from the earlier task whose texts are nearest, by the frozen backbone's features and nothing else."""

import torch
from transformers import AutoModel, AutoTokenizer

from clora_exp.methods.base import Method
from clora_exp.randomness import seed_everything
from clora_exp.session import fit
from clora_exp.tasks.stream import load_stream

NAMES = "tasks.words.names=[a,b,c,d,e]"  # 12 words, 3 a task: e has the words of a


def similarities(folder, stream) -> torch.Tensor:
    """Cosines of the tasks' mean features, from transformers alone."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    means = []
    for task in stream:
        inputs = tokenizer([example.text for example in task.train], padding=True, return_tensors="pt")
        mask = inputs["attention_mask"].unsqueeze(-1)
        with torch.no_grad():
            means.append(((model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)).mean(0))
    unit = torch.nn.functional.normalize(torch.stack(means), dim=1)
    return unit @ unit.T


def test_the_most_similar_earlier_task_is_where_a_task_starts(tiny, tiny_bert, caplog) -> None:
    config = tiny("method=clora_gated", "method.warm_start=similar", NAMES, "trainer.epochs=1")
    stream = load_stream(config.tasks, 0)
    seed_everything(0)
    method = Method(config, stream)
    cosines = similarities(tiny_bert, stream)
    with caplog.at_level("INFO", logger="clora_exp"):
        for t, task in enumerate(stream):
            method.before_task(t, task)
            started = method.state_of(t)
            if t:
                nearest = int(cosines[t, :t].argmax())
                earlier = method.state_of(nearest)
                assert all(torch.equal(v, earlier[k]) for k, v in started.items() if not k.startswith("head"))
                said = f"{task.name} starts from {stream.names[nearest]}, cosine {cosines[t, nearest]:.3f}"
                assert said in caplog.text
            fit(method, method.model.encode(t, task, "train"), task.name, config.trainer, t)
            method.after_task(t, task)
    assert int(cosines[4, :4].argmax()) == 0


def test_after_a_resume_a_task_starts_and_learns_as_it_would_have(tiny) -> None:
    config = tiny("method=clora_gated", "method.warm_start=similar", NAMES, "trainer.epochs=1")
    stream = load_stream(config.tasks, 0)

    def learn(method: Method, t: int) -> None:
        seed_everything(0, t)
        method.before_task(t, stream.tasks[t])
        fit(method, method.model.encode(t, stream.tasks[t], "train"), stream.names[t], config.trainer, t)
        method.after_task(t, stream.tasks[t])

    methods = []
    for _ in range(2):
        seed_everything(0)
        methods.append(Method(config, stream))
    for t in range(4):
        learn(methods[0], t)
    methods[1].load_state_dict(methods[0].state_dict())
    for method in methods:
        learn(method, 4)
    states = [method.state_of(4) for method in methods]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(
        states[0]["A/encoder.layer.0.attention.self.query"],
        methods[0].state_of(0)["A/encoder.layer.0.attention.self.query"],
    )
