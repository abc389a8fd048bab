"""One answer with all that it rests on: the task and why, the version and its hashes, what every label got."""

from typing import Any

from clora_exp.inference.engine import AUTO, Failure, Request, TaskEngine
from clora_exp.inference.identification import as_plain


def explained(engine: TaskEngine, request: Request) -> dict[str, Any]:
    """Return an answer's grounds, for JSON; where there is no answer, why."""
    answer = engine.batch([request])[0]
    found: dict[str, Any] = {
        "text": request.text,
        "identified": as_plain(answer.identified) if answer.identified else None,
        "why": [],
        "error": answer.error if isinstance(answer, Failure) else None,
    }
    if answer.identified and request.task == AUTO:
        found["why"] = [(reason.term, reason.amount) for reason in engine.why(request.text, answer.identified.best)]
    if isinstance(answer, Failure):
        return found
    manifest = engine.manifest(answer.task, answer.id)
    return found | {
        "task": answer.task,
        "version": answer.version,
        "id": answer.id,
        "label": answer.label,
        "probabilities": answer.probabilities,
        "method": manifest.method.get("name", ""),
        "rank": manifest.weights.rank,
        "created": manifest.created,
        "accuracy": manifest.metrics.get("accuracy"),
        "base": manifest.base.name,
        "base_sha256": manifest.base.sha256,
        "weights_sha256": manifest.weights.sha256,
        "derived_from": manifest.derived_from.id if manifest.derived_from else None,
    }
