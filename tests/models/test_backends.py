"""Unsloth is imported only when asked for; without it, or without a GPU, one line says what to do."""

import importlib.util
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import AutoModel

from clora_exp.adapters.active import answering
from clora_exp.adapters.layer import AdaptedLinear
from clora_exp.errors import ModelError
from clora_exp.methods.base import Method
from clora_exp.models.backends import checkpoint_layers
from clora_exp.models.weights import check_backend
from clora_exp.session import fit
from clora_exp.tasks.stream import load_stream


def test_without_package_and_gpu_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "unsloth", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"no package unsloth and no CUDA GPU here\..* pip install unsloth") as caught:
        check_backend("unsloth")
    assert "\n" not in str(caught.value)


def test_with_the_package_the_gpu_is_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(name=name))
    with pytest.raises(ModelError, match="there is no CUDA GPU here"):
        check_backend("unsloth")


def test_the_other_backends_never_import_it() -> None:
    lines = [
        "import sys",
        "from clora_exp.models.weights import check_backend",
        "check_backend('peft'), check_backend('plain')",
        "import clora_exp.loop",
        "sys.exit('unsloth' in sys.modules)",
    ]
    assert subprocess.run([sys.executable, "-c", "\n".join(lines)]).returncode == 0


def test_unsloth_loads_the_backbone_and_the_family_is_adapted_on_it(tiny, tiny_bert, monkeypatch) -> None:
    """A stand-in with the signature of its FastModel: what we ask it for, and that what it returns is trained."""
    asked: list[dict] = []

    class FastModel:
        @staticmethod
        def from_pretrained(*, model_name, auto_model, max_seq_length, load_in_4bit, use_exact_model_name, **more):
            asked.append({"name": model_name, "length": max_seq_length, "4bit": load_in_4bit, **more})
            model = auto_model.from_pretrained(model_name, dtype=torch.float32)
            model.was_made_by = "unsloth"
            return model, None

    module = ModuleType("unsloth")
    module.FastModel = FastModel
    monkeypatch.setitem(sys.modules, "unsloth", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    there = importlib.util.find_spec

    def find_spec(name: str, *arguments):
        return SimpleNamespace(name=name) if name == "unsloth" else there(name, *arguments)

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    losses = []
    for backend in ("unsloth", "peft"):
        config = tiny("method=clora_gated", f"method.backend={backend}", "method.dropout=0.0", "trainer.epochs=1")
        stream = load_stream(config.tasks, 0)
        torch.manual_seed(0)
        method = Method(config, stream)
        method.before_task(0, stream.tasks[0])
        losses.append(
            [s.loss for s in fit(method, method.model.encode(0, stream.tasks[0], "train"), "first", config.trainer, 0)]
        )
        if backend == "unsloth":
            assert method.model.backbone.was_made_by == "unsloth"
            assert any(isinstance(m, AdaptedLinear) for m in method.model.backbone.modules())
    refused = {"4bit": False, "use_gradient_checkpointing": False, "trust_remote_code": False}
    assert asked == [{"name": str(tiny_bert), "length": 16, **refused}]
    assert losses[0] == losses[1]
    assert isinstance(method.model.backbone, type(AutoModel.from_pretrained(tiny_bert)))


def test_checkpointed_layers_keep_their_dropout_off() -> None:
    """OPT asks for its dropout in the checkpointed block itself, by whether the block is in training."""
    from transformers import OPTConfig, OPTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30}
    model = OPTModel(OPTConfig(**sizes, word_embed_proj_dim=16, dropout=0.5, use_cache=False)).eval()
    ids = torch.tensor([[4, 5, 6, 7]])
    expected = model(input_ids=ids).last_hidden_state
    gradients = torch.autograd.grad(expected.square().sum(), list(model.parameters()), allow_unused=True)
    checkpoint_layers(model)
    with answering(0):
        found = model(input_ids=ids).last_hidden_state
    assert torch.equal(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), list(model.parameters()), allow_unused=True), gradients, strict=True
    ):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
