"""Hooks over made bundles, for tests."""

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


def config(folder: Path, **given: Any) -> HookConfig:
    found = HookConfig.model_validate(
        {
            "policy": [str(folder / "bundle")],
            "state": folder / "state",
            "clock_start": "2024-01-02T00:00",
            "hold_out": 0.0,
            "seed": 0,
            # A busy machine must not make a decision late, but where a test asks for it.
            "deadline": 10.0,
        }
        | given
    )
    found.make_state()
    return found


def hook(folder: Path, logits: tuple[float, ...] = (0.0, 0.0, 50.0), **given: Any) -> Hook:
    """A hook whose policy follows `logits`; by default it chooses "very_brief"."""
    bundled = {k: given.pop(k) for k in ("catalogue", "model", "tasks", "extra") if k in given}
    made.bundle(folder / "bundle", logits, **bundled)
    return make_hook(config(folder, **given))


def records(hook: Hook) -> list[dict[str, Any]]:
    """What the journal holds, oldest first."""
    lines = []
    for path in sorted((hook.config.state / "journal").glob("*.jsonl")):
        lines += [entry(json.loads(line)) for line in path.read_text().splitlines() if line]
    return lines


def entry(line: dict[str, Any]) -> dict[str, Any]:
    """A journal line's fields; of an amendment those of the record that it changes."""
    ((_, fields),) = line.items()
    return fields | fields.pop("changes", {})


def keeper(hook: Hook) -> Keeper:
    return Keeper(hook.config, hook.control)


def metric(hook: Hook, name: str) -> float:
    """Sum over the metric's lines."""
    hook.refresh()
    lines = hook.metrics.render().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def post(
    url: str, data: bytes | dict[str, Any], headers: dict[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers (lower case) of a POST; `url` may leave out the chat's route."""
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
    """Whether it became true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if test():
            return True
        time.sleep(0.02)
    return False
