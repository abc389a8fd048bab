"""Exported folders in a process that has nothing but PEFT and transformers: from runs, of decoders, and broken ones."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers
from layers import CLORA, CLORA_XS
from safetensors.torch import load_file, save_file
from test_targets import GPT2, TEXT, move
from trials import SETTINGS, quiet

from clora_exp.adapters.__main__ import main
from clora_exp.adapters.active import answering
from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.certificate import certify
from clora_exp.adapters.export import read_peft, write_merged, write_peft
from clora_exp.adapters.exported import Exported
from clora_exp.errors import ModelError, RunError
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.loop import run
from clora_exp.saved import load_task
from clora_exp.tasks.stream import Example, load_stream

ADAPTED = [name for name in [*SETTINGS, "joint", "single", "olora"] if name not in ("frozen", "full", "progressive")]


@pytest.fixture(scope="module")
def runs() -> dict[tuple, Path]:
    return {}


@pytest.fixture
def learned(tiny, runs, tmp_path_factory):
    """A finished run's folder, made once."""

    def of(*overrides: str) -> Path:
        if overrides not in runs:
            config = tiny(*overrides, "trainer.epochs=1", f"results_dir={tmp_path_factory.mktemp('runs')}")
            runs[overrides] = run(config, "", quiet()).path
        return runs[overrides]

    return of


@contextmanager
def older(path: Path) -> Iterator[None]:
    """Within the block the run has no SHA256SUMS, as before there were any."""
    (path / "SHA256SUMS").rename(path / "aside")
    yield
    (path / "aside").rename(path / "SHA256SUMS")


def check(folder: Path, task: str) -> dict:
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["task"] == task
    assert certificate["base"] == "tiny"
    assert certificate["same_answers"]
    assert certificate["largest_error_of_an_update"] <= 1e-5
    assert certificate["largest_error_of_a_logit"] <= 1e-5
    assert set(certificate["sha256"]) == {file.name for file in folder.glob("*.safetensors")}
    return certificate


@pytest.mark.parametrize(
    ("method", "command"),
    [
        *[(first := ADAPTED[0], command) for command in ("export", "merge")],
        *[pytest.param(method, "export", marks=pytest.mark.slow) for method in ADAPTED if method != first],
        *[
            pytest.param(method, "merge", marks=pytest.mark.slow)
            for method in ("clora_gated", "clora_xs", "joint", "sdlora")
        ],
    ],
)
def test_a_task_of_a_run_answers_the_same_without_this_project(learned, tmp_path, capsys, method, command) -> None:
    path, out = learned(f"method={method}"), tmp_path / "out"
    assert main([command, str(path), "second", str(out)]) == 0
    certificate = check(out, "second")
    assert len(certificate["error_of_each_update"]) == 4
    assert "no logit of 4 texts by more than" in capsys.readouterr().out
    text = "".join(file.read_text() for file in out.glob("*.json")) + (out / "README.md").read_text()
    assert str(path.parents[3]) not in text
    assert main([command, str(path), "second", str(out)]) == 2
    assert "exists; name a new folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["export", "merge"])
def test_a_head_on_the_pooler_is_transformers_own_classifier(learned, tmp_path, tiny_bert, command: str) -> None:
    path, out = learned("method=clora_xs", "+model.text_encoder.pooling=pooler"), tmp_path / "out"
    assert main([command, str(path), "second", str(out)]) == 0
    check(out, "second")
    assert not (out / "head.safetensors").exists()
    labels = json.loads((out / "labels.json").read_text())
    if command == "merge":
        config = transformers.AutoConfig.from_pretrained(out)
        assert config.architectures == ["BertForSequenceClassification"]
        assert list(config.id2label.values()) == labels
        return
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["classifier"])
    saved = load_task(path, "second")
    back = read_peft(out, saved.adapters.layers, saved.model.classifier)
    torch.testing.assert_close(back.head["weight"], saved.model.heads[0].weight.detach())
    for name, (A, B) in saved.adapters.as_lora(0).items():
        torch.testing.assert_close(back.pairs[name], (A.float(), B.float()))


def test_what_serving_software_needs_is_in_the_configuration(learned) -> None:
    folder = learned("method=clora") / "adapters" / "first" / "peft"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["r"] == config["lora_alpha"] == 4
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    assert not config["use_rslora"]
    assert all(name.startswith("base_model.model.") for name in load_file(folder / "adapter_model.safetensors"))


DECODER = """import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
{peft}
model = AutoModelForCausalLM.from_pretrained({base}, dtype=torch.float32)
{adapt}
tokenizer = AutoTokenizer.from_pretrained({base})
inputs = tokenizer(texts, return_tensors="pt")
with torch.no_grad():
    logits = model(input_ids=inputs["input_ids"]).logits"""
PEFT = {"peft": "from peft import PeftModel", "adapt": "model = PeftModel.from_pretrained(model, HERE).eval()"}
TEXTS = ["red blue cat", "gold tin dog"]
PROBE = [Example(text, text, "", text) for text in TEXTS]


@pytest.fixture(params=["gpt2", "llama"])
def decoder(request, tmp_path, tiny_bert):
    """A decoder's folder, an exported task of it, and what the task answered."""
    kind, fields = (
        (transformers.GPT2LMHeadModel, GPT2) if request.param == "gpt2" else (transformers.LlamaForCausalLM, TEXT)
    )
    torch.manual_seed(0)
    kind(kind.config_class(**fields)).save_pretrained(tmp_path / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.save_pretrained(tmp_path / "base")
    model = kind.from_pretrained(tmp_path / "base").eval()
    settings = dataclasses.replace(CLORA_XS, gate="per_output", scale="learned", rank_pattern={"1.attn.c_proj": 2})
    settings = settings if request.param == "gpt2" else dataclasses.replace(CLORA, rank=3)
    adapters = Adapters(model, settings, None)
    for t in range(2):
        move(adapters, t)
    with answering(1), torch.no_grad():
        logits = model(input_ids=tokenizer(TEXTS, return_tensors="pt")["input_ids"]).logits
    exported = Exported(
        task="second",
        base="tiny",
        pairs=adapters.as_lora(1),
        code=DECODER.format(base="BASE", **PEFT),
        is_conv1d=adapters.is_conv1d,
    )
    return tmp_path / "base", exported, logits


def test_a_decoder_s_task_is_a_plain_lora(decoder, tmp_path) -> None:
    base, exported, logits = decoder
    write_peft(tmp_path / "lora", exported)
    certify(tmp_path / "lora", exported, base, PROBE, logits)
    check(tmp_path / "lora", "second")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] == exported.is_conv1d
    assert (config["modules_to_save"], config["task_type"]) == (None, None)
    assert sorted(file.name for file in (tmp_path / "lora").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "certificate.json",
    ]


@pytest.mark.slow
def test_a_decoder_s_task_is_merged_into_a_plain_checkpoint(decoder, tmp_path, tiny_bert) -> None:
    base, exported, logits = decoder
    code = DECODER.format(base="HERE", peft="", adapt="model.eval()")
    exported = dataclasses.replace(exported, code=code)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    write_merged(tmp_path / "merged", exported, model, transformers.AutoTokenizer.from_pretrained(base))
    certify(tmp_path / "merged", exported, base, PROBE, logits, is_merged=True)
    check(tmp_path / "merged", "second")


@pytest.mark.parametrize("decoder", ["gpt2"], indirect=True)
def test_a_wrong_prefix_or_a_wrong_scale_gets_no_certificate(decoder, tmp_path) -> None:
    """PEFT itself loads both without an error, and answers something else."""
    base, exported, logits = decoder
    folder = tmp_path / "lora"
    write_peft(folder, exported)
    right = load_file(folder / "adapter_model.safetensors")
    save_file(
        {n.replace("base_model.model.", "model."): x for n, x in right.items()}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match=r"differ by .* when reloaded; at most 1e-05"):
        certify(folder, exported, base, PROBE, logits)
    save_file({n: 1.01 * x for n, x in right.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="differ by"):
        certify(folder, exported, base, PROBE, logits)
    assert not (folder / "certificate.json").exists()


SETTINGS = [(f"method={m}",) for m in ADAPTED] + [
    ("method=clora_shared", "method.protocol=single"),
    ("method=clora_shared", "method.protocol=joint"),
    ("method=clora_shared", "method.factor_tasks=2"),
    ("method=clora", "method.inference_routing=snapshot"),
]


@pytest.mark.parametrize("overrides", SETTINGS, ids=" ".join)
def test_a_saved_task_is_what_had_been_learned(learned, overrides: tuple[str, ...]) -> None:
    """Its update is that of the PEFT folder the run wrote, and its answers are the stored ones after its session."""
    path = learned(*overrides)
    rows = read_predictions(path / "predictions.csv.gz")
    for name in ("first", "second", "third"):
        saved = load_task(path, name)
        stored = read_peft(path / "adapters" / name / "peft", saved.adapters.layers).pairs
        for layer, (A, B) in saved.adapters.as_lora(0).items():
            torch.testing.assert_close(stored[layer][1] @ stored[layer][0], (B @ A).float(), rtol=1e-5, atol=1e-7)
        task = next(t for t in load_stream(saved.config.tasks, 0) if t.name == name)
        after = "third" if saved.config.method.protocol == "joint" else name
        expected = rows[(rows.after == after) & (rows.task == name)].predicted.tolist()
        answers = saved.logits(task.test).argmax(-1)
        assert [saved.manifest["labels"][i] for i in answers] == expected


def test_a_method_that_chooses_by_the_input_runs_and_is_not_exported(tiny, monkeypatch, tmp_path) -> None:
    from clora_exp.methods import anchor

    def route(self, batch):
        return batch.task if self.method.adapters.has(batch.task) else None

    monkeypatch.setattr(anchor.Anchor, "route", route)
    path = run(tiny("method=lora_anchor", "trainer.epochs=1"), "", quiet()).path
    assert not list(path.rglob("peft"))
    with pytest.raises(RunError, match=r"method\.anchor chooses what answers by the input"):
        load_task(path, "second")


def test_another_basis_than_the_task_was_learned_on_is_refused(learned) -> None:
    path = learned("method=clora_xs")
    basis = path / "adapters" / "basis.safetensors"
    content = basis.read_bytes()
    basis.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with older(path), pytest.raises(RunError, match=r"is not the one in adapter\.json"):
        load_task(path, "second")
    with pytest.raises(RunError, match=r"basis\.safetensors has changed since it was written"):
        load_task(path, "second")
    basis.write_bytes(content)


def test_what_cannot_be_read_back_says_why(learned, tmp_path) -> None:
    path = learned("method=clora")
    with pytest.raises(RunError, match=r"unknown task 'secnd'; have: first, second, third\. Did you mean 'second'"):
        load_task(path, "secnd")
    with pytest.raises(RunError, match="no run directory"):
        load_task(tmp_path, "second")
    with pytest.raises(RunError, match=r"unknown task '\.\./adapters/first'"):
        load_task(path, "../adapters/first")
    config = path / "config.yaml"
    text = config.read_text()
    config.write_text("method: [")
    with older(path), pytest.raises(RunError, match=r"config\.yaml cannot be read"):
        load_task(path, "first")
    with pytest.raises(RunError, match=r"config\.yaml has changed since it was written"):
        load_task(path, "first")
    config.write_text(text)
    for method, reason in (("full", "method.trainable=all"), ("frozen", "method.trainable=heads")):
        with pytest.raises(RunError, match=reason):
            load_task(learned(f"method={method}"), "first")
    weights = path / "adapters" / "third" / "adapter.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with older(path), pytest.raises(RunError, match="its SHA-256 is not the one"):
        load_task(path, "third")
    with pytest.raises(RunError, match=r"adapter\.safetensors has changed since it was written"):
        load_task(path, "third")
    weights.write_bytes(content)


def test_an_adapter_of_another_format_or_that_does_not_fit_says_why(learned) -> None:
    path = learned("method=clora")
    folder = path / "adapters" / "first"
    manifest, weights = (folder / "adapter.json").read_text(), (folder / "adapter.safetensors").read_bytes()
    tensors = load_file(folder / "adapter.safetensors")

    def changed(values: dict, **keys: object) -> None:
        save_file(values, folder / "adapter.safetensors")
        digest = hashlib.sha256((folder / "adapter.safetensors").read_bytes()).hexdigest()
        (folder / "adapter.json").write_text(json.dumps(json.loads(manifest) | {"sha256": digest} | keys))

    nan = tensors | {"head.bias": tensors["head.bias"] * float("nan")}
    wider = tensors | {"head.weight": tensors["head.weight"].repeat(1, 2)}
    with older(path):
        for values, keys, says in (
            (tensors, {"format": 2}, "format 2, this version reads 1"),
            (tensors, {"labels": None}, "does not say which labels"),
            (tensors, {"labels": ["x", "y"]}, "does not fit tiny under the run's settings"),
            (nan, {}, "head.bias is torch.float32, or holds numbers that are NaN or infinite"),
            (wider, {}, "does not fit tiny under the run's settings: size mismatch for weight"),
            (tensors | {"more": torch.zeros(1)}, {}, "adapter.json names the tensors"),
        ):
            changed(values, **keys)
            with pytest.raises(RunError, match=re.escape(says)):
                load_task(path, "first")
    (folder / "adapter.json").write_text(manifest)
    (folder / "adapter.safetensors").write_bytes(weights)
