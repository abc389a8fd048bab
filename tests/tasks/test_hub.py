"""Hub data sets: the shipped streams, on small local files of the same columns, and what is said without a network."""

import hashlib
import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from clora_exp.compose import CONF, compose_experiment
from clora_exp.errors import ConfigError, DataError
from clora_exp.identity import run_hash
from clora_exp.tasks.sources import hub
from clora_exp.tasks.stream import SPLITS, TaskStream, load_stream

STREAMS = [path.stem for path in sorted((CONF / "tasks").glob("*.yaml")) if "\nhub:" in path.read_text()]


def _write(folder: Path, rows: dict[str, list[dict[str, Any]]], name: str | None = None) -> Path:
    """Write a data set as a clone from the hub has it, with its configuration `name` in the README's head."""
    folder.mkdir(parents=True, exist_ok=True)
    if name:
        files = [{"split": split, "path": f"{split}.jsonl"} for split in rows]
        head = yaml.safe_dump({"configs": [{"config_name": name, "data_files": files}]})
        (folder / "README.md").write_text(f"---\n{head}---\n")
    for split, lines in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _write_parquet(path: Path, rows: list[dict[str, Any]], features: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=features.arrow_schema), path)


def _stream(name: str, *overrides: str, data_seed: int = 0) -> TaskStream:
    return load_stream(compose_experiment([f"tasks={name}", *overrides]).tasks, data_seed)


def _topics(n: int = 6, **columns: Any) -> list[dict[str, Any]]:
    return [{"label": i % 2, "text": f"text {i}", **columns} for i in range(n)]


def _like(data: hub.HubDataset, n: int = 40) -> dict[str, list[dict[str, Any]]]:
    """Rows of a data set's columns and splits, with its label names where the configuration names them."""
    of_strings = isinstance(data.classes, dict)
    named = [label for labels in data.classes.values() for label in labels] if of_strings else data.labels
    columns = [data.text] if isinstance(data.text, str) else data.text
    rows = {}
    for split in {data.train, data.validation, data.test} - {None}:
        answers = [i % len(named) if named else i % 20 for i in range(max(n, 3 * len(named or [])))]
        labels = [named[a] if of_strings else a for a in answers]
        rows[split] = [
            {
                **{c: f"{c} {split} {i}" for c in columns},
                data.response or data.label: f"answer {i}" if data.response else label,
            }
            for i, label in enumerate(labels)
        ]
    return rows


def test_the_domains_of_clinc150_are_ten_of_fifteen_intents_no_intent_twice() -> None:
    raw = yaml.safe_load((CONF / "tasks" / "clinc150_domains.yaml").read_text())
    domains = raw["hub"]["datasets"]["clinc150"]["classes"]
    assert [len(intents) for intents in domains.values()] == [15] * 10
    intents = [intent for domain in domains.values() for intent in domain]
    assert len(set(intents)) == 150
    assert all(isinstance(intent, str) for intent in intents)  # yes and no are words here


@pytest.mark.parametrize(("name", "order"), [("standard_cl", [2, 3]), ("long_cl", [5, 6])])
def test_the_orders_named_in_a_comment_hold_the_stream_s_tasks(name: str, order: list[int]) -> None:
    text = (CONF / "tasks" / f"{name}.yaml").read_text()
    orders = [yaml.safe_load(line[2:])["order"] for line in text.splitlines() if line.startswith("# order: [")]
    assert len(orders) == len(order)
    for names in orders:
        assert sorted(names) == sorted(yaml.safe_load(text)["hub"]["datasets"])


def test_without_the_package_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError) as caught:
        _stream("standard_cl")
    assert str(caught.value) == (
        "hub data sets need the package datasets; run: pip install -e '.[hub]' -c constraints.txt"
    )


def test_a_data_set_without_a_trustworthy_hub_copy_asks_for_a_local_one() -> None:
    with pytest.raises(DataError) as caught:
        _stream("trace")
    assert str(caught.value) == (
        "task 'C-STANCE': the hub has no trustworthy copy of it; download it and write tasks.path=FOLDER, with its "
        "data in FOLDER/C-STANCE"
    )


def test_a_misspelt_key_of_a_data_set_is_named_with_its_nearest_match() -> None:
    with pytest.raises(ConfigError, match=r"key tasks\.hub\.datasets\.ag\.txt=a: .*Did you mean 'text'\?"):
        compose_experiment(["tasks=standard_cl", "+tasks.hub.datasets.ag.txt=a"])


def test_free_form_data_has_no_classes() -> None:
    with pytest.raises(ConfigError, match="free-form data has neither classes nor images"):
        compose_experiment(["tasks=banking77_split", "+tasks.hub.datasets.banking77.response=answer"])


def test_data_pinned_to_a_commit_is_not_loaded_to_be_identified(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    pinned = {rev: hub.Config(datasets={"a": hub.HubDataset("x/y", revision=rev * 40)}) for rev in "ab"}
    assert hub.fingerprint(pinned["a"]) != hub.fingerprint(pinned["b"])


class TestWithDatasets:
    """What needs the package `datasets`."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("datasets").disable_progress_bars()

    def test_without_a_network_the_error_names_the_data_set_and_how_to_point_at_a_copy(self) -> None:
        with pytest.raises(DataError) as caught:
            _stream("standard_cl")
        message = str(caught.value)
        assert message.startswith(
            "task 'dbpedia': hub data set 'fancyzhx/dbpedia_14' is not on this machine and could not be fetched: "
        )
        assert message.endswith(
            "Write HF_HUB_OFFLINE=0 before the command to ask the hub, or name a local copy: "
            "tasks.hub.datasets.dbpedia.path=FOLDER, or tasks.path=FOLDER for FOLDER/dbpedia"
        )
        assert "\n" not in message

    @pytest.mark.parametrize("name", [name for name in STREAMS if "image" not in name and "cifar" not in name])
    def test_a_shipped_stream_reads_local_files_of_its_columns(self, name: str, tmp_path) -> None:
        config = compose_experiment([f"tasks={name}"]).tasks.sources["hub"]
        for task, data in config.datasets.items():
            _write(tmp_path / task, _like(data), data.name)
        stream = _stream(name, f"tasks.path={tmp_path}", "tasks.hub.train_per_class=null")
        expected = {"long_cl": 15, "standard_cl": 4, "trace": 8, "clinc150_domains": 10, "banking77_split": 7}[name]
        assert len(stream) == expected
        for task in stream:
            assert all(task.split(split) for split in SPLITS)
            assert task.is_free_form == (name == "trace")
            assert task.notes[0].startswith(str(tmp_path))
        if name == "clinc150_domains":
            assert [len(task.labels) for task in stream] == [15] * 10

    def test_a_data_set_is_pointed_at_a_copy_by_its_name(self, tmp_path) -> None:
        copy = _write(tmp_path / "copy", {"train": _topics(10), "test": _topics(4)})
        here = "tasks.hub.datasets.banking77"
        stream = _stream("banking77_split", f"{here}.path={copy}", f"{here}.classes=2")
        assert {task.name: task.labels for task in stream} == {"banking77_1": ["0"], "banking77_2": ["1"]}
        assert [example.text for example in stream.tasks[1].test] == ["text 1", "text 3"]

    def test_several_columns_become_one_text_and_integers_their_names(self, tmp_path) -> None:
        rows = [{"title": f"t{i}", "body": "" if i == 1 else f"b{i}", "stars": i % 2} for i in range(8)]
        copy = _write(tmp_path / "copy", {"train": rows, "test": rows[:2]})
        data = hub.HubDataset(str(copy), text=["title", "body"], label="stars", labels=["bad", "good"], separator=" | ")
        (task,) = hub.tasks(hub.Config(datasets={"reviews": data}), 0)
        assert task.labels == ["bad", "good"]
        assert [(e.text, e.label) for e in task.test] == [("t0 | b0", "bad"), ("t1", "good")]

    def test_the_data_set_s_own_label_names_are_taken(self, tmp_path) -> None:
        import datasets

        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
        )
        for split in ("train", "test"):
            _write_parquet(tmp_path / "copy" / f"{split}.parquet", _topics(10), features)
        (task,) = hub.tasks(hub.Config(datasets={"a": hub.HubDataset(str(tmp_path / "copy"))}), 0)
        assert task.labels == ["no", "yes"]
        datasets.load_dataset(str(tmp_path / "copy")).save_to_disk(str(tmp_path / "saved"))
        (again,) = hub.tasks(hub.Config(datasets={"a": hub.HubDataset(str(tmp_path / "saved"))}), 0)
        assert again.sha256 == task.sha256

    def test_limits_hold_for_every_class_and_the_draw_follows_the_seed(self, tmp_path) -> None:
        copy = _write(tmp_path / "copy", {"train": _topics(60), "test": _topics(20)})
        config = hub.Config(train_per_class=10, test_per_class=3, datasets={"a": hub.HubDataset(str(copy))})
        (task,) = hub.tasks(config, 0)
        assert task.label_counts("train") == {"0": 10, "1": 10}
        assert task.label_counts("validation") == {"0": 1, "1": 1}
        assert task.label_counts("test") == {"0": 3, "1": 3}
        assert hub.tasks(config, 0)[0].sha256 == task.sha256
        assert hub.tasks(config, 1)[0].sha256 != task.sha256

    def test_what_has_no_test_split_holds_one_out_and_no_row_is_used_twice(self, tmp_path) -> None:
        copy = _write(tmp_path / "copy", {"train": _topics(40)})
        (task,) = hub.tasks(hub.Config(datasets={"a": hub.HubDataset(str(copy), test=None)}), 0)
        assert [len(task.split(split)) for split in SPLITS] == [28, 4, 8]
        used = Counter(example.id for split in SPLITS for example in task.split(split))
        assert len(used) == 40
        assert task.notes[1] == "validation and test: held out from train here by data_seed=0"

    def test_classes_make_several_tasks_of_one_data_set(self, tmp_path) -> None:
        rows = [{"label": "abcde"[i % 5], "text": f"text {i}"} for i in range(50)]
        copy = _write(tmp_path / "copy", {"train": rows, "test": rows[:10]})
        found = hub.tasks(hub.Config(datasets={"x": hub.HubDataset(str(copy), classes=2)}), 0)
        assert {task.name: task.labels for task in found} == {"x_1": ["a", "b", "c"], "x_2": ["d", "e"]}
        chosen = {"low": ["a"], "high": ["e", "d"]}
        found = hub.tasks(hub.Config(datasets={"x": hub.HubDataset(str(copy), classes=chosen)}), 0)
        assert {task.name: task.labels for task in found} == chosen
        assert {example.label for example in found[1].train} == {"e", "d"}

    def test_rows_without_label_are_left_out_and_rows_without_text_counted(self, tmp_path) -> None:
        rows = [*_topics(20), {"label": -1, "text": "hidden"}, {"label": 0, "text": " "}]
        copy = _write(tmp_path / "copy", {"train": rows, "test": _topics(4)})
        (task,) = hub.tasks(hub.Config(datasets={"a": hub.HubDataset(str(copy), labels=["x", "y"])}), 0)
        assert len(task.train) + len(task.validation) == 20
        assert task.notes[-1] == "warning: 1 examples without text are left out"

    def test_images_become_files_named_by_their_content(self, tmp_path) -> None:
        import datasets
        from PIL import Image

        features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=list("abcd"))})
        rows = []
        for i in range(16):
            Image.new("RGB", (2, 2), (i, 0, 0)).save(file := io.BytesIO(), "png")
            rows.append({"img": {"bytes": file.getvalue(), "path": None}, "fine_label": i % 4})
        for split in ("train", "test"):
            _write_parquet(tmp_path / "cifar100" / f"{split}.parquet", rows, features)
        stream = _stream("split_cifar100", f"tasks.path={tmp_path}", "tasks.hub.datasets.cifar100.classes=2")
        assert [task.labels for task in stream] == [["a", "b"], ["c", "d"]]
        example = stream.tasks[0].test[0]
        assert hashlib.sha256(example.image_bytes).hexdigest() == Path(example.image).stem
        assert not example.image.startswith("data:")
        Path(example.image).unlink()
        again = _stream("split_cifar100", f"tasks.path={tmp_path}", "tasks.hub.datasets.cifar100.classes=2")
        assert again.tasks[0].test[0].image_bytes

    @pytest.mark.parametrize(
        ("changed", "says"),
        [
            ({"test": "tset"}, "task 'a': tasks.hub.datasets.a.test=tset: unknown split 'tset'; have: test, train. "
                "Did you mean 'test'?"),
            ({"text": "txt"}, "task 'a': unknown column 'txt'; have: label, text. Did you mean 'text'?"),
            ({"labels": ["x"]}, "task 'a': label 1 of column 'label', labels names 1"),
            ({"classes": {"b": ["7"]}}, "task 'a': classes: unknown label '7'; have: 0, 1."),
            ({"classes": 3}, "task 'a': classes=3 tasks wanted of 2 labels"),
            ({"path": "./nowhere"}, "task 'a': ./nowhere: no such file or folder"),
        ],
    )  # fmt: skip
    def test_what_the_data_set_does_not_have_is_one_clear_line(self, changed, says: str, tmp_path) -> None:
        copy = _write(tmp_path / "copy", {"train": _topics(), "test": _topics()})
        data = hub.HubDataset(**{"path": str(copy), **changed})
        with pytest.raises(DataError) as caught:
            hub.tasks(hub.Config(datasets={"a": data}), 0)
        assert str(caught.value) == says

    def test_changed_rows_are_prepared_again_and_a_moved_copy_is_the_same_run(self, tmp_path) -> None:
        def prepared(folder: str, extra: int = 0) -> tuple[TaskStream, str]:
            rows = [{"label": i % 7, "text": f"text {i}"} for i in range(70 + extra)]
            _write(tmp_path / folder / "banking77", {"train": rows, "test": rows[:14]})
            config = compose_experiment(["tasks=banking77_split", f"tasks.path={tmp_path / folder}"])
            stream = load_stream(config.tasks, 0)
            return stream, run_hash(config, stream, "model")

        first, moved, changed = prepared("one"), prepared("two"), prepared("one", extra=7)
        assert first[1] == moved[1]
        assert first[0].fingerprints() != changed[0].fingerprints()
