"""Each adapter on every task's data, measured from real small runs: against other ways to compute it, and refusals."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_runs import change_file
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer
from trials import quiet

from clora_exp.adapters.active import answering
from clora_exp.compose import SECTIONS
from clora_exp.errors import RunError
from clora_exp.loop import run
from clora_exp.methods.base import Method
from clora_exp.reports import cross, time_left
from clora_exp.reports.__main__ import main
from clora_exp.reports.evidence import read_evidence
from clora_exp.runs import read_run
from clora_exp.structuring import structure
from clora_exp.sums import check_sums
from clora_exp.tasks.stream import TaskStream, load_stream

FAST = ("trainer.learning_rate=0.02", "trainer.head_learning_rate=0.02")


@pytest.fixture
def learned(tiny):
    """Run a method on the word tasks; return its folder."""
    return lambda method, *more: run(tiny(f"method={method}", *FAST, *more), "", quiet()).path


def _matrix(folder: Path, name: str = "accuracy") -> np.ndarray:
    table = pd.read_csv(folder / "adapter_task.csv")
    return table[name].to_numpy().reshape(3, 3)


def _stream(folder: Path) -> TaskStream:
    config = structure(read_run(folder).config, SECTIONS)
    return load_stream(config.tasks, config.data_seed).thinned("test", config.trainer.max_eval_examples)


def _with_peft_alone(folder: Path, tiny_bert: Path) -> np.ndarray:
    """Return the matrix as transformers and PEFT give it for the exported adapters and heads."""
    stream, tokenizer = _stream(folder), AutoTokenizer.from_pretrained(tiny_bert)
    found = np.zeros((3, 3))
    for i, adapter in enumerate(stream.names):
        base = AutoModel.from_pretrained(tiny_bert, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, folder / "adapters" / adapter / "peft").eval()
        for j, task in enumerate(stream):
            head = load_file(folder / "adapters" / task.name / "peft" / "head.safetensors")
            labels = json.loads((folder / "adapters" / task.name / "peft" / "labels.json").read_text())
            inputs = tokenizer([e.text for e in task.test], padding=True, return_tensors="pt")
            with torch.no_grad():
                hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            logits = (hidden * mask).sum(1) / mask.sum(1) @ head["weight"].T + head["bias"]
            answers = [labels[k] for k in logits.argmax(-1)]
            found[i, j] = np.mean([a == e.label for a, e in zip(answers, task.test, strict=True)])
    return found


@pytest.mark.parametrize("method", ["lora_per_task", "clora"])
def test_every_cell_is_what_the_exported_adapter_answers_under_the_other_task_s_head(
    method: str, learned, tiny_bert: Path, capsys
) -> None:
    folder = learned(method, "trainer.epochs=3")
    assert main(["cross", str(folder)]) == 0
    found = _matrix(folder)
    np.testing.assert_allclose(found, _with_peft_alone(folder, tiny_bert), rtol=1e-12)
    assert len(np.unique(found)) >= 3, "of a matrix of equal cells any order of rows and columns would do"
    assert not np.allclose(found, found.T)
    assert _matrix(folder, "n").tolist() == [[36] * 3] * 3
    mean = np.diagonal(found).mean()
    assert f"adapter_task.csv: through its own adapter a task has {mean:.3f} on average" in capsys.readouterr().out


def test_of_a_model_in_words_a_row_is_the_method_s_own_scores_with_another_task_s_parts(tiny_words) -> None:
    config = tiny_words("causal_lm", "method=lora_per_task", "trainer.max_steps=3", "trainer.learning_rate=0.02")
    folder = run(config, "", quiet()).path
    assert main(["cross", str(folder)]) == 0
    stream = _stream(folder)
    method = Method(config, stream)
    assert method.adapters is not None
    method.adapters.add_tasks([_owned(folder, name) for name in stream.names])
    expected = np.zeros((3, 3))
    for j, task in enumerate(stream):
        batch = method.encode(j, task, "test")[list(range(len(task.test)))]
        for i in range(3):
            with torch.no_grad(), answering(i):
                scores = method.model.scores(batch.inputs, method.model.told(task))  # type: ignore[operator]
            expected[i, j] = float((scores.argmax(-1) == batch.labels).double().mean())
    np.testing.assert_allclose(_matrix(folder), expected, rtol=1e-12)


def _owned(folder: Path, task: str) -> dict[str, torch.Tensor]:
    """Return what a task owns, as it lies in its file: stacked over the layers, named in adapter.json."""
    stacked = load_file(folder / "adapters" / task / "adapter.safetensors")
    layers = json.loads((folder / "adapters" / task / "adapter.json").read_text())["layers"]
    return {
        f"{name.split('/')[0]}/{layer}": tensor[k]
        for name, tensor in stacked.items()
        for k, layer in enumerate(layers[name])
    }


@pytest.mark.parametrize(
    "method", ["lora", "clora", "clora_gated", "clora_shared", "clora_xs", "sdlora", "olora", "single"]
)
def test_the_diagonal_is_the_run_s_accuracy_right_after_learning_exactly(method: str, learned) -> None:
    folder = learned(method, "trainer.max_steps=3")
    assert main(["cross", str(folder)]) == 0
    matrix = read_run(folder).matrix.values
    assert np.diagonal(_matrix(folder)).tolist() == np.diagonal(matrix[1:]).tolist()
    assert read_evidence(folder).problems == []


def test_the_examples_are_those_that_the_run_measured_and_other_data_is_refused(learned, capsys) -> None:
    folder = learned("lora", "trainer.max_eval_examples=7", "eval_split=validation", "trainer.max_steps=3")
    assert main(["cross", str(folder)]) == 0
    assert _matrix(folder, "n").tolist() == [[7] * 3] * 3
    change_file(folder / "config.yaml", "data_seed: 0", "data_seed: 1")
    assert main(["cross", "--again", str(folder)]) == 2
    assert "the validation examples of task 'first' are others here" in capsys.readouterr().err


def test_where_an_adapter_answers_otherwise_than_in_the_run_nothing_is_written(learned, capsys) -> None:
    folder = learned("lora", "trainer.max_steps=3")
    before = (folder / "accuracy_matrix.csv").read_text()
    rows = [line.split(",") for line in before.splitlines()]
    rows[3][2] = repr(float(rows[3][2]) + 1 / 36)  # after second: one example more
    change_file(folder / "accuracy_matrix.csv", before, "\n".join(",".join(row) for row in rows) + "\n")
    assert main(["cross", str(folder)]) == 2
    assert re.search(
        r"through its own adapter 'second' is answered right \d+ of 36 times, right after learning it was "
        r"\d+ \(on cpu, here on cpu\); nothing written",
        capsys.readouterr().err,
    )
    assert not (folder / "adapter_task.csv").exists()


def test_what_is_there_is_not_measured_again_unless_asked_and_the_sums_have_it(learned, capsys) -> None:
    folder = learned("lora", "trainer.max_steps=3")
    assert main(["cross", str(folder)]) == 0
    first = (folder / "adapter_task.csv").read_bytes()
    check_sums(folder, "", ["adapter_task.csv"])
    change_file(folder / "adapter_task.csv", "first,first", "wrong,first")
    assert main(["cross", str(folder)]) == 0
    assert "is there already; --again measures it again" in capsys.readouterr().out
    assert (folder / "adapter_task.csv").read_bytes() != first
    assert main(["cross", "--again", str(folder)]) == 0
    assert (folder / "adapter_task.csv").read_bytes() == first


def test_a_refusal_is_a_line_and_stops_no_other_run(learned, tmp_path: Path, capsys) -> None:
    good = learned("lora", "trainer.max_steps=3")
    refused = {
        "joint": learned("joint", "trainer.max_steps=3"),
        "frozen": learned("frozen", "trainer.max_steps=3"),
        "progressive": learned("progressive", "trainer.max_steps=3"),
        "class": learned("lora", "trainer.max_steps=3", "scenario=class_incremental"),
        "domain": learned("lora_per_task", "trainer.max_steps=3", "scenario=domain_incremental", "tasks=same_words"),
        "stopped": learned("clora", "trainer.max_steps=3"),
        "nowhere": tmp_path / "nowhere",
    }
    (refused["stopped"] / "STATUS").write_text("interrupted\nstopped by Ctrl-C\n")
    assert main(["cross", str(refused["joint"]), *map(str, [*refused.values(), good])]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{good}/adapter_task.csv: through its own adapter")
    lines = {line.split(": ")[1]: line for line in err.splitlines()}
    assert set(lines) == {str(path) for path in refused.values()}
    says = {
        "joint": "all tasks were learned at once",
        "frozen": "method.trainable=heads",
        "progressive": "method.composition=columns",
        "class": "no task has its own",
        "domain": "the run looked for the task of each example",
        "stopped": "interrupted, stopped by Ctrl-C; only a finished run",
        "nowhere": "no such folder",
    }
    for name, words in says.items():
        assert words in lines[str(refused[name])], name
    assert main(["cross", *map(str, refused.values())]) == 2


def test_of_a_shared_head_the_one_of_the_task_answers(learned) -> None:
    folder = learned("clora", "scenario=domain_incremental", "tasks=same_words")
    assert main(["cross", str(folder)]) == 0
    assert np.diagonal(_matrix(folder)).tolist() == np.diagonal(read_run(folder).matrix.values[1:]).tolist()


def test_responses_without_labels_are_refused(tiny_words, capsys) -> None:
    folder = run(tiny_words("causal_lm", "method=lora", "tasks=responses", "trainer.max_steps=2"), "", quiet()).path
    assert main(["cross", str(folder)]) == 2
    assert "task 'loud' is free-form" in capsys.readouterr().err


def test_labels_that_are_written_out_are_compared_as_in_the_run(tiny_words) -> None:
    written = ("model.causal_lm.scoring=generation", "method=lora", "trainer.max_steps=4")
    folder = run(tiny_words("causal_lm", *written), "", quiet()).path
    assert main(["cross", str(folder)]) == 0


def test_a_copy_without_adapters_says_so_and_keeps_what_was_measured(learned, tmp_path: Path, capsys) -> None:
    folder = learned("lora", "trainer.max_steps=3")
    assert main(["cross", str(folder)]) == 0
    assert main(["strip", str(folder.parent), str(tmp_path / "small")]) == 0
    copy = tmp_path / "small" / folder.name
    assert (copy / "adapter_task.csv").read_bytes() == (folder / "adapter_task.csv").read_bytes()
    check_sums(copy, "", ["adapter_task.csv"])
    assert main(["cross", "--again", str(copy)]) == 2
    assert f"{copy}: no adapters in it; a copy that `strip` made has none" in capsys.readouterr().err


def test_what_takes_long_says_how_much_is_left_and_what_does_not_says_nothing(monkeypatch, capsys) -> None:
    monkeypatch.setattr(time_left, "SILENT_S", 600.0)  # whatever else runs here
    with time_left.TimeLeft("measuring") as left:
        left.expect(4)
        left(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(time_left, "SILENT_S", 0.0)
    monkeypatch.setattr(time_left, "INTERVAL_S", 600.0)
    with time_left.TimeLeft("measuring") as left:
        left.expect(4)
        left(1)
        left(1)
    assert re.fullmatch(r"measuring: 25%, \d+(\.\d)? s left\n", capsys.readouterr().err)


def test_the_configuration_alone_tells_what_cannot_be_measured(tiny, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no adapters in it"):
        cross.check(tmp_path, tiny("method=lora"))
