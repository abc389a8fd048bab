"""Reload an exported folder with nothing but PEFT and transformers, and measure how far it is from what was exported.

Run by `certificate.py` in a process of its own, which cannot import this project: python -I reload.py < specification.
"""

import base64
import io
import json
import sys
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file


def main() -> None:
    """Read the specification from standard input; print what was measured as one JSON object."""
    spec = json.load(sys.stdin)
    expected = load_file(spec["expected"])
    scope: dict[str, Any] = {"BASE": spec["base"], "HERE": spec["here"], "texts": spec["texts"]}
    if spec["images"]:
        from PIL import Image

        scope["images"] = [Image.open(io.BytesIO(base64.b64decode(image))) for image in spec["images"]]
    # The lines that `loading_code` has just made; words of the task stand in them as literals (repr) alone.
    code = compile(spec["code"], "README.md", "exec")
    exec(code, scope)  # nosec B102
    model, prefix = scope["model"], spec["prefix"]
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    if spec["is_merged"]:
        kind = transformers.AutoModel if prefix else type(model)
        base = kind.from_pretrained(spec["base"], dtype=torch.float32)
    updates = {}
    for name in [key.removeprefix("A/") for key in expected if key.startswith("A/")]:
        update = expected[f"B/{name}"] @ expected[f"A/{name}"]
        if spec["is_merged"]:
            layer = model.get_submodule(prefix + name)
            is_conv1d = type(layer).__name__ == "Conv1D"  # GPT-2's: its weight is (in, out)
            before = base.get_submodule(name).weight
            updates[name] = distance(layer.weight, before + (update.T if is_conv1d else update))
        else:
            layer = layers.pop(f"base_model.model.{prefix}{name}")
            update = update.T if layer.fan_in_fan_out else update
            updates[name] = distance(layer.get_delta_weight("default"), update)
    logits = scope["logits"].double()
    found = {
        "updates": updates,
        "logits": distance(logits, expected["logits"]),
        "same_answers": bool((logits.argmax(-1) == expected["logits"].argmax(-1)).all()),
        "left_over": sorted(layers),
        "foreign": sorted(name for name in sys.modules if name.startswith("clora_exp")),
        "versions": {module.__name__: str(module.__version__) for module in (torch, transformers, peft)},
    }
    print(json.dumps(found))


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest number expected; of zeros as it is."""
    difference = float((found.detach().double() - expected.detach().double()).abs().max())
    return difference / (float(expected.detach().abs().max()) or 1.0)


if __name__ == "__main__":
    main()
