import hashlib

import pytest

from clora_exp.errors import ConfigError, DataError
from clora_exp.tasks import cache
from clora_exp.tasks.stream import Example, Task, json_lines, load_stream


def _task(**changes) -> Task:
    rows = {
        s: [Example(f"{s}{i}", f"t{i}", label, f"{s}{i}") for i, label in enumerate("ab")]
        for s in ("train", "validation", "test")
    }
    return Task(
        **{"name": "t", "description": "", "licence": "", "attribution": "", "labels": ["a", "b"], **rows, **changes}
    )


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="no validation examples"):
        _task(validation=[])


def test_a_group_in_two_splits_is_refused() -> None:
    with pytest.raises(DataError, match="'g' stands in both train and test"):
        _task(train=[Example("1", "x", "a", "g"), Example("3", "x", "b", "h")], test=[Example("2", "y", "a", "g")])


def test_a_label_the_task_does_not_have_is_refused() -> None:
    with pytest.raises(DataError, match="unknown test label 'c'"):
        _task(test=[Example("2", "y", "c", "g")])


def test_fingerprint_is_the_hash_of_the_exported_lines() -> None:
    task = _task()
    assert task.sha256["test"] == hashlib.sha256(json_lines(task.test).encode()).hexdigest()
    assert json_lines(task.test).splitlines()[0] == '{"id": "test0", "text": "t0", "label": "a"}'


def test_an_image_stands_in_the_lines_as_what_it_shows(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"pixels")
    inline = Example("1", "", "a", "g", image="data:image/png;base64,cGl4ZWxz")
    file = Example("1", "", "a", "g", image=str(tmp_path / "a.png"))
    assert inline.image_bytes == file.image_bytes == b"pixels"
    assert json_lines([inline]) == '{"id": "1", "image": "data:image/png;base64,cGl4ZWxz", "label": "a"}\n'
    assert f'"image": "sha256:{hashlib.sha256(b"pixels").hexdigest()}"' in json_lines([file])


def test_order_rearranges_and_unknown_or_repeated_names_are_errors(tiny) -> None:
    config = tiny("+tasks.order=[third,first]").tasks
    assert load_stream(config, 0).names == ["third", "first"]
    with pytest.raises(ConfigError, match=r"unknown task 'frist'.*Did you mean 'first'"):
        load_stream(tiny("+tasks.order=[frist]").tasks, 0)
    with pytest.raises(ConfigError, match="twice"):
        load_stream(tiny("+tasks.order=[first,first]").tasks, 0)


def test_a_task_name_used_twice_is_an_error(tiny) -> None:
    with pytest.raises(ConfigError, match="'same' is used twice"):
        load_stream(tiny("tasks.words.names=[same,same]").tasks, 0)


def test_the_cache_gives_back_the_same_tasks_and_follows_config_and_seed(tiny) -> None:
    config = tiny().tasks
    first = load_stream(config, 0)
    assert list(load_stream(config, 0)) == list(first)
    assert load_stream(config, 1).fingerprints() != first.fingerprints()
    assert len(load_stream(tiny("+tasks.words.per_class=5").tasks, 0).tasks[0].train) == 15


def test_a_damaged_cache_file_is_prepared_again(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLORA_EXP_CACHE", str(tmp_path / "cache"))
    first = load_stream(tiny().tasks, 0)
    (file,) = (cache.cache_dir() / "tasks").iterdir()
    whole = file.read_text()
    for damaged in (whole[: len(whole) // 2], whole.replace("red", "rad"), ""):
        file.write_text(damaged)
        assert load_stream(tiny().tasks, 0).fingerprints() == first.fingerprints()
        assert file.read_text() == whole


@pytest.mark.parametrize("name", ["init", "after"])
def test_names_that_the_result_files_use_are_no_task_names(name: str, tiny) -> None:
    config = tiny(f"tasks.words.names=[{name},second]")
    with pytest.raises(ConfigError, match=f"no task can be called '{name}'"):
        load_stream(config.tasks, 0)
