"""A tiny random ViT beside transformers alone, in colour and in grey, and a run on a folder of images."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from encoders import save_vit
from PIL import Image

from clora_exp import loop
from clora_exp.adapters.active import BASE, answering
from clora_exp.compose import compose_experiment
from clora_exp.config import ExperimentConfig
from clora_exp.errors import DataError, ModelError
from clora_exp.methods.base import Method
from clora_exp.models import vision_encoder
from clora_exp.models.prompts import Told
from clora_exp.reports.terminal import Terminal
from clora_exp.tasks.stream import Example, TaskStream, load_stream

COLOURS = {"bright": (200, 255), "dark": (0, 60)}


@pytest.fixture(params=[3, 1], ids=["colour", "grey"])
def vit(request, tmp_path: Path) -> Path:
    """A folder with a random ViT of width 32 for images of 16×16, and a processor that resizes and normalises."""
    folder = tmp_path / "vit"
    save_vit(folder, request.param)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two tasks, two labels each, as folders of images of several sizes."""
    rng = np.random.default_rng(0)
    for task, shift in (("plain", 0), ("tinted", 20)):
        for split, count in (("train", 12), ("test", 5)):
            for label, (low, high) in COLOURS.items():
                folder = tmp_path / "images" / task / split / label
                folder.mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(low, high - shift, size=(20 + i, 17, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def config(vit: Path, images: Path, tmp_path: Path) -> ExperimentConfig:
    """An experiment on both."""
    model = ["model=vit", f"model.path={vit}"]
    data = ["tasks=files", f"tasks.path={images}", f"results_dir={tmp_path / 'runs'}"]
    brief = ["method=clora_gated", "method.rank=4", "trainer.epochs=1", "trainer.batch_size=8"]
    return compose_experiment([*model, *data, *brief, "trainer.accelerator=cpu", "report=false"])


def _stream(config: ExperimentConfig) -> TaskStream:
    return load_stream(config.tasks, 0)


def _opened(example: Example, mode: str) -> Image.Image:
    return Image.open(io.BytesIO(example.image_bytes)).convert(mode)


def test_a_split_holds_a_byte_a_pixel_and_gives_what_the_processor_gives(config, vit, monkeypatch) -> None:
    monkeypatch.setattr(vision_encoder, "CHUNK", 5)  # several, the last one shorter
    stream = _stream(config)
    method = Method(config, stream)
    channels = method.model.backbone.config.num_channels
    processor = transformers.AutoImageProcessor.from_pretrained(vit, backend="pil")
    for split in ("train", "test"):
        examples = stream.tasks[0].split(split)
        opened = [_opened(example, "RGB" if channels == 3 else "L") for example in examples]
        expected = processor(opened, return_tensors="pt")["pixel_values"]
        for _ in ("made", "read from the cache"):
            encoded = method.model.encode(0, stream.tasks[0], split)
            assert encoded.pixels.nbytes == len(examples) * channels * 16 * 16
            batch = encoded[list(range(len(examples)))]
            assert batch.inputs["pixel_values"].dtype == torch.float32
            assert torch.equal(batch.inputs["pixel_values"], expected)
            monkeypatch.setattr(type(method.model), "_pixels", None)
        monkeypatch.undo()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_features_are_what_transformers_alone_gives(pooling, config, vit) -> None:
    stream = _stream(config)
    method = Method(config, stream)
    method.model.config = vision_encoder.Config(pooling=pooling)
    batch = method.model.encode(0, stream.tasks[0], "test")[[0, 3, 7]]
    alone = transformers.AutoModel.from_pretrained(vit).eval()
    with torch.inference_mode(), answering(BASE):
        hidden = alone(**batch.inputs).last_hidden_state
        expected = hidden[:, 0] if pooling == "cls" else hidden[:, 1:].mean(1)
        torch.testing.assert_close(method.model.features(batch.inputs), expected, rtol=0, atol=1e-5)


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}


def test_patches_alone_are_averaged_where_registers_stand_before_them(images, tmp_path) -> None:
    folder, config = tmp_path / "dino", transformers.Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2)
    transformers.Dinov2WithRegistersModel(config).save_pretrained(folder)
    crop = {"height": 16, "width": 16}
    transformers.BitImageProcessor(size={"shortest_edge": 20}, crop_size=crop).save_pretrained(folder)
    words = ["model=vit", f"model.path={folder}", "model.vision_encoder.pooling=mean"]
    composed = compose_experiment(["method=frozen", *words, "tasks=files", f"tasks.path={images}"])
    model = Method(composed, _stream(composed)).model
    inputs = model.inputs_of(model.probe([]), Told("", "", ()))
    assert inputs["pixel_values"].shape[1:] == (3, 16, 16)
    with torch.inference_mode():
        hidden = model.backbone(**inputs).last_hidden_state
        assert hidden.shape[1] == 1 + 4 + 4
        torch.testing.assert_close(model.features(inputs), hidden[:, 5:].mean(1))


def test_a_model_without_a_class_token_says_what_to_pool(images, tmp_path) -> None:
    folder = tmp_path / "siglip"
    transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES, intermediate_size=64)).save_pretrained(
        folder
    )
    transformers.SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    composed = compose_experiment(["model=vit", f"model.path={folder}", "tasks=files", f"tasks.path={images}"])
    with pytest.raises(ModelError, match=r"pooling=cls: .* is a Siglip.*, without a class token; have: mean"):
        vision_encoder.build(composed.model)


def test_an_image_that_cannot_be_read_is_named(config, images) -> None:
    broken = next((images / "plain" / "train" / "dark").glob("*.png"))
    stream = _stream(config)
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=r"image '.*dark.*' cannot be read"):
        Method(config, stream).model.encode(0, stream.tasks[0], "train")


def test_a_run_learns_a_folder_of_images(config) -> None:
    stored = loop.run(config, "python run.py", Terminal(interval_s=60)).read()
    assert stored.status == "done"
    assert stored.matrix.tasks == ["plain", "tinted"]
    assert stored.metrics["forgetting"].value == 0
    assert stored.metrics["average_accuracy"].value > 0.8  # bright or dark: easier than anything
