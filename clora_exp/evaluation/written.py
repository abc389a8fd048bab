"""Answers that a model wrote: what is kept of them, and how they are scored against a response.

Exact match and token F1 are SQuAD's (Rajpurkar et al. 2016, section 6.1: lower case, without punctuation, articles and
superfluous white space), ROUGE-L its F-measure (Lin 2004, section 3.1, β = 1), both computed by torchmetrics; ROUGE-L
looks at words of a to z and digits only, as the reference implementation does. Perplexity is exp of the mean negative
log-likelihood of a token of the responses, the one that ends each included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SCORES = ("exact_match", "token_f1", "rouge_l", "answer_perplexity")


@dataclass  # Lightning hands no frozen one on
class Written:
    """Texts of n examples, and of a free-form task the responses' negative log-likelihoods and tokens, else zeros."""

    texts: list[str]
    nll: np.ndarray  # (n,)
    num_tokens: np.ndarray  # (n,)

    @classmethod
    def gathered(cls, parts: "Sequence[tuple[np.ndarray, Written]]") -> "Written":
        """Put the parts of a split together, each with its rows."""
        order = np.argsort(np.concatenate([rows for rows, _ in parts]), kind="stable")
        texts = [text for _, part in parts for text in part.texts]
        nll, num_tokens = (
            np.concatenate(arrays) for arrays in zip(*((part.nll, part.num_tokens) for _, part in parts), strict=True)
        )
        return cls([texts[i] for i in order], nll[order], num_tokens[order])

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"texts": self.texts, "nll": self.nll.tolist(), "num_tokens": self.num_tokens.tolist()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Written":
        """Take back what `state_dict` gave."""
        return cls(state["texts"], np.asarray(state["nll"]), np.asarray(state["num_tokens"]))


Predicted = np.ndarray | Written  # label indices (n,), or texts


def free_form_scores(written: Written, responses: Sequence[str]) -> dict[str, float]:
    """Return every score of a task's answers, means over its examples; perplexity over their tokens."""
    from torchmetrics.functional.text import rouge_score, squad

    each = [
        squad({"prediction_text": text, "id": "0"}, {"answers": {"text": [response], "answer_start": [0]}, "id": "0"})
        for text, response in zip(written.texts, responses, strict=True)
    ]
    rouge = rouge_score(written.texts, list(responses), rouge_keys="rougeL")
    return {
        "exact_match": float(np.mean([float(scores["exact_match"]) for scores in each])) / 100,
        "token_f1": float(np.mean([float(scores["f1"]) for scores in each])) / 100,
        "rouge_l": float(rouge["rougeL_fmeasure"]),
        "answer_perplexity": float(np.exp(written.nll.sum() / written.num_tokens.sum())),
    }
