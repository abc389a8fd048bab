"""The lines of Python that answer from an exported task of a language model, without this project."""

from typing import TYPE_CHECKING

from clora_exp.models.prompts import Told

if TYPE_CHECKING:
    from clora_exp.models.language import LanguageModel

PROMPT = """
def prompt_of(text):
    ids = tokenizer(BEFORE + text + AFTER)["input_ids"]{strip}
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    for keep in range(len(offsets) - len(ids) + {length}, 0, -1):  # the end of a long text is left out
        if len(ids) <= {length}:
            break
        ids = tokenizer(BEFORE + text[: offsets[keep - 1][1]] + AFTER)["input_ids"]{strip}
    return torch.tensor([ids[-{length}:]])


def answer_of(label):
    ids = tokenizer({start!r} + label, add_special_tokens=False)["input_ids"]
    return torch.tensor([[*ids, tokenizer.eos_token_id]])
"""

CAUSAL_LIKELIHOOD = """
def log_p(prompt, answer):
    found = model(input_ids=torch.cat([prompt, answer], dim=1)).logits[0, prompt.shape[1] - 1 : -1].log_softmax(-1)
    return found.gather(1, answer[0, :, None]).{mean}()
"""

SEQ2SEQ_LIKELIHOOD = """
def log_p(prompt, answer):
    found = model(input_ids=prompt, labels=answer).logits[0].log_softmax(-1)
    return found.gather(1, answer[0, :, None]).{mean}()
"""

CHOOSE = """
with torch.no_grad():
    logits = torch.stack([
        torch.stack([log_p(prompt_of(text), answer_of(label)) for label in labels]) for text in texts
    ])
predicted = [labels[i] for i in logits.argmax(-1)]"""

CAUSAL_WRITE = """
def first_logits(prompt):
    return model(input_ids=prompt).logits[0, -1]


def write(prompt):
    ids = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt))
    return tokenizer.decode(ids[0, prompt.shape[1]:], skip_special_tokens=True).strip()
"""

SEQ2SEQ_WRITE = """
def first_logits(prompt):
    start = torch.tensor([[model.config.decoder_start_token_id]])
    return model(input_ids=prompt, decoder_input_ids=start).logits[0, -1]


def write(prompt):
    ids = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt))
    return tokenizer.decode(ids[0], skip_special_tokens=True).strip()
"""

WRITE = """
tokens = ("eos_token_id", "pad_token_id", "bos_token_id")
model.generation_config = GenerationConfig(  # greedy, whatever the model's own says
    max_new_tokens={most},
    do_sample=False,
    decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
    **{{name: getattr(tokenizer, name) for name in tokens}},
)
with torch.no_grad():
    logits = torch.stack([first_logits(prompt_of(text)) for text in texts])
    predicted = [write(prompt_of(text)) for text in texts]"""


def causal_code(model: "LanguageModel", told: Told, is_merged: bool) -> str:
    """Return the code for a decoder."""
    return _code(model, told, is_merged, "AutoModelForCausalLM", (CAUSAL_LIKELIHOOD, CAUSAL_WRITE))


def seq2seq_code(model: "LanguageModel", told: Told, is_merged: bool) -> str:
    """Return the code for an encoder-decoder."""
    return _code(model, told, is_merged, "AutoModelForSeq2SeqLM", (SEQ2SEQ_LIKELIHOOD, SEQ2SEQ_WRITE))


def _code(model: "LanguageModel", told: Told, is_merged: bool, kind: str, answer: tuple[str, str]) -> str:
    config, prompts, writes = model.config, model.prompts, model.writes(told)
    before, after = prompts.around(told)
    base = "HERE" if is_merged else "BASE"
    head = [
        *([] if writes else ["import json", ""]),
        "import torch",
        *([] if is_merged else ["from peft import PeftModel"]),
        f"from transformers import {kind}, AutoTokenizer{', GenerationConfig' if writes else ''}",
        "",
        f"BEFORE, AFTER = {before!r}, {after!r}  # the prompt, around a text",
        *([] if writes else ['labels = json.load(open(f"{HERE}/labels.json"))']),
        f"model = {kind}.from_pretrained({base}, dtype=torch.float32).eval()",
        *([] if is_merged else ["model = PeftModel.from_pretrained(model, HERE).eval()"]),
        f"tokenizer = AutoTokenizer.from_pretrained({base})",
        "",
    ]
    strip = "[:-1]" * prompts.strips_end
    prompt = PROMPT.format(length=config.max_length, start=prompts.answer_start(told), strip=strip)
    if writes:
        prompt = prompt[: prompt.index("\n\ndef answer_of")] + "\n"
        return "\n".join(head) + prompt + answer[1] + WRITE.format(most=config.max_new_tokens)
    mean = "mean" if config.normalise == "tokens" else "sum"
    return "\n".join(head) + prompt + answer[0].format(mean=mean) + CHOOSE
