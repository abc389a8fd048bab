"""Model folders that are damaged, of another model, or hold what they should not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad_cases import DAMAGES, Case, Place, Words, edit, without_privileges

FILES = ("config.json", "model.safetensors", "tokenizer.json")
Change = Callable[[Path], object]


def _of_model(change: Change, *overrides: str) -> Callable[[Place], Words]:
    def make(place: Place) -> Words:
        change(place.copy("model"))
        return place.run_py(*overrides)

    return make


def _of_vit(change: Change) -> Callable[[Place], Words]:
    def make(place: Place) -> Words:
        change(place.copy("vit"))
        own = [f"model.path={place.copy('vit')}", f"tasks.path={place.copy('images')}", "tasks=files", "model=vit"]
        return ["run.py", *own, "trainer.accelerator=cpu", "method=lora", "method.rank=4", "results_dir=runs"]

    return make


def _exported(change: Change) -> Callable[[Place], Words]:
    """Return an export of a finished run whose model has changed since."""

    def make(place: Place) -> Words:
        run, model = place.run("done"), place.copy("model")
        change(model)
        text = (run / "config.yaml").read_text().replace(str(place.ready / "model"), str(model))
        (run / "config.yaml").write_text(text)
        (run / "SHA256SUMS").unlink()
        return ["clora_exp.adapters", "export", str(run), "a", str(place.folder / "out")]

    return make


def _config(**values: Any) -> Change:
    return lambda model: edit(model / "config.json", lambda config: config | values)


def _without(key: str) -> Change:
    return lambda model: edit(model / "config.json", lambda c: {k: v for k, v in c.items() if k != key})


def _text(name: str, text: str) -> Change:
    return lambda model: (model / name).write_text(text)


def _tensors(change: Callable[[dict[str, Any]], object]) -> Change:
    def damage(model: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(model / "model.safetensors")
        changed = change(tensors)
        save_file(changed if isinstance(changed, dict) else tensors, model / "model.safetensors", {"format": "pt"})

    return damage


def _query(tensors: dict[str, Any]) -> str:
    return next(name for name in sorted(tensors) if name.endswith("query.weight"))


def _filled(value: float) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors[_query(tensors)].view(-1)[:1].fill_(value)


def _header(text: bytes, length: int | None = None) -> Change:
    """Write a file of tensors whose header is this text, or promises another length."""
    start = (len(text) if length is None else length).to_bytes(8, "little")
    return lambda model: (model / "model.safetensors").write_bytes(start + text)


def _pickle(model: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(2)}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


def _flipped_late(model: Path) -> None:
    DAMAGES["one bit flipped near the end"](model / "model.safetensors")


def _reseeded(model: Path) -> None:
    shutil.copy(model.parents[2] / "ready" / "other_model" / "model.safetensors", model)


def _other(name: str) -> Callable[[Place], Words]:
    """Return a run on a model folder one of whose files is from another model."""

    def make(place: Place) -> Words:
        shutil.copy(place.ready / "vit" / name, place.copy("model") / name)
        return place.run_py()

    return make


def _no_permission(place: Place) -> Words:
    words = place.run_py()
    (place.folder / "model" / "model.safetensors").chmod(0)
    without_privileges()
    return words


def _tokenizer(change: Callable[[Any], Any]) -> Change:
    return lambda model: edit(model / "tokenizer.json", change)


def _no_vocabulary(tokenizer: Any) -> Any:
    tokenizer["model"]["vocab"] = {}
    return tokenizer


def _large_ids(tokenizer: Any) -> Any:
    tokenizer["model"]["vocab"] = {word: 1000 + i for i, word in enumerate(tokenizer["model"]["vocab"])}
    return tokenizer


MODELS: tuple[tuple[str, Change, str], ...] = (
    ("config.json is a list", _text("config.json", "[]"), "config.json"),
    ("config.json is a word", _text("config.json", '"bert"'), "config.json"),
    ("config.json of brackets", _text("config.json", "[" * 100_000), "config.json"),
    ("config.json without a kind", _without("model_type"), "model"),
    ("config.json of an unknown kind", _config(model_type="brt"), "brt"),
    ("config.json of a kind that is no text encoder", _config(model_type="vit"), "model"),
    ("config.json with layers missing", _config(num_hidden_layers=3), "no weights for"),
    ("config.json with another width", _config(hidden_size=48), "model"),
    ("config.json with no width", _config(hidden_size=0), "model"),
    ("config.json with a width in words", _config(hidden_size="wide"), "model"),
    ("config.json with heads that do not divide", _config(num_attention_heads=5), "model"),
    ("config.json with no heads", _config(num_attention_heads=0), "model"),
    ("config.json with a negative number of layers", _config(num_hidden_layers=-1), "target_modules"),
    ("config.json with another vocabulary", _config(vocab_size=5), "model"),
    ("config.json with an unknown activation", _config(hidden_act="nope"), "model"),
    ("config.json with code from the Hub", _config(attn_implementation="a/b", _attn_implementation="a/b"), "a/b"),
    ("config.json with one position", _config(max_position_embeddings=1), "model"),
    ("no tensors", _tensors(lambda t: {}), "model"),
    ("a tensor missing", _tensors(lambda t: t.pop(_query(t))), "no weights for"),
    ("a tensor of another shape", _tensors(lambda t: t.update({_query(t): t[_query(t)][:8].clone()})), "model"),
    ("a tensor of integers", _tensors(lambda t: t.update({_query(t): t[_query(t)].int()})), "model"),
    ("tensors of another model's names", _tensors(lambda t: {f"x.{k}": v for k, v in t.items()}), "model"),
    ("NaN in a weight", _tensors(_filled(float("nan"))), "NaN"),
    ("infinity in a weight", _tensors(_filled(float("inf"))), "infinite"),
    ("a header of 2^62 bytes", _header(b"{}", 2**62), "model.safetensors"),
    ("a header that is no JSON", _header(b"{nope"), "model.safetensors"),
    ("a header that is a list", _header(b"[]"), "model.safetensors"),
    ("tensors beyond the end", _header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'), "model.safetens"),
    ("a shape that overflows", _header(
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'), "model.safetensors"),
    ("an unknown type of tensor", _header(b'{"a":{"dtype":"X9","shape":[0],"data_offsets":[0,0]}}'), "model.safetens"),
    ("a pickle in place of safetensors", _pickle, "no *.safetensors there"),
    ("a web page in place of safetensors", _text("model.safetensors", "<html></html>"), "model.safetensors"),
    ("a pointer in place of safetensors", _text(
        "model.safetensors", "version https://git-lfs.github.com/spec/v1\nsize 9\n"), "model.safetensors"),
    ("an index that leads out", _text("model.safetensors.index.json", json.dumps(
        {"weight_map": {"a": "../x.safetensors"}})), "../x.safetensors"),
    ("an index that is a list", _text("model.safetensors.index.json", "[]"), "model.safetensors.index.json"),
    ("an adapter's folder", _text("adapter_config.json", "{}"), "adapter_config.json"),
    ("tokenizer.json is a list", _text("tokenizer.json", "[]"), "does not load"),
    ("tokenizer.json without a model", _tokenizer(lambda t: {k: v for k, v in t.items() if k != "model"}), "model"),
    ("tokenizer.json without words", _tokenizer(_no_vocabulary), "model"),
    ("tokenizer.json with words the model does not have", _tokenizer(_large_ids), "model"),
    ("tokenizer_config.json is a list", _text("tokenizer_config.json", "[]"), "model"),
    ("tokenizer_config.json of an unknown class", _text(
        "tokenizer_config.json", '{"tokenizer_class": "NopeTokenizer"}'), "model"),
    ("tokenizer_config.json with code", _text("tokenizer_config.json", json.dumps(
        {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"})), "model"),
)  # fmt: skip
EXPORTS: tuple[tuple[str, Change, str], ...] = (
    ("one bit of a weight flipped", _flipped_late, "was learned on other weights"),
    ("weights of another seed", _reseeded, "was learned on other weights"),
    ("config.json changed", _config(hidden_act="relu"), "was learned on other weights"),
    ("tokenizer.json changed", _tokenizer(_no_vocabulary), "was learned on other weights"),
    ("model.safetensors missing", lambda m: (m / "model.safetensors").unlink(), "no *.safetensors there"),
)  # fmt: skip
VITS: tuple[tuple[str, Change, str], ...] = (
    ("preprocessor_config.json is a list", _text("preprocessor_config.json", "[]"), "vit"),
    ("preprocessor_config.json is empty", _text("preprocessor_config.json", ""), "vit"),
    ("preprocessor_config.json of no size", _text("preprocessor_config.json", '{"size": {"height": 0, "width": 0}, '
     '"image_processor_type": "ViTImageProcessor"}'), "vit"),
    ("preprocessor_config.json of another size", _text("preprocessor_config.json", '{"size": {"height": 24, "width": '
     '24}, "image_processor_type": "ViTImageProcessor"}'), "vit"),
    ("preprocessor_config.json of an unknown class", _text("preprocessor_config.json",
     '{"image_processor_type": "Nope"}'), "vit"),
    ("config.json with patches that do not divide", _config(patch_size=7), "vit"),
    ("config.json with seven channels", _config(num_channels=7), "vit"),
    ("NaN in a weight", _tensors(_filled(float("nan"))), "NaN"),
)  # fmt: skip


def cases() -> list[Case]:
    """Return the cases."""
    found = []
    for name in FILES:
        for what, damage in DAMAGES.items():
            if name == "model.safetensors" and what.startswith("one bit"):
                continue  # another model, which nothing tells from the one that was meant; see the exports
            make = _of_model(lambda model, n=name, d=damage: d(model / n))
            found.append(Case("models", f"{name}: {what}", f"{name} is {what}", make, "model"))
    for name in ("config.json", "model.safetensors"):
        found.append(Case("models", f"{name}: another model's", f"{name} is that of a ViT", _other(name), "model"))
    for what, change, says in MODELS:
        found.append(Case("models", what, what, _of_model(change), says))
    found.append(Case("models", "no permission", "nobody may read the weights", _no_permission, "model.safetensors"))
    found.append(Case("models", "pooler missing", "no pooler, and pooling=pooler", _of_model(
        _tensors(lambda t: {k: v for k, v in t.items() if "pooler" not in k}), "model.text_encoder.pooling=pooler"),
        "no weights for pooler"))  # fmt: skip
    for what, change, says in EXPORTS:
        found.append(Case("models", f"export: {what}", f"after the run: {what}", _exported(change), says))
    for what, change, says in VITS:
        found.append(Case("models", f"images: {what}", what, _of_vit(change), says))
    return found
