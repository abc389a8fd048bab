"""How the settings of one method are called beside each other."""

from clora_exp.reports.settings import labels

PLAIN = {"method.rank": 16, "method.gate": "none", "method.old_path": "detached"}


def called(*changes: dict[str, object]) -> list[str]:
    return labels([("clora", f"{i:08x}", PLAIN | change) for i, change in enumerate(changes)])


def test_a_method_with_one_setting_has_its_own_name() -> None:
    assert labels([("lora", "1", PLAIN), ("clora", "2", PLAIN | {"method.rank": 2})]) == ["lora", "clora"]


def test_of_two_settings_each_says_what_differs() -> None:
    assert called({}, {"method.rank": 8}) == ["clora rank=16", "clora rank=8"]


def test_in_an_ablation_the_plain_setting_has_the_method_s_name_and_the_others_say_what_was_changed() -> None:
    found = called(
        {}, {"method.rank": 8}, {"method.rank": 2}, {"method.gate": "scalar"}, {"method.old_path": "trained"}
    )
    assert found == ["clora", "clora rank=8", "clora rank=2", "clora gate=scalar", "clora old_path=trained"]


def test_what_would_be_too_long_has_the_digits_of_its_folder() -> None:
    long = {f"method.a_long_name_{i}": 1 for i in range(3)}
    usual = dict.fromkeys(long, 0)
    assert called(usual, usual | {"method.rank": 2}, long)[2] == "clora@00000002"
