"""A stored version as a plain PEFT LoRA, reloaded with PEFT alone and certified."""

from pathlib import Path
from typing import Any

from transformers.pytorch_utils import Conv1D

from clora_exp.adapters.certificate import certify
from clora_exp.adapters.export import write_peft
from clora_exp.adapters.exported import Exported
from clora_exp.errors import StoreError
from clora_exp.files import folder_written_atomically
from clora_exp.inference.loaded import Loader
from clora_exp.inference.measuring import logits_of
from clora_exp.inference.places import Place
from clora_exp.models.prompts import Told
from clora_exp.models.weights import weights_folder
from clora_exp.store.folder import Stored
from clora_exp.store.parents import pairs_of
from clora_exp.tasks.stream import Example


def export(place: Place, stored: Stored, out: Path) -> dict[str, Any]:
    """Write a version as a PEFT LoRA folder with its certificate; return the certificate.

    Raises:
        StoreError: the folder is there already.
        ModelError: it does not load there, or does not answer the same.
    """
    if out.exists():
        raise StoreError(f"{out} exists; name a new folder")
    manifest = stored.manifest
    loader = Loader(place)
    entry = loader.take_in(stored)
    model = loader.base
    told = Told(manifest.task, manifest.description, tuple(manifest.labels), manifest.base.knows_task)
    head = {n.removeprefix("head."): x for n, x in stored.tensors.items() if n.startswith("head.")}
    exported = Exported(
        task=manifest.task,
        base=place.config_of(manifest.base).base_name,
        pairs=pairs_of(place.store, stored),
        code=model.loading_code(told),
        description=manifest.description,
        labels=tuple(manifest.labels),
        head=head or None,
        classifier=model.classifier,
        task_type=model.task_type,
        is_conv1d=any(isinstance(module, Conv1D) for module in model.backbone.modules()),
    )
    words = manifest.probe.words
    probe = [Example(str(i), word, "", str(i)) for i, word in enumerate(words)]
    with folder_written_atomically(out) as new:
        write_peft(new, exported)
        folder = weights_folder(place.config_of(manifest.base))
        return certify(new, exported, folder, probe, logits_of(loader, entry, words))
