"""The ledger's record of one request, and amendments to it."""

import os
import random
import socket
import time
from dataclasses import dataclass, field
from typing import Any

REPLICA = socket.gethostname()


# Seeded once by the operating system: a call to it for each id would take most of the time.
_random = random.Random()
# Reasons of requests whose directive was chosen, by a policy, the hold-out, a rule or the guard.
CHOSEN = frozenset(("policy", "sticky", "hold_out", "rule", "guard"))
EVALUATION = "evaluation"
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """Return a decision id that sorts by time: 12 hexadecimal digits of Unix ms, 20 random ones."""
    return f"{time.time_ns() // 1_000_000:012x}{_random.getrandbits(80):020x}"


@dataclass(slots=True)
class Record:
    """One request, from its arrival to the last byte of its answer; a row of the ledger.

    Attributes:
        decision_id: id of the decision, also in the answer's headers.
        time: arrival, Unix seconds (UTC).
        route: path of the API, e.g. "/v1/chat/completions".
        replica: host name of the replica that decided.
        model, task, tenant: as the request named them; None if it did not.
        conversation: the conversation's draw, a keyed hash of 16 hexadecimal digits (see
            `serving.hook.conversation`); None if the request was not read, as in mode "off".
        keyed_by: the conversation is known by the caller's name for the "conversation" or for the
            "user", or by its opening "message"; None if the request was not read.
        opening: True if the request opens its conversation; None if unknown.
        mode: the hook's mode at arrival, or the matching rule's mode.
        rule: name of the operator's rule that matched the request; None if none did.
        lottery: True if the request was randomised, by `hold_out_ratio` and then the policy. Only
            these requests measure the policy's savings, also those that failed afterwards.
        hold_out: True if the request was held out, i.e. kept at L0 for comparison.
        hold_out_ratio: probability of being held out.
        directive: directive chosen by the policy, a rule or the hold-out.
        applied: True if the answer was generated under `directive`; False in shadow mode, where it
            was generated under L0.
        probability: the policy's probability of `directive`, given that the request was not held
            out; for one that was, the policy's probability of "none".
        reason: "policy", "sticky", "hold_out", "rule", "opt_out", "format", "own_length",
            "unknown_model", "no_bundle", "not_canary", "no_transform" (the client's Cache-Control),
            "refuses_directives" (the model's server did so before), "unlike_profile" (the policy's
            training had nothing like it), "guard" (the quality of such answers fell below its
            floor), "off", "evaluation" (an answer that was made only to judge another one), or the
            failure that left the request unchanged.
        policy_version: version of the policy bundle; None if no policy applied.
        floor: least quality that the price is for; None if the request's task has none.
        floor_from: who asks for it (`agents.policy.pricing.Floor`).
        price: price of quality that the policy observed, in mean L0 costs per unit of L0's
            quality; None if it observed none.
        features: the policy's observation, little-endian float32 in base64; None if the policy
            was not asked.
        characters: length of the request's messages, characters.
        streamed: True if the answer was streamed.
        in_flight: other requests in flight in this worker at arrival.
        decision_seconds: time that the decision took, s.
        intensity_g_per_kwh: carbon intensity of the grid, gCO2e/kWh; None if not read.
        intensity_time: time that the intensity is for, Unix seconds.
        intensity_age_seconds: age of the intensity at the decision, s.
        intensity_step: source of the intensity, one of `envs.carbon.intensity.STEPS`.
        intensity_kind: kind of the intensity: "average direct", ...
        answer_model: model that the answer names; None if it names none.
        fingerprint: the answer's `system_fingerprint`; None if it has none.
        prompt_tokens, completion_tokens: token counts; None if unknown.
        tokens_method: "reported" by the upstream, or "counted": one token per stream chunk.
        seconds_first: time from arrival to the answer's first chunk, s; None if there was none.
        seconds: time from arrival to the end of the answer, s.
        energy_joules: energy of the request, J; None if unknown.
        energy_method: "estimated", "attributed" or "measured".
        energy_error_joules: standard error of attributed energy, J.
        grams: operational and embodied emissions, gCO2e.
        status: the upstream's HTTP status; 0 if it did not answer.
        outcome: "completed", "answer_failed" or "answer_incomplete" (as an answer of status 200
            says itself), "upstream_failed", "upstream_broke" (in mid-answer), "client_left",
            "decided" (the caller sends the request itself and may report its outcome later).
        follow_up: what a later turn says about the answer before it: "repeat" (the same question),
            "more" (a wish for a longer answer) or "other"; None for a first turn.
        cut_off: the answer reached a cap on its tokens, that of the "directive" or that of the
            "caller"; None if it did not, or if that is unknown.
        prompt, response: texts; None unless the operator turned on their storage.
    """

    decision_id: str
    time: float
    route: str
    replica: str = REPLICA
    model: str | None = None
    task: str | None = None
    tenant: str | None = None
    conversation: str | None = None
    keyed_by: str | None = None
    opening: bool | None = None
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
    floor: float | None = None
    floor_from: str | None = None
    price: float | None = None
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
    answer_model: str | None = None
    fingerprint: str | None = None
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
    follow_up: str | None = None
    cut_off: str | None = None
    prompt: str | None = field(default=None, repr=False)
    response: str | None = field(default=None, repr=False)

    @property
    def would_be(self) -> str | None:
        """Directive that mode "on" would have applied; None except in mode "shadow"."""
        return self.directive if self.mode == "shadow" and self.reason in CHOSEN else None


@dataclass(frozen=True, slots=True)
class Amendment:
    """A change to a request's record after it was written.

    Attributes:
        decision_id: id of the record's decision.
        changes: new values by field of `Record`.
    """

    decision_id: str
    changes: dict[str, Any]
