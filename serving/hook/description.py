"""Describes a request in its record: who asks for what, in which conversation, on which grid."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from envs.requests.directive import Message
from serving.apis.facts import LONGEST_NAME
from serving.apis.naming import read_naming
from serving.hook.conversation import Identity, identify
from serving.hook.grid import GridState
from serving.ledger.record import Record
from serving.settings.control import Control
from serving.settings.hook import HookConfig
from serving.settings.rules import RequestFacts, Rule, first_matching


def describe(
    record: Record,
    config: HookConfig,
    salt: bytes,
    body: Mapping[str, Any],
    messages: Sequence[Message],
    headers: Mapping[str, str],
) -> Identity:
    """Fill in model, task and tenant, and the prompt if prompts are stored.

    Returns:
        the identity of the request's conversation.
    """
    model = body.get("model")
    record.model = model[:LONGEST_NAME] if isinstance(model, str) else None
    record.streamed = body.get("stream") is True
    if "task" in config.caller_headers and (task := headers.get("x-sprout-task")) is not None:
        record.task = task[:LONGEST_NAME]
    tenant_header = (config.tenant_header or "").lower()
    if tenant_header and (tenant := headers.get(tenant_header)) is not None:
        if tenant_header == "authorization":
            # A secret: the record keeps only a keyed hash, enough to tell tenants apart.
            tenant = hashlib.blake2b(tenant.encode(), digest_size=8, key=salt).hexdigest()
        record.tenant = tenant[:LONGEST_NAME]
    if config.store_prompts:
        record.prompt = orjson.dumps(messages).decode()
    named = "conversation" in config.caller_headers
    return identify(
        salt,
        messages,
        (record.tenant, record.model),
        read_naming(body),
        headers.get("x-sprout-conversation") if named else None,
    )


def describe_intensity(record: Record, grid: GridState) -> None:
    """Fill in the carbon intensity that the decision uses."""
    record.intensity_g_per_kwh = grid.reading.g_per_kwh
    record.intensity_time = grid.reading.time
    record.intensity_age_seconds = grid.reading.age_seconds
    record.intensity_step = grid.reading.step
    record.intensity_kind = str(grid.reading.kind)


def matching_rule(control: Control, record: Record, headers: Mapping[str, str]) -> Rule | None:
    """Return the first of the operators' rules that matches a described request, or None."""
    if not control.rules:
        return None
    facts = RequestFacts(
        route=record.route,
        model=record.model or "",
        task=record.task,
        tenant=record.tenant,
        characters=record.characters,
        headers=headers,
    )
    return first_matching(control.rules, facts)
