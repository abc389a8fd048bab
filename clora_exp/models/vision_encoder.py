"""An image encoder (ViT and its like): images → one vector each, which heads read."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor

from clora_exp.config import STRICT, ModelConfig, Targets
from clora_exp.errors import DataError, ModelError
from clora_exp.models.backends import load_backbone
from clora_exp.models.base import TaskModel
from clora_exp.models.batches import EncodedSplit
from clora_exp.models.prompts import Told
from clora_exp.models.weights import in_one_line, sha256, weights_folder
from clora_exp.tasks.cache import cache_dir, store
from clora_exp.tasks.images import MAX_PIXELS, data_uri, open_image
from clora_exp.tasks.stream import Example, Task

PROCESSOR = "preprocessor_config.json"
NOTHING_TOLD = Told("", "", (), True)
CHUNK = 256  # images opened at once


@dataclass(frozen=True)
class Config:
    """How an image becomes one vector."""

    __pydantic_config__ = STRICT
    files: ClassVar[tuple[str, ...]] = ("config.json", PROCESSOR, "*.safetensors")
    pooling: Literal["cls", "mean"] = "cls"  # the first token's vector, or the mean over the patches
    target_modules: Targets = None  # adapted unless the method says otherwise; null: attention


@dataclass(frozen=True)
class EncodedImages(EncodedSplit):
    """The pixels of one split in the model's size, a byte each; as float32, which the model reads, they take four.

    pixels: (n, channels, height, width) uint8; values: (channels, 256) float32, what the model reads for each.
    """

    pixels: np.ndarray
    values: np.ndarray

    def example(self, row: int) -> np.ndarray:
        """Return one image, (channels, height, width) uint8."""
        return self.pixels[row]

    def stacked(self, examples: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Return pixel values, (n, channels, height, width) float32."""
        return {"pixel_values": torch.from_numpy(pixel_values(np.stack(examples), self.values))}


def pixel_values(pixels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return what the model reads, float32, for (n, channels, height, width) uint8 and its table, (channels, 256)."""
    return np.stack([of_channel[pixels[:, c]] for c, of_channel in enumerate(values)], axis=1)


class VisionEncoder(TaskModel):
    """Backbone and heads. Shapes: n examples, d hidden size."""

    def __init__(self, backbone: Any, processor: Any, folder: Path, config: Config) -> None:
        super().__init__()
        self.backbone, self.tokenizer, self.config = backbone, processor, config
        self._processor_sha256 = sha256(folder, PROCESSOR)
        self._num_prefix = _num_prefix(backbone)
        self._values = _table(processor, 1 if _mode(backbone.config) == "L" else 3)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return one vector an example, (n, d)."""
        hidden = self.backbone(**inputs).last_hidden_state
        return hidden[:, 0] if self.config.pooling == "cls" else hidden[:, self._num_prefix :].mean(1)

    def unbatch(self, inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return the pixels of each example, (channels, height, width)."""
        return [{"pixel_values": pixels.clone()} for pixels in inputs["pixel_values"].cpu()]

    def collate(self, examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return pixel values, (n, channels, height, width)."""
        return {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}

    def inputs_of(self, examples: Sequence[Example], told: Told) -> dict[str, Tensor]:
        """Return images as `features` takes them."""
        return {"pixel_values": torch.from_numpy(pixel_values(self._pixels(examples), self._values))}

    def probe(self, words: Sequence[str]) -> list[Example]:
        """Return images of noise: an exported task has no others with it."""
        size = getattr(self.backbone.config, "image_size", 64)
        size = size if isinstance(size, int) else size[0]
        channels = () if _mode(self.backbone.config) == "L" else (3,)
        rng = np.random.default_rng(0)
        noise = [rng.integers(256, size=(size, size, *channels), dtype=np.uint8) for _ in range(8)]
        return [Example(str(i), "", "", str(i), image=data_uri(pixels)) for i, pixels in enumerate(noise)]

    def loading_code(self, told: Told, is_merged: bool = False) -> str:
        """Return Python that answers `images`, opened with Pillow, with PEFT and transformers alone."""
        base = "HERE" if is_merged else "BASE"
        pooled = "hidden[:, 0]" if self.config.pooling == "cls" else f"hidden[:, {self._num_prefix}:].mean(1)"
        mode = _mode(self.backbone.config)
        lines = [
            "import json",
            "import torch",
            *([] if is_merged else ["from peft import PeftModel"]),
            "from safetensors.torch import load_file",
            "from transformers import AutoImageProcessor, AutoModel",
            "",
            'labels = json.load(open(f"{HERE}/labels.json"))',
            f"model = AutoModel.from_pretrained({base}, dtype=torch.float32).eval()",
            *([] if is_merged else ["model = PeftModel.from_pretrained(model, HERE).eval()"]),
            f"processor = AutoImageProcessor.from_pretrained({base})",
            'head = load_file(f"{HERE}/head.safetensors")',
            "",
            f'inputs = processor([image.convert("{mode}") for image in images], return_tensors="pt")',
            "with torch.no_grad():",
            '    hidden = model(pixel_values=inputs["pixel_values"]).last_hidden_state',
            f'    logits = {pooled} @ head["weight"].T + head["bias"]',
            "predicted = [labels[i] for i in logits.argmax(-1)]",
        ]
        return "\n".join(lines)

    def encode(self, t: int, task: Task, split: str) -> EncodedImages:
        """Open and process a split once; afterwards it comes from the cache, keyed by processor and split.

        Raises:
            DataError: the task's examples are texts, or an image cannot be read.
        """
        if task.modality != "image":
            raise DataError(f"task {task.name!r}: its examples are texts; a vision encoder needs images")
        parts = f"uint8 {self._processor_sha256} {task.sha256[split]} {_mode(self.backbone.config)}"
        path = cache_dir() / "pixels" / f"{hashlib.sha256(parts.encode()).hexdigest()[:32]}.safetensors"
        examples = task.split(split)
        try:
            pixels = load_arrays(path.read_bytes())["pixels"]
            if len(pixels) != len(examples):
                raise ValueError("another number of examples")
        except (OSError, ValueError, KeyError, SafetensorError):
            pixels = self._pixels(examples)
            store(path, save_arrays({"pixels": pixels}))
        index = {label: i for i, label in enumerate(task.labels)}
        labels = np.array([index[example.label] for example in examples], dtype=np.int64)
        return EncodedImages(labels, t, pixels, self._values)

    def _pixels(self, examples: Sequence[Example]) -> np.ndarray:
        """Return the images in the model's size, (n, channels, height, width) uint8."""
        options = {"return_tensors": "np", "do_rescale": False, "do_normalize": False}
        return np.concatenate([self.tokenizer(images, **options)["pixel_values"] for images in self._opened(examples)])

    def _opened(self, examples: Sequence[Example]) -> Iterator[list[Any]]:
        """Yield the images in lists of `CHUNK`, or of fewer large ones.

        Raises:
            DataError: one that cannot be read.
        """
        mode, opened, num_pixels = _mode(self.backbone.config), [], 0
        for example in examples:
            try:
                with open_image(io.BytesIO(example.image_bytes)) as image:
                    opened.append(image.convert(mode))
            except (OSError, ValueError, SyntaxError) as error:
                raise DataError(f"image {example.id!r} cannot be read: {error}") from error
            num_pixels += opened[-1].width * opened[-1].height
            if len(opened) == CHUNK or num_pixels > MAX_PIXELS:
                yield opened
                opened, num_pixels = [], 0
        if opened:
            yield opened


def _table(processor: Any, channels: int) -> np.ndarray:
    """Return what the processor makes of each value of a pixel, (channels, 256) float32."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8), (channels, 1, 256))
    options = {"do_resize": False, "do_center_crop": False, "input_data_format": "channels_first"}
    values = processor([ramp], return_tensors="np", **options)["pixel_values"][0, :, 0]
    return np.ascontiguousarray(values, dtype=np.float32)


def _num_prefix(backbone: Any) -> int:
    """Return how many tokens stand before the patches: for the class, for DeiT's distillation, and registers."""
    names = {name.rpartition(".")[2] for name, _ in backbone.named_parameters()}
    own = names & {"cls_token", "class_embedding", "distillation_token"}
    return len(own) + getattr(backbone.config, "num_register_tokens", 0)


def _mode(config: Any) -> str:
    return "L" if getattr(config, "num_channels", 3) == 1 else "RGB"


def identity(config: ModelConfig) -> str:
    """Return the SHA-256 of weights, architecture and processor, whatever folder they lie in.

    Raises:
        ModelError: the weights are missing.
    """
    return sha256(weights_folder(config), *Config.files)


def build(config: ModelConfig, backend: str = "peft") -> VisionEncoder:
    """Load the backbone, frozen and in evaluation mode.

    Raises:
        ModelError: the weights are missing or are no image encoder.
    """
    import transformers

    folder = weights_folder(config)
    with in_one_line(config, folder):
        backbone, missing = load_backbone(folder, backend, 0)
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    needed = [name for name in missing if "pooler" not in name]
    if needed:
        raise ModelError(
            f"model={config.name}: {folder} has no weights for {sorted(needed)[0]} ({len(needed)} missing)"
        )
    if config.settings.pooling == "cls" and not _num_prefix(backbone):
        what = type(backbone).__name__
        raise ModelError(f"model.vision_encoder.pooling=cls: {folder} is a {what}, without a class token; have: mean")
    backbone.requires_grad_(False)
    with in_one_line(config, folder), torch.inference_mode():
        encoder = VisionEncoder(backbone, processor, folder, config.settings)
        encoder.features(encoder.inputs_of(encoder.probe([])[:1], NOTHING_TOLD))  # processor and model fit together
    return encoder
