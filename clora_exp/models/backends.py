"""How a backbone is loaded: by transformers, or by Unsloth with its faster kernels, which needs a GPU."""

import functools
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clora_exp.adapters.active import checkpoint_contexts
from clora_exp.models.weights import check_backend


def load_backbone(
    folder: Path, backend: str, max_length: int, kind: str = "AutoModel", dtype: torch.dtype = torch.float32
) -> tuple[Any, list[str]]:
    """Load a backbone as a class of transformers, by default without head; return it in evaluation mode.

    Also returned are the names of weights that the folder lacks.

    Raises:
        ModelError: the backend cannot be had here.
        OSError, ValueError, KeyError, SafetensorError: the folder is no model.
    """
    import transformers

    check_backend(backend)
    if backend == "unsloth":
        fast = importlib.import_module("unsloth").FastModel
        backbone, _ = fast.from_pretrained(
            model_name=str(folder),
            auto_model=getattr(transformers, kind),
            max_seq_length=max_length,
            load_in_4bit=False,
            use_exact_model_name=True,
            trust_remote_code=False,
            use_gradient_checkpointing=False,  # its own forgets which task a recomputation answers; see below
        )
        return backbone.eval(), []
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # the caller judges what is missing
    try:
        backbone, info = getattr(transformers, kind).from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused here, by name
        )
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    for name, found, wanted in info["mismatched_keys"]:
        raise ValueError(f"{name} is {tuple(found)} in its weights and {tuple(wanted)} by its config.json")
    for name, tensor in backbone.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds numbers that are NaN or infinite")
    return backbone, list(info["missing_keys"])


def checkpoint_layers(backbone: nn.Module) -> None:
    """Let the blocks of a backbone compute their activations again in the backward pass, for the task of the forward.

    transformers' own way looks at `training`, and putting blocks in training would turn their dropout on. A call with
    a cache of keys and values is not checkpointed: it would fill the cache twice.
    """
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in backbone.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.forward = functools.partial(_checkpointed, checkpoint, module.forward)


def _checkpointed(checkpoint: Any, forward: Any, *arguments: Any, **keywords: Any) -> Any:
    if not torch.is_grad_enabled() or keywords.get("past_key_values") is not None:
        return forward(*arguments, **keywords)
    if torch.compiler.is_compiling():  # the graph holds the task already, for the recomputation too
        return checkpoint(forward, *arguments, use_reentrant=False, **keywords)
    return checkpoint(forward, *arguments, use_reentrant=False, context_fn=checkpoint_contexts, **keywords)
