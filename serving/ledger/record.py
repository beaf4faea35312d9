"""The ledger's record of one request, and amendments to it."""

import os
import random
import socket
import time
from dataclasses import dataclass, field
from typing import Any

REPLICA = socket.gethostname()


# Seeded by the system, once: asking it for each request costs more than all else of a name.
_random = random.Random()
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """A decision's name: 12 hexadecimal digits of milliseconds, 20 at random; sorts by time."""
    return f"{time.time_ns() // 1_000_000:012x}{_random.getrandbits(80):020x}"


@dataclass(slots=True)
class Record:
    """One request, from its arrival to its answer's last byte; the columns of the ledger.

    Attributes:
        decision_id: also in the answer's headers.
        time: Unix seconds at arrival, UTC.
        mode: at arrival.
        rule: the operator's rule that meant the request.
        lottery: whether chance decided, by `hold_out_ratio` and the policy: only these
            requests measure what the policy saves.
        hold_out: whether it was kept at L0 to compare with.
        directive: what the policy, a rule or the hold-out chose.
        applied: whether the answer was generated under it; else, in shadow, under L0.
        probability: of the directive under the policy, given that it was not held out.
        reason: "policy", "sticky", "hold_out", "rule", "opt_out", "format", "own_length",
            "unknown_model", "no_bundle", "not_canary", "off", or what failed in us.
        features: what the policy saw, float32 little-endian in base64; None if it was not
            asked.
        conversation: 16 hexadecimal digits; a keyed hash, see `serving.hook.conversation`.
        characters: of what the request asks.
        intensity_step: how the intensity was come by, of `envs.carbon.intensity.STEPS`.
        intensity_kind: "average direct", ...
        tokens_method: "reported" by upstream, or "counted": one a piece of the stream.
        seconds_first: until the answer's first piece; None if there was none.
        energy_method: "estimated", "attributed" or "measured".
        energy_error_joules: standard error of attributed joules.
        grams: gCO2e, operational and embodied.
        status: upstream's; 0 where it did not answer.
        outcome: "completed", "upstream_failed", "upstream_broke" (in the middle), "client_left".
        prompt, response: only where the operator turned it on.
    """

    decision_id: str
    time: float
    route: str
    replica: str = REPLICA
    model: str | None = None
    task: str | None = None
    tenant: str | None = None
    conversation: str | None = None
    mode: str = "off"
    rule: str | None = None
    lottery: bool = False
    hold_out: bool = False
    hold_out_ratio: float = 0.0
    directive: str = "none"
    applied: bool = True
    probability: float = 1.0
    reason: str = "off"
    policy_version: str | None = None
    features: str | None = None
    characters: int = 0
    streamed: bool = False
    in_flight: int = 0
    decision_seconds: float = 0.0
    intensity_g_per_kwh: float | None = None
    intensity_time: float | None = None
    intensity_age_seconds: float | None = None
    intensity_step: str | None = None
    intensity_kind: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_method: str | None = None
    seconds_first: float | None = None
    seconds: float = 0.0
    energy_joules: float | None = None
    energy_method: str | None = None
    energy_error_joules: float | None = None
    grams: float | None = None
    status: int = 0
    outcome: str = "upstream_failed"
    prompt: str | None = field(default=None, repr=False)
    response: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Amendment:
    """What became known of a request after its record was written.

    Attributes:
        decision_id: of the record.
        changes: new values of the record's fields.
    """

    decision_id: str
    changes: dict[str, Any]
