"""Asks an upstream for its models, and says in words why a request to one failed."""

import asyncio
import os

import aiohttp
import orjson
from yarl import URL

# Longest wait for the list of an upstream's models, s, and its longest size, bytes. Orchestrators
# wait 2 s for the whole report.
_PROBE_SECONDS, _PROBE_BYTES = 1.0, 1 << 20
# Statuses of servers that list their models only to those who have a key.
_NEEDS_KEY = (401, 403)


async def list_models(
    session: aiohttp.ClientSession, upstream: str
) -> tuple[list[str] | None, str | None]:
    """Ask an upstream for its models.

    Returns:
        The models' names, None if it lists none; and what is wrong, None if nothing is.
    """
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            async with session.get(URL(f"{upstream}/v1/models", encoded=True)) as response:
                status, content = response.status, bytearray()
                async for piece in response.content.iter_any():
                    content += piece
                    if len(content) > _PROBE_BYTES:
                        break
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return None, f"does not answer: {reason_of(error)}"
    if status >= 400 and status not in _NEEDS_KEY:
        return None, f"answers GET /v1/models with {status}; is its base URL right?"
    try:
        return [str(model["id"]) for model in orjson.loads(content)["data"]], None
    except (ValueError, TypeError, KeyError):
        return None, None


def reason_of(error: Exception) -> str:
    """Return why a request failed, without text of the request or the answer."""
    cause = getattr(error, "os_error", None) or error
    text = os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
