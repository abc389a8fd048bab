"""A task as text: the prompt of an example, cut to its length, and the answer that is learned. Of one kind of model.

A template may name {text}, the example's own; {question}, made of the task's description and, where they fit, its label
names; {description}, {labels}, {task}. Where the task is not known when an example is answered, a prompt tells nothing
of it: all but {text} is empty.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FIELDS = ("text", "question", "description", "labels", "task")
FREE_FORM = "{text}"  # the examples of such a task are prompts already


@dataclass(frozen=True)
class Told:
    """What a prompt may tell of a task; no labels where it is free-form."""

    name: str
    description: str
    labels: tuple[str, ...]
    is_known: bool = True  # to whoever asks; else the prompt may tell nothing of it


def check_template(template: str) -> None:
    """Raises ValueError where {text} does not stand in it once, or another field is unknown."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"no template: {error}; a brace itself is written twice") from error
    strange = [name for name in names if name not in FIELDS]
    if strange or names.count("text") != 1:
        what = f"unknown field {{{strange[0]}}}" if strange else "{text} must stand in it once"
        raise ValueError(f"{what}; have: {', '.join('{' + name + '}' for name in FIELDS)}")


class Prompts:
    """Makes token ids of prompts and answers. `max_length`: tokens of a prompt, the template's own included."""

    strips_end = False  # whether the tokenizer's own end of a text is left out of prompts

    def __init__(self, tokenizer: Any, template: str, of_task: dict[str, str], max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.template = _typed(template)
        self.of_task = {name: _typed(own) for name, own in of_task.items()}

    def around(self, told: Told) -> tuple[str, str]:
        """Return what stands before and after the text in a prompt of the task."""
        template = self.of_task.get(told.name, self.template if told.labels else FREE_FORM)
        values = dict.fromkeys(FIELDS, "")
        if told.is_known:
            values = {"description": told.description, "labels": ", ".join(told.labels), "task": told.name}
            values["question"] = self._question(told)
        else:
            template = re.sub(r"\n\{question\}(?=\n|$)", "", template)  # no empty line in its place
        return _filled(template, values)

    def _question(self, told: Told) -> str:
        """Return the description, with the label names behind it where that takes a quarter of a prompt at most."""
        names = f" ({', '.join(told.labels)})" if told.labels else ""
        question = f"{told.description or told.name}{names}"
        fits = len(self.tokenizer(question, add_special_tokens=False)["input_ids"]) <= self.max_length // 4
        return question if fits else told.description or told.name

    def prompts(self, texts: Sequence[str], told: Told) -> list[np.ndarray]:
        """Return the token ids of each text's prompt, (l,) int32; of a text that is too long its end is left out."""
        before, after = self.around(told)
        return [np.asarray(self._within(before, text, after), dtype=np.int32) for text in texts]

    def _within(self, before: str, text: str, after: str) -> list[int]:
        ids: list[int] = self._prompt_ids(before + text + after)
        if len(ids) <= self.max_length:
            return ids
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        keep = len(offsets) - (len(ids) - self.max_length)
        while len(ids) > self.max_length and keep > 0:  # tokens at the seams may come out otherwise than counted
            ids = self._prompt_ids(before + text[: offsets[keep - 1][1]] + after)
            keep -= 1
        return ids[-self.max_length :]

    def _prompt_ids(self, prompt: str) -> list[int]:
        ids = self.tokenizer(prompt)["input_ids"]
        return ids[:-1] if self.strips_end else ids

    def answers(self, texts: Sequence[str], told: Told) -> list[np.ndarray]:
        """Return the token ids of answers with the token that ends them, (a,) int32; they are never cut."""
        start = self.answer_start(told)
        found = [self.tokenizer(start + text, add_special_tokens=False)["input_ids"] for text in texts]
        return [np.asarray([*ids, self.tokenizer.eos_token_id], dtype=np.int32) for ids in found]

    def answer_start(self, told: Told) -> str:
        """Return what stands between prompt and answer in the text of both."""
        return ""


class DecoderPrompts(Prompts):
    """Of a decoder the answer goes on where the prompt ends: after a space, unless the template ends with one."""

    def __init__(self, tokenizer: Any, template: str, of_task: dict[str, str], max_length: int) -> None:
        super().__init__(tokenizer, template, of_task, max_length)
        self.strips_end = tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]  # the answer is yet to come

    def answer_start(self, told: Told) -> str:
        """Return the space, or nothing."""
        after = self.around(told)[1]
        return "" if after.endswith((" ", "\n", "\t")) else " "


def _typed(template: str) -> str:
    """Return a template with line breaks where a backslash and an n stand for one, as on a command line."""
    return template.replace("\\n", "\n")


def _filled(template: str, values: dict[str, str]) -> tuple[str, str]:
    """Return the template's part before {text} and the one after it, their fields filled in."""
    parts, at_text = ["", ""], 0
    for literal, name, _, _ in string.Formatter().parse(template):
        parts[at_text] += literal
        if name == "text":
            at_text = 1
        elif name is not None:
            parts[at_text] += values[name]
    return parts[0], parts[1]


def same_words(text: str) -> str:
    """Return a text without differences of case and of white space: what exact match of a label compares."""
    return " ".join(text.split()).casefold()
