"""Every published definition against values worked out by hand, and against what its framework's own code gave."""

import numpy as np
import pytest

from clora_exp.evaluation.ledger import DEFINITIONS, Entry, Known, ledger
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import metrics_of_run

#            j=1   j=2   j=3
#   init     0.10  0.20  0.30     examples  10    20    30
#   after 1  0.90  0.25  0.20     single    0.90  0.70  0.75
#   after 2  0.70  0.80  0.40     joint     0.85  0.90  0.80
#   after 3  0.60  0.85  0.70
BY_HAND = {
    "bwt_gem": ((0.60 - 0.90) + (0.85 - 0.80)) / 2,
    "bwt_gem_code": ((0.60 - 0.90) + (0.85 - 0.80) + 0) / 3,
    "bwt_diaz_rodriguez": ((0.70 - 0.90) + (0.60 - 0.90) + (0.85 - 0.80)) / 3,
    "bwt_plus": 0.0,
    "remembering": 1 - 0.45 / 3,
    "bwt_libcontinual": (0.60 - 0.90) / 3,
    "forgetting_chaudhry": ((0.90 - 0.60) + (0.80 - 0.85)) / 2,
    "forgetting_since_learned": ((0.90 - 0.60) + (0.80 - 0.85)) / 2,
    "forgetting_never_negative": ((0.90 - 0.60) + (0.85 - 0.85)) / 2,
    "forgetting_first_minus_last": ((0.90 - 0.60) + (0.80 - 0.85)) / 2,
    "forgetting_libcontinual": (0.90 - 0.60) / 2,
    "forgetting_by_step": ((0.90 - 0.70) + ((0.70 - 0.60) + (0.80 - 0.85)) / 2) / 2,
    "forgetting_worst": 0.90 - 0.60,
    "mean_drop": ((0.20 + 0.30) + (0.05 + 0.0) + (0.30 + 0.0)) / 6,
    "forgetting_ratio": (0.50 / 0.75 + 0.65 / 0.70 + 0.40 / 0.50) / 3 - 1,
    "fwt_gem": ((0.25 - 0.20) + (0.40 - 0.30)) / 2,
    "fwt_gem_code": ((0.25 - 0.20) + (0.40 - 0.30)) / 3,
    "fwt_continuum": (0.25 + 0.40) / 2,
    "fwt_diaz_rodriguez": (0.25 + 0.20 + 0.40) / 3,
    "fwt_mammoth": None,
    "transfer_gain": ((0.80 - 0.70) + (0.70 - 0.75)) / 2,
    "fwt_over_all": ((0.90 - 0.90) + (0.80 - 0.70) + (0.70 - 0.75)) / 3,
    "fwt_sapt_code": (0.90 + 0.80 + 0.70) / 3 - 0.5094,
    "intransigence": ((0.85 - 0.90) + (0.90 - 0.80) + (0.80 - 0.70)) / 3,
    "intransigence_chaudhry": None,
    "omega_base": (0.70 / 0.85 + 0.60 / 0.85) / 2,
    "omega_all": ((7 + 16) / 30 / 0.85 + (6 + 17 + 21) / 60 / 0.85) / 2,
    "acc": (0.60 + 0.85 + 0.70) / 3,
    "acc_micro": (6 + 17 + 21) / 60,
    "acc_incremental": (0.90 + (0.70 + 0.80) / 2 + (0.60 + 0.85 + 0.70) / 3) / 3,
    "acc_incremental_micro": (0.90 + (7 + 16) / 30 + (6 + 17 + 21) / 60) / 3,
    "acc_lower_triangle": (0.90 + 0.70 + 0.80 + 0.60 + 0.85 + 0.70) / 6,
    "acc_learning": (0.90 + 0.80 + 0.70) / 3,
    "omega_new": (0.80 + 0.70) / 2,
    "acc_all_tasks": (0.90 + 0.25 + 0.20 + 0.70 + 0.80 + 0.40 + 0.60 + 0.85 + 0.70) / 9,
}
PEERS = np.array(  # a task that was good before it was learned, one that ends best, one that falls and rises
    [
        [0.10, 0.20, 0.30, 0.25],
        [0.90, 0.95, 0.20, 0.30],
        [0.65, 0.80, 0.40, 0.20],
        [0.75, 0.90, 0.70, 0.45],
        [0.60, 0.85, 0.80, 0.95],
    ]
)
BY_PEERS = {  # what the functions named in the sources returned, of 10, 20, 30, 40 examples where those count
    "bwt_gem": -0.05,  # Mammoth, Renate, Avalanche (its sign turned)
    "bwt_gem_code": -0.0375,  # GEM, SAPT
    "bwt_diaz_rodriguez": -0.075,  # Continuum, CapyMOA
    "bwt_plus": 0.0,  # Continuum
    "remembering": 0.925,  # Continuum
    "bwt_libcontinual": -0.0666666666666667,
    "forgetting_chaudhry": 0.1,  # A-GEM, Renate
    "forgetting_since_learned": 0.0833333333333333,  # Continuum, SAPT
    "forgetting_never_negative": 0.116666666666667,  # Mammoth, PILOT
    "forgetting_first_minus_last": 0.05,  # Avalanche
    "forgetting_libcontinual": 0.0833333333333333,
    "forgetting_by_step": 0.0611111111111111,  # CODA-Prompt
    "fwt_gem": 0.35,  # Renate, and Mammoth handed row 0
    "fwt_gem_code": 0.2625,  # GEM
    "fwt_continuum": 0.6,
    "fwt_diaz_rodriguez": 0.416666666666667,  # CapyMOA
    "fwt_sapt_code": 0.3281,
    "acc": 0.8,  # GEM, Renate, SAPT
    "acc_micro": 0.85,  # Renate
    "acc_lower_triangle": 0.79,  # Continuum
}


def _known(a, single=(0.9, 0.7, 0.75), joint=(0.85, 0.9, 0.8)) -> Known:
    a = np.array(a, dtype=np.float64)
    return Known(a, np.arange(10.0, 10 * a.shape[1] + 1, 10), np.array(single), np.array(joint))


def _by_name(entries: list[Entry]) -> dict[str, Entry]:
    return {entry.definition.key: entry for entry in entries}


def test_every_definition_is_worked_out_by_hand() -> None:
    assert list(BY_HAND) == [definition.key for definition in DEFINITIONS]


@pytest.mark.parametrize("name", BY_HAND)
def test_a_definition_has_the_hand_worked_value(name: str, hand_worked) -> None:
    metric = _by_name(ledger(_known(hand_worked), "", {}))[name].metric
    if BY_HAND[name] is None:
        assert metric.value is None
        assert metric.reason
    else:
        assert metric.value == pytest.approx(BY_HAND[name], abs=1e-12)


@pytest.mark.parametrize("name", BY_PEERS)
def test_a_definition_has_the_value_that_its_frameworks_code_gave(name: str) -> None:
    known = Known(PEERS, np.array([10.0, 20.0, 30.0, 40.0]))
    metric = _by_name(ledger(known, "", {"single": "none", "joint": "none"}))[name].metric
    assert metric.value == pytest.approx(BY_PEERS[name], abs=1e-12)


def test_what_this_project_calls_so_is_what_it_reports(hand_worked) -> None:
    found = metrics_of_run(AccuracyMatrix(["a", "b", "c"], np.array(hand_worked)), scenario="domain_incremental")
    ours = {e.definition.ours: e.metric.value for e in ledger(_known(hand_worked), "", {}) if e.definition.ours}
    assert set(found) <= set(ours)
    for name, metric in found.items():
        if name not in ("transfer_gain", "intransigence"):
            assert ours[name] == metric.value, name


def test_of_one_task_what_compares_tasks_is_undefined_and_never_zero() -> None:
    entries = _by_name(ledger(_known([[0.2], [0.9]], [0.9], [0.9]), "", {}))
    for name in ("bwt_gem", "bwt_plus", "remembering", "forgetting_never_negative", "fwt_gem", "omega_new"):
        assert entries[name].metric.value is None
        assert entries[name].metric.reason == "needs at least 2 tasks, the stream has 1"
    assert entries["acc"].metric.value == 0.9
    two = _by_name(ledger(_known([[0.2, 0.3], [0.9, 0.3], [0.8, 0.7]], [0.9, 0.7], [0.9, 0.8]), "", {}))
    assert two["bwt_libcontinual"].metric.reason == "needs at least 3 tasks, the stream has 2"  # its code returns 0


def test_what_a_run_does_not_have_is_the_reason(hand_worked) -> None:
    entries = ledger(_known(hand_worked), "", {"before": "chance", "single": "no single", "joint": "no joint"})
    for entry in entries:
        if entry.definition.needs in ("before", "single", "joint"):
            assert entry.metric.value is None
            assert entry.metric.reason in ("chance", "no single", "no joint")
    assert _by_name(entries)["forgetting_chaudhry"].metric.value is not None


@pytest.mark.parametrize("rows", [slice(1, 3), slice(3, 4)])
def test_cells_that_are_missing_give_nulls_with_the_reason(rows: slice, hand_worked) -> None:
    a = np.array(hand_worked)
    a[rows] = np.nan
    entries = _by_name(ledger(_known(a), "not there", {}))
    for name in ("bwt_gem", "bwt_plus", "remembering", "forgetting_chaudhry", "forgetting_since_learned", "mean_drop"):
        assert entries[name].metric.value is None, name
        assert entries[name].metric.reason == "not there"


def test_a_growing_head_has_no_accuracies_before_a_task_and_its_forgetting_all_the_same(hand_worked) -> None:
    a = np.array(hand_worked)
    a[0] = np.nan
    a[1:][~np.tril(np.ones((3, 3), bool))] = np.nan
    entries = _by_name(ledger(_known(a), "not there", {"before": "cannot be answered"}))
    for name in ("forgetting_chaudhry", "forgetting_since_learned", "forgetting_worst", "acc_incremental_micro"):
        assert entries[name].metric.value == pytest.approx(BY_HAND[name], abs=1e-12)
    assert entries["forgetting_ratio"].metric.value is None


def test_nothing_is_divided_by_zero(hand_worked) -> None:
    entries = _by_name(ledger(_known(hand_worked, joint=[0.1, 0.9, 0.8]), "not there", {}))
    assert "nothing to divide by" in entries["forgetting_ratio"].metric.reason
