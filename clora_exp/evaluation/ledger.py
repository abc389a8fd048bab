"""Published definitions of transfer, forgetting and accuracy side by side, each with its formula, divisor and source.

Papers, and the frameworks that name them, disagree on divisors, on what a maximum runs over and on what a task is
compared with; from one accuracy matrix come as many "BWT" as there are readings. a[i, j] is as in `metrics.py`, whose
own definitions are named in `ours`. A source with a file was read there, at the commit given; "not read": the paper was
not at hand, the formula is as others quote it. The command is `reports/ledger.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clora_exp.evaluation import metrics
from clora_exp.evaluation.metrics import Metric

BACKWARD, FORGETTING = "backward transfer", "forgetting"
FORWARD, AGAINST_SINGLE = "forward transfer", "gain over learning alone (called forward transfer too)"
AGAINST_JOINT, ACCURACY = "against learning together", "accuracy"


@dataclass(frozen=True)
class Known:
    """What a run gives: a (T + 1, T), examples a task (T,), and its references' accuracies (T,) where there are any."""

    a: np.ndarray
    num_examples: np.ndarray
    single: np.ndarray | None = None
    joint: np.ndarray | None = None

    @property
    def gaps(self) -> np.ndarray:
        """Return a[i, j] − a[j, j] of rows i = 1..T, (T, T)."""
        return self.a[1:] - np.diagonal(self.a[1:])

    @property
    def learned(self) -> np.ndarray:
        """Return rows 1..T with NaN above the diagonal: what was measured after it was learned."""
        rows = self.a[1:]
        return np.where(np.tril(np.ones(rows.shape, bool)), rows, np.nan)

    @property
    def is_whole(self) -> bool:
        """Whether every accuracy from a task's learning on is there."""
        return not np.isnan(self.a[1:][np.tril(np.ones(self.gaps.shape, bool))]).any()


@dataclass(frozen=True)
class Definition:
    """One definition. `needs`: before (accuracies of tasks not learned yet), single, joint, or what no run here has."""

    key: str
    family: str
    formula: str
    divisor: str
    source: str
    value: Callable[[Known], float]
    ours: str = ""
    needs: str = ""
    num_tasks: int = 1


@dataclass(frozen=True)
class Entry:
    """A definition and what it gives for a run."""

    definition: Definition
    metric: Metric


def _of_pairs(k: Known, first: int) -> float:
    """Return the sum of a[i, j] − a[j, j] over i − j ≥ `first`, divided by T(T − 1)/2."""
    T = len(k.gaps)
    below = np.tril(np.ones((T, T), bool), k=-first)
    return float(k.gaps[below].sum() / (T * (T - 1) / 2))


def _lower(k: Known) -> np.ndarray:
    return np.tril(np.ones(k.gaps.shape, bool))


def _worst(k: Known) -> float:
    return float((np.fmax.reduce(k.a[1:-1]) - k.a[-1])[:-1].max())


def _since_best(k: Known, with_last: bool) -> float:
    best = np.fmax.reduce(k.learned if with_last else k.learned[:-1])
    return float((best - k.a[-1])[:-1].mean())


def _by_step(k: Known) -> float:
    rows = k.a[1:]
    return float(np.mean([(rows[i - 1, :i] - rows[i, :i]).mean() for i in range(1, len(rows))]))


def _early(k: Known) -> np.ndarray:
    """Return a[j − 1, j] of j > 1, (T − 1,)."""
    return np.diagonal(k.a[1:], offset=1)


def _alone(k: Known) -> np.ndarray:
    assert k.single is not None
    return np.diagonal(k.a[1:]) - k.single


def _together(k: Known) -> np.ndarray:
    assert k.joint is not None
    return k.joint


def _ratio(k: Known) -> float:
    start = k.a[0]
    return float(((k.a[-1] - start) / (_together(k) - start)).mean() - 1)


def _seen(k: Known) -> np.ndarray:
    """Return the accuracy over all examples of the tasks seen after each task, (T,)."""
    n = k.num_examples
    return np.array([row[: i + 1] @ n[: i + 1] / n[: i + 1].sum() for i, row in enumerate(k.a[1:])])


def _first_of_ideal(k: Known) -> float:
    return float((k.a[2:, 0] / _together(k)[0]).mean())


DEFINITIONS = (
    Definition("bwt_gem", BACKWARD, "Σ_{j<T} a[T,j] − a[j,j]", "T − 1",
               "Lopez-Paz & Ranzato 2017 (not read); Mammoth utils/metrics.py (e75a491), Renate "
               "evaluation/metrics/classification.py (aa858dd), CLArena cl_full_eval.py (bf58528), Avalanche StreamBWT "
               "(eb075be)", lambda k: metrics.backward_transfer(k.a), ours="backward_transfer", num_tasks=2),
    Definition("bwt_gem_code", BACKWARD, "Σ_{j≤T} a[T,j] − a[j,j], the last term being 0", "T",
               "GEM's code, metrics/metrics.py (34c6b8e); SAPT score.py, in percent (52a52b9)",
               lambda k: float(k.gaps[-1].mean()), num_tasks=2),
    Definition("bwt_diaz_rodriguez", BACKWARD, "Σ_{j<i≤T} a[i,j] − a[j,j]: after every task, not the last alone",
               "T(T − 1)/2", "Díaz-Rodríguez et al. 2018 (not read); Continuum metrics.py backward_transfer (43ba009), "
               "CapyMOA ocl/evaluation/_metrics.py (095caba)", lambda k: _of_pairs(k, 1), num_tasks=2),
    Definition("bwt_plus", BACKWARD, "max(0, Díaz-Rodríguez' value)", "T(T − 1)/2",
               "Díaz-Rodríguez et al. 2018 (not read); Continuum positive_backward_transfer (43ba009)",
               lambda k: float(np.maximum(0, _of_pairs(k, 1))), num_tasks=2),
    Definition("remembering", BACKWARD, "1 − |min(0, Díaz-Rodríguez' value)|", "T(T − 1)/2",
               "Díaz-Rodríguez et al. 2018 (not read); Continuum remembering (43ba009)",
               lambda k: float(1 - abs(np.minimum(0, _of_pairs(k, 1)))), num_tasks=2),
    Definition("bwt_libcontinual", BACKWARD, "Σ_{j≤i−2, i≤T} a[i,j] − a[j,j]: without the first step after a task",
               "T(T − 1)/2, for (T − 1)(T − 2)/2 terms", "LibContinual core/utils/utils.py compute_bwt (a399ed4)",
               lambda k: _of_pairs(k, 2), num_tasks=3),
    Definition("forgetting_chaudhry", FORGETTING, "Σ_{j<T} max_{1≤i<T} a[i,j] − a[T,j], rows before task j included",
               "T − 1", "Chaudhry et al. 2018 (not read; eq. 3 as Continuum quotes it); A-GEM's code, utils/utils.py "
               "compute_fgt (4542149); Renate (aa858dd)", lambda k: metrics.forgetting(k.a), ours="forgetting",
               num_tasks=2),
    Definition("forgetting_since_learned", FORGETTING, "Σ_{j<T} max_{j≤i<T} a[i,j] − a[T,j]", "T − 1",
               "Continuum (43ba009); FACIL main_incremental.py (e09d2c8); SAPT score.py, in percent (52a52b9)",
               lambda k: _since_best(k, with_last=False), num_tasks=2),
    Definition("forgetting_never_negative", FORGETTING, "Σ_{j<T} max_{j≤i≤T} a[i,j] − a[T,j]: the last row counts",
               "T − 1",
               "Mammoth utils/metrics.py (e75a491); PILOT (5ecab2d) and PyCIL (87cc411), trainer.py, in percent",
               lambda k: _since_best(k, with_last=True), num_tasks=2),
    Definition("forgetting_first_minus_last", FORGETTING, "Σ_{j<T} a[j,j] − a[T,j]", "T − 1",
               "Avalanche StreamForgetting (eb075be); BeGin scenarios/nodes.py AF (ff3cbdc); vCLIMB's BWF (its page)",
               lambda k: -metrics.backward_transfer(k.a), num_tasks=2),
    Definition("forgetting_libcontinual", FORGETTING, "Σ_{j≤T−2} a[j,j] − a[T,j]: without the newest earlier task",
               "T − 1, for T − 2 terms", "LibContinual core/utils/utils.py compute_frgt (a399ed4)",
               lambda k: float(-k.gaps[-1, :-2].sum() / (len(k.gaps) - 1)), num_tasks=3),
    Definition("forgetting_by_step", FORGETTING, "Σ_{1<i≤T} mean_{j<i} a[i−1,j] − a[i,j]", "T − 1",
               "CODA-Prompt utils/calc_forgetting.py (6417d4f)", _by_step, num_tasks=2),
    Definition("forgetting_worst", FORGETTING, "max_{j<T} (max_{1≤i<T} a[i,j] − a[T,j])", "1",
               "A-GEM's code, plotting_code/agem_plots.ipynb compute_wst_fgt (4542149)", _worst, num_tasks=2),
    Definition("mean_drop", FORGETTING, "Σ_{2≤i≤T} Σ_j max(0, max_i a[i,j] − a[i,j])", "T(T − 1)", "this project",
               lambda k: metrics.mean_drop(k.a), ours="mean_drop", num_tasks=2),
    Definition("forgetting_ratio", FORGETTING, "Σ_j (a[T,j] − a[0,j]) / (joint_j − a[0,j]), and 1 off the mean", "T",
               "CLArena cl_full_eval.py FR (bf58528), after Serrà et al. 2018 (not read)", _ratio, needs="joint"),
    Definition("fwt_gem", FORWARD, "Σ_{j>1} a[j−1,j] − a[0,j]", "T − 1",
               "Lopez-Paz & Ranzato 2017 (not read); Renate (aa858dd), BeGin (ff3cbdc), Avalanche forward_transfer.py "
               "(eb075be)", lambda k: metrics.forward_transfer(k.a), ours="forward_transfer", needs="before",
               num_tasks=2),
    Definition("fwt_gem_code", FORWARD, "Σ_{j>1} a[j−1,j] − a[0,j]", "T", "GEM's code, metrics/metrics.py (34c6b8e)",
               lambda k: float((_early(k) - k.a[0, 1:]).sum() / len(k.gaps)), needs="before", num_tasks=2),
    Definition("fwt_continuum", FORWARD, "Σ_{j>1} a[j−1,j], with nothing taken off", "T − 1",
               "Continuum metrics.py forward_transfer (43ba009)", lambda k: float(_early(k).mean()), needs="before",
               num_tasks=2),
    Definition("fwt_diaz_rodriguez", FORWARD, "Σ_{i<j≤T} a[i,j], i ≥ 1", "T(T − 1)/2",
               "Díaz-Rodríguez et al. 2018 (not read); CapyMOA ocl/evaluation/_metrics.py (095caba)",
               lambda k: float(k.a[1:][~_lower(k)].mean()), needs="before", num_tasks=2),
    Definition("fwt_mammoth", FORWARD, "Σ_{j>1} a[j−1,j] − b_j", "T − 1",
               "Mammoth utils/metrics.py, utils/training.py (e75a491)",
               lambda k: float("nan"), num_tasks=2,
               needs="its b_j is measured just before task j, when the others are learned: a[j−1,j] again"),
    Definition("transfer_gain", AGAINST_SINGLE, "Σ_{j>1} a[j,j] − single_j", "T − 1",
               "CLArena cl_full_eval.py FWT (bf58528)", lambda k: float(_alone(k)[1:].mean()), ours="transfer_gain",
               needs="single", num_tasks=2),
    Definition("fwt_over_all", AGAINST_SINGLE, "Σ_j a[j,j] − single_j", "T",
               "SAPT, Zhao et al. 2024 (not read); its score.py is handed the single_j and does not use them",
               lambda k: float(_alone(k).mean()), needs="single"),
    Definition("fwt_sapt_code", AGAINST_SINGLE, "Σ_j a[j,j], and 0.5094 off the mean, its authors' own single", "T",
               "SAPT score.py, where it is 50.94 percent (52a52b9)",
               lambda k: metrics.learning_accuracy(k.a) - 0.5094),
    Definition("intransigence", AGAINST_JOINT, "Σ_j joint_j − a[j,j], joint of all T tasks", "T", "this project",
               lambda k: metrics.intransigence(k.a, _together(k)), ours="intransigence", needs="joint"),
    Definition("intransigence_chaudhry", AGAINST_JOINT, "joint_k − a[k,k], joint of tasks 1..k, for each k", "1",
               "Chaudhry et al. 2018 (not read); BeGin docs/060/metric.rst (11a32f0), as a mean",
               lambda k: float("nan"), needs="it takes a joint run on tasks 1..k for every k; runs here have all T"),
    Definition("omega_base", AGAINST_JOINT, "Σ_{i>1} a[i,1] / joint_1", "T − 1", "Kemker et al. 2018 (not read)",
               _first_of_ideal, needs="joint", num_tasks=2),
    Definition("omega_all", AGAINST_JOINT, "Σ_{i>1} (examples seen until i answered right) / joint_1", "T − 1",
               "Kemker et al. 2018 (not read)", lambda k: float((_seen(k)[1:] / _together(k)[0]).mean()),
               needs="joint", num_tasks=2),
    Definition("acc", ACCURACY, "Σ_j a[T,j]", "T", "Lopez-Paz & Ranzato 2017 (not read); GEM's code (34c6b8e), Renate "
               "(aa858dd), SAPT (52a52b9)", lambda k: metrics.average_accuracy(k.a), ours="average_accuracy"),
    Definition("acc_micro", ACCURACY, "Σ_j n_j a[T,j]", "Σ_j n_j", "Renate micro_average_accuracy (aa858dd)",
               lambda k: float(_seen(k)[-1])),
    Definition("acc_incremental", ACCURACY, "Σ_i mean_{j≤i} a[i,j]", "T",
               "Rebuffi et al. 2017 (not read); LibContinual core/trainer.py (a399ed4), CapyMOA (095caba)",
               lambda k: metrics.incremental_accuracy(k.a), ours="incremental_accuracy"),
    Definition("acc_incremental_micro", ACCURACY, "Σ_i Σ_{j≤i} n_j a[i,j] / Σ_{j≤i} n_j, this project's of new classes",
               "T", "PILOT (5ecab2d) and PyCIL (87cc411), trainer.py: \"Average Accuracy\", in percent",
               lambda k: float(_seen(k).mean())),
    Definition("acc_lower_triangle", ACCURACY, "Σ_{j≤i} a[i,j]", "T(T + 1)/2",
               "Díaz-Rodríguez et al. 2018 (not read); Continuum accuracy_A (43ba009)",
               lambda k: float(k.learned[_lower(k)].mean())),
    Definition("acc_learning", ACCURACY, "Σ_j a[j,j]", "T", "Riemer et al. 2019 (not read)",
               lambda k: metrics.learning_accuracy(k.a), ours="learning_accuracy"),
    Definition("omega_new", ACCURACY, "Σ_{j>1} a[j,j]", "T − 1", "Kemker et al. 2018 (not read)",
               lambda k: float(np.diagonal(k.a[1:])[1:].mean()), num_tasks=2),
    Definition("acc_all_tasks", ACCURACY, "Σ_{i≥1} Σ_j a[i,j], tasks not learned yet too", "T²",
               "CapyMOA accuracy_all_avg (095caba)", lambda k: float(k.a[1:].mean()), needs="before"),
)  # fmt: skip


def ledger(known: Known, missing: str, without: dict[str, str]) -> list[Entry]:
    """Return every definition with its value, or None and why it has none.

    Args:
        missing: why cells of the matrix that a definition needs may not be there.
        without: what `needs` names → why this run does not have it; what it has is not in it.
    """
    return [Entry(definition, _metric(definition, known, missing, without)) for definition in DEFINITIONS]


def _metric(definition: Definition, known: Known, missing: str, without: dict[str, str]) -> Metric:
    T = known.a.shape[1]
    if definition.num_tasks > T:
        return Metric(None, f"needs at least {definition.num_tasks} tasks, the stream has {T}")
    if definition.needs not in ("", "before", "single", "joint"):
        return Metric(None, definition.needs)
    if definition.needs in without:
        return Metric(None, without[definition.needs])
    with np.errstate(divide="ignore", invalid="ignore"):
        value = definition.value(known)
    if np.isfinite(value):
        return Metric(value)
    no_divisor = "nothing to divide by: an accuracy of the joint run is zero, or what it is before training"
    return Metric(None, no_divisor if known.is_whole else missing)
