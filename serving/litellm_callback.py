"""The hook as a callback of LiteLLM's proxy (extra `litellm`).

Beside the proxy's configuration, a file `sprout_callback.py`:

    from serving.litellm_callback import SproutCallback

    callback = SproutCallback()

and in the configuration `litellm_settings: {callbacks: sprout_callback.callback}`. Settings come
from SPROUT_* variables (`serving.settings.hook`).

What upstream refuses of ours is not sent again as it came: a callback has no say in that.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from serving.hook.answer import ReportedAnswer, Usage
from serving.hook.assembly import embedded
from serving.hook.core import Hook
from serving.hook.plan import Plan
from serving.telemetry.log import log_internal_error

ROUTES = {
    "acompletion": "/v1/chat/completions",
    "atext_completion": "/v1/completions",
    "aresponses": "/v1/responses",
}
# Reaches the later hooks; LiteLLM sends it nowhere.
_STATE = "_sprout"


class SproutCallback(CustomLogger):
    """Steers and records the requests that a LiteLLM proxy handles.

    The proxy fails a request whose callback raises, so none here does.

    Args:
        hook: None makes one from SPROUT_* variables, kept up by a thread of its own.

    Raises:
        ConfigError: the variables are wrong.
    """

    def __init__(self, hook: Hook | None = None) -> None:
        super().__init__()
        self._hook = embedded() if hook is None else hook

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: Any
    ) -> dict[str, Any] | None:
        """Before a request goes to the model: what is to go instead, or None."""
        try:
            route = ROUTES.get(str(getattr(call_type, "value", call_type)))
            if route is None:
                return None
            request = data.get("proxy_server_request") or {}
            plan = await self._hook.plan(route, data, _headers(request))
            place = "litellm_metadata" if route == "/v1/responses" else "metadata"
            steered = plan.steered if plan.steered is not None else data
            steered.setdefault(place, {})[_STATE] = plan, ReportedAnswer(plan.started)
        except Exception as error:
            log_internal_error("a request was not decided", error)
            return None
        return steered

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,
        response: Any,
        request_headers: dict[str, str] | None = None,
        litellm_call_info: dict[str, Any] | None = None,
    ) -> dict[str, str] | None:
        """What the answer's headers say."""
        try:
            found = _state(data)
            return dict(self._hook.headers(found[0])) if found is not None else None
        except Exception as error:
            log_internal_error("headers were not made", error)
            return None

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: Any, response: Any
    ) -> Any:
        """A whole answer, before it is sent."""
        self._finish(data, response, "completed", 200)
        return response

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """The model's server failed, or refused."""
        status = getattr(original_exception, "status_code", 0)
        code = int(status) if str(status).isdigit() else 0
        outcome = "completed" if 400 <= code < 500 else "upstream_failed"
        self._finish(request_data, None, outcome, code)

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """A streamed answer, piece by piece."""
        outcome, last = "client_left", None
        found = _state(request_data)
        try:
            async for piece in response:
                if found is not None:
                    found[1].piece()
                last = piece if _usage(piece).method is not None else last
                yield piece
            outcome = "completed"
        except Exception:
            outcome = "upstream_broke"
            raise
        finally:
            self._finish(request_data, last, outcome, 200)

    def _finish(self, data: dict[str, Any], response: Any, outcome: str, status: int) -> None:
        try:
            found = _state(data)
            if found is not None:
                plan, told = found
                told.status, told.usage = status, _usage(response)
                told.text = _text(response)
                self._hook.finish(plan, told, outcome)
        except Exception as error:
            log_internal_error("an outcome was not recorded", error)


def _state(data: Mapping[str, Any]) -> tuple[Plan, ReportedAnswer] | None:
    for place in ("litellm_metadata", "metadata"):
        held = data.get(place)
        if isinstance(held, dict) and isinstance(held.get(_STATE), tuple):
            found: tuple[Plan, ReportedAnswer] = held[_STATE]
            return found
    return None


def _headers(request: Mapping[str, Any]) -> dict[str, str]:
    headers = request.get("headers") or {}
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _usage(answer: Any) -> Usage:
    """Usage of a whole answer or of a stream's last piece."""
    usage = getattr(answer, "usage", None) or getattr(
        getattr(answer, "response", None), "usage", None
    )
    counts = [
        next((n for k in kinds if isinstance(n := getattr(usage, k, None), int)), None)
        for kinds in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
    ]
    return Usage(counts[0], counts[1], None if counts[1] is None else "reported")


def _text(answer: Any) -> str | None:
    choices = getattr(answer, "choices", None)
    if not choices:
        return None
    message = getattr(choices[0], "message", None)
    text = getattr(message, "content", None) if message else getattr(choices[0], "text", None)
    return text if isinstance(text, str) else None
