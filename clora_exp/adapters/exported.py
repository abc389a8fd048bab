"""What of a task leaves for other software. How it is written: `export.py`; this imports no PEFT, no transformers."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

Pairs = Mapping[str, tuple[Tensor, Tensor]]  # module → A' (r, in), B' (out, r), of scale 1

README = """# {title}

{description}.{labels}

{files} With {names} and `texts` a list of strings:

```python
{code}
```
"""


@dataclass(frozen=True)
class Classifier:
    """Where a task's head fits into transformers' own sequence classification model of this backbone."""

    prefix: str  # of the backbone's modules in that model, e.g. "bert."
    head: str  # the linear layer, e.g. "classifier"


@dataclass(frozen=True)
class Exported:
    """One task, ready to be written for other software."""

    task: str
    base: str  # the base model's name on the Hub, or its own
    pairs: Pairs
    code: str  # Python that answers `texts`: sets `model` and `logits`
    description: str = ""
    labels: tuple[str, ...] = ()  # in the order of the head's rows; none for a model without heads
    head: Mapping[str, Tensor] | None = None  # weight (c, d), bias (c,)
    classifier: Classifier | None = None  # None: the head is a file of its own
    task_type: str | None = None  # PEFT's name for a model without a head that it knows, e.g. CAUSAL_LM
    is_conv1d: bool = False  # GPT-2's layers keep W0 as (in, out)

    def as_readme(self, title: str, files: str, names: str) -> str:
        """Return the folder's README. Its only block of code is `code`, whatever stands in the words around it."""
        labels = f" Labels: {len(self.labels)}, in `labels.json`, in the order of `logits`." * bool(self.labels)
        return README.format(
            title=_words(title),
            description=_words(self.description or self.task),
            labels=labels,
            files=files,
            names=names,
            code=self.code,
        )


def _words(text: str) -> str:
    """Return a text as one line that opens no block of code."""
    return " ".join(text.split()).replace("```", "'").replace("~~~", "'")
