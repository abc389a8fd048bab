"""Numbers and results in words, the same in the terminal and in the report."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a list of stored tasks needs no pandas
    from clora_exp.evaluation.metrics import Metric
    from clora_exp.runs import StoredRun

METRICS = {
    "average_accuracy": "accuracy over all tasks at the end",
    "incremental_accuracy": "accuracy over the tasks seen, averaged over the sequence",
    "learning_accuracy": "accuracy on each task right after learning it",
    "backward_transfer": "change on earlier tasks by learning later ones",
    "forgetting": "loss on earlier tasks since their best",
    "mean_drop": "mean distance below each task's best",
    "forward_transfer": "gain on a task before learning it",
    "transfer_gain": "gain over learning each task alone",
    "intransigence": "loss against learning all tasks together",
    "exact_match": "free-form answers at the end that are the response, as SQuAD compares",
    "token_f1": "words that free-form answers at the end share with the response, F1",
    "rouge_l": "longest common sequence of words with the response, ROUGE-L",
    "answer_perplexity": "perplexity of a token of the responses at the end",
    "task_identification": "answers at the end that are a class of the right task",
    "within_task_accuracy": "of these, those that are the right class",
}
SIGNED = {"backward_transfer", "forward_transfer", "transfer_gain"}


def number(name: str, value: float) -> str:
    """Return a metric's value with four decimals, and a sign where it can go either way."""
    return signed(value, 4) if name in SIGNED else f"{value:.4f}".replace("-", "−")


def signed(value: float, decimals: int) -> str:
    """Return a number with its sign, a true minus; a zero has none."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def sentence(run: "StoredRun") -> str:
    """Return the result in one sentence."""
    metrics, name = run.metrics, run.method
    average, learning = _value(metrics, "average_accuracy"), _value(metrics, "learning_accuracy")
    if run.protocol == "single" and learning is not None:
        return f"{name} reaches {learning:.1%} on average when each task is learned alone."
    if average is None:
        return f"{name} has not finished."
    if run.protocol == "joint":
        return f"{name} reaches {average:.1%} over all tasks when they are learned together."
    forgetting = _value(metrics, "forgetting")
    if forgetting is None:
        return f"{name} reaches {average:.1%}."
    points = abs(100 * forgetting)
    if points < 0.05:
        kept = "and has forgotten nothing" if forgetting == 0 else "and has forgotten next to nothing"
    elif forgetting > 0:
        kept = f"and has forgotten {points:.1f} points of the earlier tasks' best"
    else:
        kept = f"and has gained {points:.1f} points on the earlier tasks' best"
    return f"{name} ends at {average:.1%} over all tasks {kept}."


def size(num_bytes: float) -> str:
    """Return bytes as B, kB, MB or GB (powers of 1000)."""
    for unit in ("B", "kB", "MB"):
        if float(f"{num_bytes:.3g}") < 1000:  # 999.9 kB is 1 MB, not 1e+03 kB
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"


def duration(seconds: float) -> str:
    """Return seconds as "9.3 s", "2 m 05 s" or "1 h 02 m"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} m {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} m"


def energy(joules: float, source: str) -> str:
    """Return joules with how they were found, or why there are none."""
    if joules != joules:  # NaN
        return f"– ({source})"
    return f"{in_joules(joules)}, {source}"


def in_joules(joules: float) -> str:
    """Return an energy in J, kJ or MJ."""
    if joules < 1000:
        return f"{joules:.3g} J"
    return f"{joules / 1000:.3g} kJ" if joules < 1e6 else f"{joules / 1e6:.3g} MJ"


def p_value(value: float) -> str:
    """Return a p-value with three decimals, or in powers of ten where that would be 0.000."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def markdown_row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def threads(count: int) -> str:
    """Return "1 thread" or "2 threads"."""
    return f"{count} thread{'' if count == 1 else 's'}"


def _value(metrics: "dict[str, Metric]", name: str) -> float | None:
    return metrics[name].value if name in metrics else None
