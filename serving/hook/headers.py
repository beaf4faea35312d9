"""The x-sprout-* headers that the hook adds to an answer."""

from functools import lru_cache

from serving.apis.feedback import TOKEN_HEADER, feedback_token
from serving.ledger.record import Record

HEADER_PREFIX = "x-sprout-"
SCHEMA_VERSION = b"1"


def answer_headers(record: Record, salt: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that tell a client the decision; none if the mode is "off".

    Args:
        salt: key of the feedback's token.
    """
    if record.mode == "off":
        return []
    directive, probability = "none", b"1.000000"
    if record.applied:
        directive, probability = record.directive, b"%.6f" % record.probability
    headers = [
        (b"x-sprout-directive", directive.encode()),
        (b"x-sprout-probability", probability),
        (b"x-sprout-reason", record.reason.encode()),
        (b"x-sprout-mode", record.mode.encode()),
        (b"x-sprout-decision-id", record.decision_id.encode()),
        (b"x-sprout-schema-version", SCHEMA_VERSION),
        (TOKEN_HEADER.encode(), feedback_token(salt, record.decision_id).encode()),
    ]
    if (would_be := record.would_be) is not None:
        headers.append((b"x-sprout-would-be", would_be.encode()))
    if record.policy_version is not None:
        headers.append((b"x-sprout-policy-version", record.policy_version.encode()))
    if record.intensity_g_per_kwh is not None:
        headers += _intensity_headers(
            record.intensity_g_per_kwh,
            record.intensity_age_seconds or 0.0,
            record.intensity_step or "",
            record.intensity_kind or "",
        )
    return headers


# Many requests share one reading of the intensity.
@lru_cache(maxsize=4)
def _intensity_headers(
    g_per_kwh: float, age_seconds: float, step: str, kind: str
) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-sprout-intensity", b"%.1f" % g_per_kwh),
        (b"x-sprout-intensity-age", b"%.0f" % age_seconds),
        (b"x-sprout-intensity-step", step.encode()),
        (b"x-sprout-intensity-kind", kind.encode()),
    )
