"""What decoders and encoder-decoders have in common: tasks are learned as text, without heads.

An answer is the label's name, or a free-form task's response, and the token that ends it; the loss is on its tokens
alone. Labels are scored by likelihood, or an answer is written, greedily. A kind says how its backbone reads a prompt
and goes on from there: `causal_lm.py`, `seq2seq.py`. Prompts are in `prompts.py`, likelihoods in `likelihood.py`.

Shapes: n examples, l tokens of a prompt, a of an answer, d hidden size, V vocabulary, m supervised positions, c labels.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor

from clora_exp.adapters.family import FamilyLayer
from clora_exp.config import STRICT, Count, Targets
from clora_exp.errors import DataError, ModelError
from clora_exp.models.base import TaskModel
from clora_exp.models.batches import Batch, EncodedAnswers, padded, padded_pairs
from clora_exp.models.heads import Heads
from clora_exp.models.likelihood import Prefix, label_scores
from clora_exp.models.prompts import Prompts, Told, check_template
from clora_exp.models.weights import sha256
from clora_exp.tasks.cache import cache_dir, store
from clora_exp.tasks.stream import Example, Task

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
MOST_LOGITS = 2**26  # numbers in one call of the vocabulary's projection without gradients: 256 MB


@dataclass(frozen=True)
class LanguageConfig:
    """How a task becomes text, and how answers are told."""

    __pydantic_config__ = STRICT
    files: ClassVar[tuple[str, ...]] = ("config.json", "tokenizer.json", "*.safetensors")
    max_length: Count = 96  # tokens of a prompt; the end of a longer text is left out. Answers are never cut
    prompt: str = "{text}\n{question}\nAnswer:"  # of tasks with labels, see models/prompts.py; free-form has {text}
    prompts: dict[str, str] = field(default_factory=dict)  # task → a template of its own
    scoring: Literal["likelihood", "generation"] = "likelihood"  # of labels; generation: written out, exact match
    normalise: Literal["none", "tokens"] = "none"  # tokens: mean log p a token. None is what was trained: p(answer)
    max_new_tokens: Count = 32  # of an answer that is written
    free_form_score: Literal["exact_match", "token_f1", "rouge_l"] = "rouge_l"  # what the accuracy matrix holds of it
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the frozen weights; adapters are in float32
    target_modules: Targets = None  # adapted unless the method says otherwise; null: attention

    def __post_init__(self) -> None:
        for template in (self.prompt, *self.prompts.values()):
            check_template(template)


@dataclass
class _Kept:
    """Where the vocabulary's projection is wanted, (n, k) booleans, and what goes into it."""

    where: Tensor
    every: Tensor | None = None  # (n, k, d)
    hidden: Tensor | None = None  # (m, d)


_KEPT: ContextVar[_Kept] = ContextVar("kept")


def _select(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor] | None:
    """Before the vocabulary's projection: hand it the positions that are wanted, (1, m, d), and no others."""
    kept = _KEPT.get(None)
    if kept is None:
        return None
    kept.every, kept.hidden = arguments[0], arguments[0][kept.where]
    return (kept.hidden[None],)


class LanguageModel(TaskModel):
    """A backbone with its own projection to the vocabulary; no heads."""

    config: LanguageConfig
    prompts: Prompts
    pads_left: ClassVar[bool]  # where prompts are padded

    def __init__(self, backbone: Any, tokenizer: Any, folder: Path, config: LanguageConfig) -> None:
        super().__init__()
        self.backbone, self.tokenizer, self.config = backbone, tokenizer, config
        self._tokenizer_sha256 = sha256(folder, *TOKENIZER)
        self._label_ids: dict[Told, list[np.ndarray]] = {}
        backbone.get_output_embeddings().register_forward_pre_hook(_select)

    def add_heads(self, sizes: Sequence[int], cosine_scale: float | None = None) -> None:
        """Add none: the vocabulary is what answers."""
        self.heads = Heads(self.width, [])

    def call(self, where: Tensor, **arguments: Any) -> tuple[_Kept, Tensor, Any]:
        """Run the backbone with the vocabulary's projection at the positions `where`, (n, k), alone.

        Returns what went into the projection, logits (m, V) in float32, and the backbone's output.

        Raises:
            ModelError: the projection itself is adapted, which cannot be asked for a few positions.
        """
        if isinstance(self.backbone.get_output_embeddings(), FamilyLayer):
            raise ModelError("target_modules: the output layer of a language model is not adapted; leave it out")
        kept = _Kept(where)
        token = _KEPT.set(kept)
        try:
            output = self.backbone(**arguments)
        finally:
            _KEPT.reset(token)
        return kept, output.logits.reshape(-1, output.logits.shape[-1]).float(), output

    def taught(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what predicts each token of the answers, given those before: hidden states (m, d), logits (m, V)."""
        raise AssertionError(f"{type(self).__name__} defines no taught")

    def read(self, inputs: dict[str, Tensor]) -> Prefix:
        """Return what is left of the prompts when they have been read."""
        raise AssertionError(f"{type(self).__name__} defines no read")

    def go_on(self, prefix: Prefix, ids: Tensor, mask: Tensor, where: Tensor) -> Tensor:
        """Return logits (m, V) at the positions `where` of ids (n, k) that follow the prompts; fills the cache."""
        raise AssertionError(f"{type(self).__name__} defines no go_on")

    def written(self, inputs: dict[str, Tensor], **options: Any) -> Tensor:
        """Return the token ids that follow the prompts, (n, k), as transformers' generate makes them."""
        raise AssertionError(f"{type(self).__name__} defines no written")

    def targets(self, batch: Batch) -> Tensor:
        """Return the tokens of the answers, (m,): what `taught` is to predict."""
        return batch.inputs["answer_ids"][batch.inputs["answer_mask"].bool()]

    def scores(self, inputs: dict[str, Tensor], told: Told) -> Tensor:
        """Return log p(label | prompt) of each label that is told, (n, c), or its mean a token."""
        answers = self.label_ids(told)
        found = label_scores(self, inputs, answers, MOST_LOGITS)
        if self.config.normalise == "tokens":
            found = found / torch.tensor([len(answer) for answer in answers]).to(found)
        return found

    def label_ids(self, told: Told) -> list[np.ndarray]:
        """Return the tokens of each label as an answer.

        Raises:
            ModelError: two labels are the same tokens.
        """
        if told not in self._label_ids:
            found = self.prompts.answers(told.labels, told)
            seen: dict[tuple[int, ...], str] = {}
            for label, ids in zip(told.labels, found, strict=True):
                other = seen.setdefault(tuple(ids.tolist()), label)
                if other != label:
                    raise ModelError(f"labels {other!r} and {label!r} are the same tokens for this tokenizer")
            self._label_ids[told] = found
        return self._label_ids[told]

    @torch.no_grad()
    def write(self, inputs: dict[str, Tensor], **options: Any) -> list[str]:
        """Return what the model writes behind each prompt, until it ends or for `max_new_tokens`.

        Args:
            options: of transformers' GenerationConfig; without any, greedily and as the configuration says.
        """
        import transformers

        plain = {
            "max_new_tokens": self.config.max_new_tokens,
            "do_sample": False,
            "num_beams": 1,
            "repetition_penalty": 1.0,
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
            "bos_token_id": self.tokenizer.bos_token_id,
            "decoder_start_token_id": getattr(self.backbone.config, "decoder_start_token_id", None),
        }
        ids = self.written(inputs, generation_config=transformers.GenerationConfig(**plain | options))
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def answer_log_p(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return log p of each example's own answer, (n,)."""
        mask = inputs["answer_mask"].bool()
        losses = F.cross_entropy(self.taught(inputs)[1], inputs["answer_ids"][mask], reduction="none")
        return -torch.zeros(mask.shape).to(losses).masked_scatter(mask, losses).sum(1)

    @torch.no_grad()
    def reference_nll(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return each answer's negative log-likelihood, (n,), and its tokens, (n,)."""
        sizes = inputs["answer_mask"].sum(1)
        size = max(1, MOST_LOGITS // (int(sizes.max()) * self.backbone.config.vocab_size))
        found = []
        for start in range(0, len(sizes), size):
            found.append(-self.answer_log_p({name: value[start : start + size] for name, value in inputs.items()}))
        return torch.cat(found), sizes

    def told(self, task: Task) -> Told:
        """Return what a prompt may tell of a task."""
        return Told(task.name, task.description, tuple(task.labels), self.knows_task)

    def encode(self, t: int, task: Task, split: str) -> EncodedAnswers:
        """Tokenise a split once; afterwards it comes from the cache, keyed by tokenizer, split, template and length.

        Raises:
            DataError: the task's examples are images.
            ModelError: prompt and answer are longer than the model reads.
        """
        if task.modality != "text":
            raise DataError(f"task {task.name!r}: its examples are images; a language model needs texts")
        told, examples = self.told(task), task.split(split)
        parts = [self._tokenizer_sha256, task.sha256[split], self.prompts.around(told), self.prompts.answer_start(told)]
        key = hashlib.sha256(f"{type(self).__name__} {self.config.max_length} {parts}".encode()).hexdigest()[:32]
        path = cache_dir() / "tokens" / f"{key}.safetensors"
        try:
            arrays = load_arrays(path.read_bytes())
            if len(arrays["starts"]) != len(examples) + 1 or arrays["starts"][-1] != len(arrays["token_ids"]):
                raise ValueError("another number of examples")
        except (OSError, ValueError, KeyError, SafetensorError):
            arrays = dict(_one_after_another("", self.prompts.prompts([e.text for e in examples], told)))
            arrays |= dict(_one_after_another("answer_", self.prompts.answers([e.label for e in examples], told)))
            store(path, save_arrays(arrays))
        index = {label: i for i, label in enumerate(task.labels)}
        labels = np.array([index.get(example.label, 0) for example in examples], dtype=np.int64)
        encoded = EncodedAnswers(
            labels, t, **arrays, pad_token_id=self.tokenizer.pad_token_id, pads_left=self.pads_left
        )
        positions = getattr(self.backbone.config, "max_position_embeddings", None)
        needed = self.config.max_length + max(int(np.diff(encoded.answer_starts).max()), self.config.max_new_tokens)
        if positions is not None and needed > positions:
            raise ModelError(f"task {task.name!r}: prompt and answer take {needed} tokens, the model has {positions}")
        return encoded

    def unbatch(self, inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return the token ids of each example's prompt and answer, (l,) and (a,) int32."""
        found = []
        masks = inputs["attention_mask"].bool().cpu(), inputs["answer_mask"].bool().cpu()
        ids = inputs["input_ids"].to("cpu", torch.int32), inputs["answer_ids"].to("cpu", torch.int32)
        for prompt, prompt_mask, answer, answer_mask in zip(ids[0], masks[0], ids[1], masks[1], strict=True):
            found.append({"input_ids": prompt[prompt_mask].clone(), "answer_ids": answer[answer_mask].clone()})
        return found

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return prompts and answers, padded to the longest, with their masks."""
        pairs = [(example["input_ids"].numpy(), example["answer_ids"].numpy()) for example in examples]
        return padded_pairs(pairs, self.tokenizer.pad_token_id, self.pads_left)

    def inputs_of(self, examples: Sequence[Example], told: Told) -> dict[str, Tensor]:
        """Return the prompts of examples, (n, l), and their mask."""
        prompts = self.prompts.prompts([example.text for example in examples], told)
        return padded(prompts, self.tokenizer.pad_token_id, self.pads_left)

    def answers_alone(self, inputs: dict[str, Tensor], told: Told) -> Tensor:
        """Return the labels' scores, (n, c); where answers are written, the logits of the first token, (n, V)."""
        return self.read(inputs).logits if self.writes(told) else self.scores(inputs, told)

    def writes(self, told: Told) -> bool:
        """Tell whether answers of the task are written, not chosen among its labels."""
        return not told.labels or self.config.scoring == "generation"


def _one_after_another(name: str, rows: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}token_ids", np.concatenate(rows)
    yield f"{name}starts", np.cumsum([0, *map(len, rows)], dtype=np.int64)
