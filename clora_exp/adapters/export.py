"""An adapter as a plain PEFT LoRA folder, which loads without this project; its head and how to use it lie beside it.

The update of every setting of the family is one vanilla pair, so nothing is lost: A' = A, B' = g · s · B R, alpha = r.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

README = """# {task}: a PEFT LoRA adapter for {model}

{description}. Labels: {num_labels}, in `labels.json`, in the order of the rows of `head.safetensors`.

`adapter_config.json` and `adapter_model.safetensors` are what PEFT's `save_pretrained` writes, for the plain backbone
({model}, as transformers loads it). With `BASE` the backbone's folder, `HERE` this one and `texts` a list of strings:

```python
{code}
```
"""


def write_peft(
    folder: Path,
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    head: Mapping[str, Tensor],
    *,
    task: str,
    description: str,
    labels: list[str],
    model: str,
    code: str,
) -> None:
    """Write `folder`: the pairs (A' (r, in), B' (out, r), by module) as PEFT reads them, head, labels and a README.

    Equal adapters are equal bytes.
    """
    folder.mkdir(parents=True)
    rank = next(iter(pairs.values()))[0].shape[0]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(pairs), inference_mode=True)
    plain: dict[str, Any] = {key: _sorted(value) for key, value in config.to_dict().items()}
    tensors = {}
    for name, (A, B) in pairs.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.cpu().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.cpu().contiguous()
    (folder / "adapter_config.json").write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}, folder / "head.safetensors")
    (folder / "labels.json").write_text(json.dumps(labels, ensure_ascii=False) + "\n", encoding="utf-8")
    text = README.format(task=task, model=model, description=description, num_labels=len(labels), code=code)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _sorted(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.value if hasattr(value, "value") else value
