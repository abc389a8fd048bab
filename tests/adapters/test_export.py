"""Adapters as other software reads them: written, read back strictly, merged; PEFT itself is the other side."""

import json
import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertModel

from clora_exp.adapters.active import answering
from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.export import read_peft
from clora_exp.adapters.pairs import merge_into
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError

IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 8, 10, 3]])


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A LoRA as PEFT trains and saves it."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["query", "value"], rank_pattern={"0.*.value": 2})
    model = get_peft_model(BertModel.from_pretrained(tiny_bert), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "lora")
    return tmp_path / "lora"


def linear_layers(model) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def answer(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).last_hidden_state


@pytest.mark.parametrize(
    "settings",
    [
        MethodConfig(name="m", rank=4, factors="per_task"),
        MethodConfig(name="m", rank=4, factors="per_task", gate="scalar", scale="learned"),
        MethodConfig(name="m", rank=4, factors="per_task", gate="per_rank", routing="per_task"),
        MethodConfig(name="m", rank=4, factors="per_task", gate="per_output"),
    ],
)
def test_a_lora_of_peft_answers_as_it_did(folder, tiny_bert, settings: MethodConfig) -> None:
    expected = answer(PeftModel.from_pretrained(BertModel.from_pretrained(tiny_bert).eval(), folder))
    backbone = BertModel.from_pretrained(tiny_bert).eval()
    adapters = Adapters(backbone, settings, ["query", "key", "value"])
    assert adapters.add_lora(read_peft(folder, adapters.layers).pairs) == 0
    with answering(0):
        torch.testing.assert_close(answer(backbone), expected, rtol=0, atol=1e-5)


def test_merging_is_peft_s_merging(folder, tiny_bert) -> None:
    merged = PeftModel.from_pretrained(BertModel.from_pretrained(tiny_bert).eval(), folder).merge_and_unload()
    backbone = BertModel.from_pretrained(tiny_bert).eval()
    merge_into(backbone, read_peft(folder, linear_layers(backbone)).pairs)
    torch.testing.assert_close(answer(backbone), answer(merged), rtol=0, atol=1e-5)


QUERY = "base_model.model.encoder.layer.1.attention.self.query"
NOWHERE = {f"base_model.model.pooler.densed.lora_{x}.weight": torch.zeros(3, 3) for x in "AB"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: tensors.pop(f"{QUERY}.lora_B.weight"), f"'{QUERY}.lora_B.weight' is missing"),
        (lambda tensors: tensors.pop(f"{QUERY}.lora_A.weight"), f"'{QUERY}.lora_A.weight' is missing"),
        (lambda tensors: tensors.update({"extra.lora_A.weight": torch.zeros(3, 32)}), "'extra.lora_A.weight' is no"),
        (lambda tensors: tensors.update(NOWHERE), "unknown layer 'pooler.densed'"),
        (
            lambda tensors: [tensors.pop(f"{QUERY}.lora_{x}.weight") for x in "AB"],
            f"'{QUERY}.lora_A.weight' is missing",
        ),
        (lambda tensors: tensors.clear(), "lora_A.weight' is missing"),
        (lambda tensors: tensors.update({f"{QUERY}.lora_B.weight": torch.zeros(1, 3)}), "(1, 3); with r=3 it must be"),
        (
            lambda tensors: tensors.update({f"{QUERY}.lora_A.weight": torch.zeros(5, 32)}),
            "(5, 32); with r=3 it must be",
        ),
    ],
)
def test_a_tensor_too_few_or_too_many_is_an_error_that_names_it(folder, tiny_bert, change, says: str) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=re.escape(says)):
        read_peft(folder, linear_layers(BertModel.from_pretrained(tiny_bert)))


@pytest.mark.parametrize(
    ("key", "value"),
    [("use_dora", True), ("bias", "all"), ("peft_type", "IA3"), ("init_lora_weights", "pissa_niter_4")],
)
def test_what_is_no_plain_lora_is_refused(folder, key: str, value) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ModelError, match=f"{key}="):
        read_peft(folder, [])


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"alpha_pattern": {"0.*.value": 7}, "lora_alpha": 2}])
def test_rslora_and_alpha_patterns_are_read_as_peft_reads_them(tiny_bert, tmp_path, options) -> None:
    torch.manual_seed(0)
    model = get_peft_model(BertModel.from_pretrained(tiny_bert), LoraConfig(r=3, target_modules=["value"], **options))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    expected = {
        n: m.get_delta_weight("default") for n, m in model.base_model.model.named_modules() if hasattr(m, "lora_A")
    }
    pairs = read_peft(tmp_path, linear_layers(BertModel.from_pretrained(tiny_bert))).pairs
    assert pairs.keys() == expected.keys()
    for name, (A, B) in pairs.items():
        torch.testing.assert_close(B @ A, expected[name])


def test_an_imported_task_answers_without_dropout(folder, tiny_bert) -> None:
    backbone = BertModel.from_pretrained(tiny_bert).eval()
    settings = MethodConfig(name="m", rank=4, factors="per_task", dropout=0.5)
    adapters = Adapters(backbone, settings, ["query", "value"])
    adapters.add_lora(read_peft(folder, adapters.layers).pairs)
    with answering(0):
        assert torch.equal(answer(backbone), answer(backbone))


def test_a_lora_for_a_setting_that_shares_its_factors_is_refused(folder, tiny_bert) -> None:
    adapters = Adapters(BertModel.from_pretrained(tiny_bert), MethodConfig(name="m", rank=4), ["query", "value"])
    with pytest.raises(ModelError, match=r"method\.factors=shared"):
        adapters.add_lora(read_peft(folder, adapters.layers).pairs)
