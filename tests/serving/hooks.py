"""Hooks with small bundles, and helpers around them, for tests."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.hook.assembly import make_hook
from serving.hook.core import Hook
from serving.ledger.keeper import Keeper
from serving.settings.hook import HookConfig
from tests import made

CHAT = {"model": "made", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}


def config(folder: Path, **settings: Any) -> HookConfig:
    hook_config = HookConfig.model_validate(
        {
            "policy": [str(folder / "bundle")],
            "state": folder / "state",
            "clock_start": "2024-01-02T00:00",
            "mode": "on",
            "hold_out": 0.0,
            "seed": 0,
            # No decision may be late on a busy machine, unless a test sets a short deadline.
            "deadline": 10.0,
        }
        | settings
    )
    hook_config.create_state_folder()
    return hook_config


def hook(folder: Path, logits: tuple[float, ...] = (0.0, 0.0, 50.0), **settings: Any) -> Hook:
    """Return a hook whose policy follows `logits`; by default it chooses "very_brief"."""
    bundle_options = {
        k: settings.pop(k) for k in ("catalogue", "model", "tasks", "extra") if k in settings
    }
    made.bundle(folder / "bundle", logits, **bundle_options)
    send = settings.pop("send", None)
    return make_hook(config(folder, **settings), send=send)


def records(hook: Hook) -> list[dict[str, Any]]:
    """Return the fields of the journal's lines, oldest first."""
    entries = []
    for path in sorted((hook.config.state / "journal").glob("*.jsonl")):
        entries += [entry(json.loads(line)) for line in path.read_text().splitlines() if line]
    return entries


def entry(line: dict[str, Any]) -> dict[str, Any]:
    """Return a journal line's fields; an amendment's changes are merged into them."""
    ((_, fields),) = line.items()
    return fields | fields.pop("changes", {})


def keeper(hook: Hook) -> Keeper:
    return Keeper(hook.config, hook.control)


def metric(hook: Hook, name: str) -> float:
    """Return the sum of the samples whose line starts with `name`."""
    hook.refresh()
    lines = hook.metrics.render().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def post(
    url: str, data: bytes | dict[str, Any], headers: dict[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """POST `data` and return status, body and headers (lower case).

    A `url` without a route is completed with the chat's route.
    """
    if "/v1/" not in url:
        url += "/v1/chat/completions"
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    request = urllib.request.Request(
        url, data=raw, headers={"content-type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read(), _lower(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), _lower(error.headers)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def waited(test: Callable[[], object], seconds: float = 10.0) -> bool:
    """Return whether `test` became true within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if test():
            return True
        time.sleep(0.02)
    return False
