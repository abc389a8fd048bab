"""Which layers are adapted, on tiny models of every architecture; PEFT itself says what all-linear means."""

import dataclasses

import pytest
import torch
import transformers
from layers import CLORA_SHARED, CLORA_XS
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from clora_exp.adapters.active import answering
from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.pairs import merge_into
from clora_exp.adapters.targets import targets_of
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = SMALL | {"vocab_size": 30, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IDS = {"input_ids": torch.tensor([[4, 5, 6, 7], [9, 8, 10, 3]])}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 30}
DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 30}
MODERN = TEXT | {"cls_token_id": 1, "sep_token_id": 2, "global_attn_every_n_layers": 1}
VIT = SMALL | {"image_size": 8, "patch_size": 4}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]
BERT = ["query", "key", "value", "attention.output.dense"]
MODELS = {  # name → model class, its configuration, inputs, names of the attention projections, how many there are
    "bert": (transformers.BertModel, TEXT, IDS, BERT, 8),
    "distilbert": (transformers.DistilBertModel, DISTIL, IDS, ["q_lin", "k_lin", "v_lin", "out_lin"], 8),
    "modernbert": (transformers.ModernBertModel, MODERN, IDS, ["Wqkv", "attn.Wo"], 4),
    "vit": (transformers.ViTModel, VIT, {"pixel_values": torch.randn(2, 3, 8, 8)}, PROJECTIONS, 8),
    "t5": (transformers.T5Model, T5, IDS | {"decoder_input_ids": IDS["input_ids"]}, ["q", "k", "v", "o"], 24),
    "gpt2": (transformers.GPT2LMHeadModel, GPT2, IDS, ["c_attn", "attn.c_proj"], 4),
    "llama": (transformers.LlamaForCausalLM, TEXT, IDS, PROJECTIONS, 8),
    "gemma3": (transformers.Gemma3ForCausalLM, TEXT | {"head_dim": 8, "num_key_value_heads": 1}, IDS, PROJECTIONS, 8),
}


@pytest.fixture(params=MODELS)
def case(request):
    kind, fields, inputs, projections, count = MODELS[request.param]

    def build():
        torch.manual_seed(0)
        return kind(kind.config_class(**fields)).double().eval()

    return build, inputs, projections, count


def answer(model, inputs) -> torch.Tensor:
    doubled = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    with torch.no_grad():
        return model(**doubled)[0]


def move(adapters: Adapters, t: int) -> None:
    adapters.start_task(t)
    torch.manual_seed(t)
    for layer in adapters.layers.values():
        for part in layer.parts:
            if layer.part(part).requires_grad:
                torch.nn.init.normal_(layer.part(part), std=0.3)
    adapters.finish_task()


@pytest.mark.parametrize("settings", [CLORA_XS, CLORA_SHARED], ids=["clora_xs", "clora_shared"])
def test_attention_is_adapted_under_the_architecture_s_own_names(case, settings: MethodConfig) -> None:
    """And answers as the model with the update merged into it does, mixed rows too."""
    build, inputs, projections, count = case
    model = build()
    adapters = Adapters(model, settings, None)
    assert len(adapters.layers) == count
    assert {name for name in projections if any(layer.endswith(f".{name}") for layer in adapters.layers)} == {
        *projections
    }
    for t in range(2):
        move(adapters, t)
    merged = []
    for t in range(2):
        plain = build()
        merge_into(plain, adapters.as_lora(t))
        merged.append(answer(plain, inputs))
        with answering(t):
            torch.testing.assert_close(answer(model, inputs), merged[t], rtol=0, atol=1e-10)
    with answering(torch.tensor([1, 0])):
        mixed = answer(model, inputs)
    torch.testing.assert_close(mixed, torch.stack([merged[1][0], merged[0][1]]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ["peft", "plain"])
def test_all_linear_is_what_peft_takes_it_for(case, backend: str) -> None:
    build = case[0]
    theirs = inject_adapter_in_model(LoraConfig(r=4, target_modules="all-linear"), build())
    names = {name for name, module in theirs.named_modules() if isinstance(module, LoraLayer)}
    settings = dataclasses.replace(CLORA_XS, target_modules="all-linear", backend=backend)
    assert set(Adapters(build(), settings, ["query"]).layers) == names


def test_attention_of_an_unknown_kind_says_what_there_is() -> None:
    with pytest.raises(ModelError, match=r"set method\.target_modules to some of: dense, mixer"):
        targets_of(["layer.0.mixer", "layer.0.dense"], "attention")


def test_a_rank_above_that_of_the_svd_is_refused_with_all_linear_too(case) -> None:
    settings = dataclasses.replace(CLORA_XS, rank=40, target_modules="all-linear")
    with pytest.raises(ModelError, match=r"method\.rank=40: .* has rank 16; the SVD gives no more"):
        Adapters(case[0](), settings, None)


def test_a_layer_that_sees_no_batch_says_that_rows_cannot_be_mixed() -> None:
    """DeBERTa sends its relative positions through the projections of key and query."""
    fields = TEXT | {"relative_attention": True, "pos_att_type": ["c2p"], "share_att_key": True, "type_vocab_size": 0}
    model = transformers.DebertaV2Model(transformers.DebertaV2Config(**fields)).eval()
    adapters = Adapters(model, CLORA_XS, None)
    move(adapters, 0)
    with answering(0):
        model(**IDS)
    with answering(torch.tensor([0, 0])), pytest.raises(ModelError, match="a mixed batch of 2 rows"):
        model(**IDS)


def test_a_rank_above_both_sides_of_a_matrix_is_refused(case) -> None:
    settings = dataclasses.replace(CLORA_XS, rank=100_000, basis="learned", routing="none", target_modules="all-linear")
    says = r"method\.rank=100000: .* is [\d,]+ × [\d,]+; a rank above [\d,]+ adds nothing to it"
    with pytest.raises(ModelError, match=says):
        Adapters(case[0](), settings, None)
