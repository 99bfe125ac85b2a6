"""What becomes known of searches once they are answered: counts for the metrics, words for the log line."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Scope

from service.api.metrics import Metrics
from service.application.types import SearchAnswer

SUSPICION = "hashguard.suspicion"
"""Where the words about suspicious queries for the log stand in a connection's scope.

`suspicious`: how many of the request's queries scored above a threshold. `suspicious_rate`: the strictest
rate among theirs; benign queries exceed its threshold no more often than that. `attack_score`: the highest
score among them. Nothing stands there when there is none.
"""


def note_searches(scope: Scope, metrics: Metrics, answers: Sequence[SearchAnswer]) -> None:
    """Count the answers of one request and leave word of the suspicious queries for its log line."""
    for answer in answers:
        metrics.searched(answer)
    suspicious = [one for answer in answers if (one := answer.suspicion) is not None and one.exceeded()]
    if suspicious:
        scope[SUSPICION] = {
            "suspicious": len(suspicious),
            "suspicious_rate": min(one.exceeded()[0] for one in suspicious),
            "attack_score": round(max(one.score for one in suspicious), 6),
        }
