"""Tasks side by side on one frozen base: their tensors in stacks with room to spare, one row a task.

A bank holds versions of one form and rank: pairs A, B of each task, or routings between factors that all share. All
banks of a base have its very weights. Taking a task in writes one row that nobody reads, letting it go clears one that
nobody reads any more: the model is never built again, and answers of other tasks go on meanwhile. A row that nothing
owns holds NaN, so that an answer from it could not pass for one.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clora_exp.adapters.backbone import Adapters
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError
from clora_exp.models.base import TaskModel

LEAST_ROWS = 4


class Rows:
    """A tensor with a row a task, (rows, …)."""

    def __init__(self, like: Tensor, shape: Sequence[int]) -> None:
        self.stack = like.new_full((0, *shape), torch.nan)

    def resize(self, num_rows: int) -> None:
        """Have so many rows; the old ones stay where they are, in another tensor: who reads now reads on."""
        kept = self.stack[:num_rows]
        new = self.stack.new_full((num_rows, *self.stack.shape[1:]), torch.nan)
        new[: len(kept)] = kept
        self.stack = new

    def write(self, row: int, value: Tensor) -> None:
        """Write a row; where the value is smaller the rest is zero."""
        place = self.stack[row]
        pads = [n - m for n, m in zip(place.shape, value.shape, strict=True)]
        place.copy_(F.pad(value, [x for pad in reversed(pads) for x in (0, pad)]))

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return math.prod(self.stack.shape[1:]) * self.stack.element_size()


class Slots:
    """Which rows of several stacks are owned. They grow by doubling and shrink when the last rows are free."""

    def __init__(self, stacks: Sequence[Rows], show: Callable[[int], None]) -> None:
        """Take stacks without rows.

        Args:
            show: is told of how many rows the stacks are, when they are others.
        """
        self._stacks, self._show = stacks, show
        self._free: list[int] = []
        self._num_rows = 0

    @property
    def num_used(self) -> int:
        """How many rows are owned."""
        return self._num_rows - len(self._free)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all stacks."""
        return sum(rows.row_bytes for rows in self._stacks)

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows, room to spare included."""
        return self._num_rows * self.row_bytes

    def take(self) -> int:
        """Give a row away."""
        if not self._free:
            self._resize(max(LEAST_ROWS, 2 * self._num_rows))
        row = min(self._free)
        self._free.remove(row)
        return row

    def give_back(self, row: int) -> None:
        """Take a row back, and let it hold NaN; where the last rows are free their memory goes too."""
        for rows in self._stacks:
            rows.stack[row] = torch.nan
        self._free.append(row)
        used = max((row + 1 for row in range(self._num_rows) if row not in self._free), default=0)
        if max(LEAST_ROWS, 4 * used) <= self._num_rows:
            self._resize(max(LEAST_ROWS, 2 * used) if used else 0)

    def compact(self) -> dict[int, int]:
        """Move what is owned into the first rows and have no others; return old and new rows. Nobody may read."""
        used = [row for row in range(self._num_rows) if row not in self._free]
        for new, old in enumerate(used):
            for rows in self._stacks:
                rows.stack[new] = rows.stack[old]
        self._resize(len(used))
        self._free = []
        return dict(zip(used, range(len(used)), strict=True))

    def _resize(self, num_rows: int) -> None:
        for rows in self._stacks:
            rows.resize(num_rows)
        self._free = [row for row in self._free if row < num_rows] + list(range(self._num_rows, num_rows))
        self._num_rows = num_rows
        self._show(num_rows)


class Bank:
    """The tasks of one form and rank on one copy of the base's modules. One thread at a time may give and take."""

    def __init__(self, base: TaskModel, modules: Sequence[str], rank: int, basis: Mapping[str, Tensor] | None) -> None:
        """Adapt the modules.

        Args:
            base: not changed; its weights are shared.
            basis: "A/<module>" (r, in) and "B/<module>" (out, r), for routings; without it tasks have pairs.

        Raises:
            ModelError: the base has no such modules, or the basis does not fit them.
        """
        self.model = sharing_weights(base)
        self.parts = ("routing",) if basis else ("A", "B")
        settings = MethodConfig(
            name="bank",
            rank=rank,
            alpha=float(rank),
            target_modules=list(modules),
            factors="shared" if basis else "per_task",
            factor_tasks=1 if basis else None,
            routing="per_task" if basis else "none",
        )
        self.adapters = Adapters(self.model.backbone, settings, None)
        layers = self.adapters.layers
        if strange := sorted(layers.keys() ^ set(modules)):
            raise ModelError(f"{strange[0]}: the base model has no such layer to adapt, or one more")
        self.model.requires_grad_(False).eval()
        for name, layer in layers.items() if basis else ():
            for part in "AB":
                factor, found = layer.part(part), basis.get(f"{part}/{name}")  # type: ignore[union-attr]
                if found is None or found.shape != factor.shape:
                    raise ModelError(f"the basis has no {part} of {name} that fits the base model")
                with torch.no_grad():
                    factor.copy_(found)
        of_base = {id(found) for found in (*base.parameters(), *base.buffers())}
        own = [found for found in (*self.model.parameters(), *self.model.buffers()) if id(found) not in of_base]
        self.fixed_bytes = sum(found.nbytes for found in own)  # the basis, and what the layers keep for training
        self._rows = {
            (part, name): Rows(layer.stack(part), layer.stack(part).shape[1:])
            for name, layer in layers.items()
            for part in self.parts
        }
        self.slots = Slots(list(self._rows.values()), self._show)

    def put(self, task: Mapping[str, Tensor]) -> int:
        """Take a task in: "A/<module>", "B/<module>", or "routing/<module>", float32; return its row.

        Raises:
            ModelError: a tensor that is missing, left over or of a shape that does not fit; nothing has changed then.
        """
        expected = {f"{part}/{name}" for part, name in self._rows}
        if strange := sorted(expected ^ task.keys()):
            raise ModelError(f"{strange[0]!r} is {'missing' if strange[0] in expected else 'left over'}")
        for (part, name), rows in self._rows.items():
            found, most = tuple(task[f"{part}/{name}"].shape), tuple(rows.stack.shape[1:])
            of_rank = {"A": (0,), "B": (1,), "routing": (0, 1)}[part]
            fits = [n <= most[i] if i in of_rank else n == most[i] for i, n in enumerate(found)]
            if len(found) != 2 or not all(fits):
                raise ModelError(f"{part} of {name} is {found}; the layer has {most}")
        row = self.slots.take()
        for (part, name), rows in self._rows.items():
            rows.write(row, task[f"{part}/{name}"])
        return row

    def _show(self, num_rows: int) -> None:
        """Let the layers answer with the stacks as they are now."""
        for (part, name), rows in self._rows.items():
            setattr(self.adapters.layers[name], f"lora_stack_{part}", rows.stack)
        for layer in self.adapters.layers.values():
            layer.num_ended = num_rows


class HeadBank:
    """Heads of up to so many labels, one row each: (rows, c, d + 1), the bias last, zeros beyond a task's labels."""

    def __init__(self, num_labels: int, like: Tensor) -> None:
        self._rows = Rows(like, (num_labels, like.shape[1] + 1))
        self.slots = Slots([self._rows], lambda num_rows: None)

    def put(self, weight: Tensor, bias: Tensor | None) -> int:
        """Take a head in, (c, d) and (c,); return its row."""
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        row = self.slots.take()
        self._rows.write(row, torch.cat([weight, bias[:, None]], dim=1))
        return row

    def logits(self, features: Tensor, rows: Tensor) -> Tensor:
        """Return what each example's head answers, (n, c), of features (n, d) and rows (n,); 0 beyond its labels."""
        heads = self._rows.stack[rows]
        return torch.einsum("nd,ncd->nc", features.to(heads.dtype), heads[..., :-1]) + heads[..., -1]


def sharing_weights(model: TaskModel) -> TaskModel:
    """Return a copy of a model's modules with the same weights, tokenizer and settings."""
    same = [*model.parameters(), *model.buffers(), model.tokenizer, model.config]
    return copy.deepcopy(model, {id(found): found for found in same})
