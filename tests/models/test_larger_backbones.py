"""The configurations of backbones that come from the Hub: on random weights of their kind, and without any."""

import re

import numpy as np
import pytest
from encoders import save_vit
from language import save_causal_lm
from PIL import Image

from clora_exp import loop
from clora_exp.compose import CONF, compose_experiment
from clora_exp.errors import ModelError
from clora_exp.models.weights import weights_folder
from clora_exp.reports.terminal import Terminal

DECODERS = {"llama3_1b": "LlamaForCausalLM", "qwen3_0_6b": "Qwen3ForCausalLM"}


def test_every_configuration_with_a_name_on_the_hub_is_tried_here() -> None:
    texts = {path.stem: path.read_text() for path in (CONF / "model").glob("*.yaml")}
    assert {name for name, text in texts.items() if re.search(r"^path: (?!null)", text, re.M)} == {*DECODERS, "vit_b16"}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_learns_two_tasks_in_bfloat16(name: str, tiny, tmp_path) -> None:
    save_causal_lm(tmp_path / "weights", DECODERS[name], head_dim=16, num_key_value_heads=1)
    words = [f"model={name}", f"model.path={tmp_path / 'weights'}", "model.causal_lm.max_length=16", "trainer.epochs=1"]
    stored = loop.run(tiny("method=clora", *words), "", Terminal(interval_s=60)).read()
    assert stored.status == "done"
    assert stored.config["model"]["causal_lm"]["dtype"] == "bfloat16"
    assert 0 <= stored.metrics["average_accuracy"].value <= 1


def test_a_vit_learns_a_folder_of_images(tmp_path) -> None:
    save_vit(tmp_path / "weights", 3)
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for label, low in (("bright", 200), ("dark", 0)):
            folder = tmp_path / "images" / "shades" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(low, low + 55, (17, 17, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    model = ["model=vit_b16", f"model.path={tmp_path / 'weights'}", "trainer.accelerator=cpu", "report=false"]
    data = ["tasks=files", f"tasks.path={tmp_path / 'images'}", f"results_dir={tmp_path / 'runs'}"]
    stored = loop.run(compose_experiment(["method=clora", *model, *data]), "", Terminal(interval_s=60)).read()
    assert stored.metrics["average_accuracy"].value > 0.8  # bright or dark: easier than anything


@pytest.mark.parametrize("name", [*DECODERS, "vit_b16"])
def test_without_the_weights_one_line_says_what_to_do(name: str) -> None:
    config = compose_experiment([f"model={name}"])
    with pytest.raises(
        ModelError, match=r"only with HF_HUB_OFFLINE=0 before the command.*Else set model\.path"
    ) as refused:
        weights_folder(config.model)
    assert str(refused.value).startswith(f"model.path={config.model.path}: no such folder")
