"""A broken configuration file of one's own is named, with what is wrong in it."""

from pathlib import Path

import pytest

from clora_exp.compose import check_words, compose_experiment, in_words
from clora_exp.errors import ConfigError
from clora_exp.own_configs import broken_files


def own(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "method" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text)
    return ["--config-dir", str(tmp_path)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: mine\n\trank: 8\n", "no YAML: found character '\\t' that cannot start any token, line 2"),
        ("rank: 8\nrank: 4\n", "no YAML: found duplicate key rank, line 2"),
        ("- lora\n", "holds a list; it must hold keys, e.g. name: mine"),
        ("lora\n", "holds a word; it must hold keys, e.g. name: mine"),
        ("defaults: [mine]\n", "names itself, 'mine', in its defaults"),
        ("defaults: 5\n", "defaults is no list, e.g. defaults: [lora]; it is 5"),
        ("name: mine\nrank: " + "[" * 2000, "it is nested too deeply"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_name(tmp_path: Path, text: str, says: str) -> None:
    words = own(tmp_path, text)
    for how in (words, [f"hydra.searchpath=[file://{tmp_path}]"]):
        assert str(in_words(ValueError("whatever"), how)) == f"{tmp_path}/method/mine.yaml: {says}"


def test_a_good_file_and_another_error_are_left_alone(tmp_path: Path) -> None:
    words = own(tmp_path, "defaults: [lora]\nname: mine\n")
    assert broken_files(words, {"method"}) == []
    with pytest.raises(ZeroDivisionError):
        in_words(ZeroDivisionError(), words)


def test_a_misspelt_key_of_ones_own_method_is_told_the_nearest(tmp_path: Path) -> None:
    own(tmp_path, "defaults: [ewc]\nname: mine\n")
    words = [f"hydra.searchpath=[file://{tmp_path}]", "method=mine", "method.ewc.strenght=3"]
    with pytest.raises(ConfigError, match=r"^unknown key method\.ewc\.strenght=3: .* Did you mean 'strength'\?"):
        compose_experiment(words)


@pytest.mark.parametrize("words", [["--config-dir", "nowhere"], ["hydra.searchpath=[file://nowhere]"]])
def test_a_folder_that_is_not_there_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        check_words(words)
