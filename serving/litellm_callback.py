"""The hook as a callback of LiteLLM's proxy (extra `litellm`).

Create a file `sprout_callback.py` beside the proxy's configuration:

    from serving.litellm_callback import SproutCallback

    callback = SproutCallback()

Then add `litellm_settings: {callbacks: sprout_callback.callback}` to the configuration. Settings
come from SPROUT_* variables (`serving.settings.hook`).

If the upstream rejects a steered request, the client receives that error: a callback cannot
send the original request again.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from serving.apis.facts import LONGEST_NAME
from serving.embedded import make_embedded_hook
from serving.hook.core import Hook
from serving.hook.outcome import ReportedAnswer, Usage
from serving.hook.plan import Plan
from serving.settings.control import EVALUATION_HEADER
from serving.telemetry.log import log_internal_error

ROUTES = {
    "acompletion": "/v1/chat/completions",
    "atext_completion": "/v1/completions",
    "aresponses": "/v1/responses",
}
# Key in a request's metadata for the plan and the answer. LiteLLM passes it to the later
# callback methods and does not send it to the model.
_STATE = "_sprout"


class SproutCallback(CustomLogger):
    """Steers and records the requests that a LiteLLM proxy handles.

    No method raises: the proxy would fail the request.

    Args:
        hook: the hook that decides. None builds one from SPROUT_* variables and refreshes it
            from its own thread.

    Raises:
        ConfigError: the variables are wrong.
    """

    def __init__(self, hook: Hook | None = None) -> None:
        super().__init__()
        self._hook = make_embedded_hook() if hook is None else hook

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: Any
    ) -> dict[str, Any] | None:
        """Decide a request before the model receives it.

        Returns the request to send, or None to leave it unchanged.
        """
        try:
            route = ROUTES.get(str(getattr(call_type, "value", call_type)))
            if route is None:
                return None
            request = data.get("proxy_server_request") or {}
            headers = _headers(request)
            if self._hook.is_evaluation(headers.get(EVALUATION_HEADER)):
                return None
            plan = await self._hook.plan(route, data, headers)
            metadata_key = "litellm_metadata" if route == "/v1/responses" else "metadata"
            steered = plan.steered if plan.steered is not None else data
            steered.setdefault(metadata_key, {})[_STATE] = plan, ReportedAnswer(plan.started)
        except Exception as error:
            log_internal_error("LiteLLM callback: the request was not decided", error)
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
        """Return the headers to add to the answer, or None if the request was not decided."""
        try:
            state = _state(data)
            if state is None:
                return None
            return {n.decode(): v.decode() for n, v in self._hook.headers(state[0])}
        except Exception as error:
            log_internal_error("LiteLLM callback: the answer's headers are missing", error)
            return None

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: Any, response: Any
    ) -> Any:
        """Record a complete answer before it is sent."""
        self._finish(data, response, "completed", 200)
        return response

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """Record a request that the upstream rejected or failed to answer."""
        status = getattr(original_exception, "status_code", 0)
        code = int(status) if str(status).isdigit() else 0
        outcome = "completed" if 400 <= code < 500 else "upstream_failed"
        self._finish(request_data, None, outcome, code)

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Pass on a streamed answer and record its outcome."""
        outcome, usage_piece = "client_left", None
        state = _state(request_data)
        try:
            async for piece in response:
                if state is not None:
                    state[1].piece()
                usage_piece = piece if _usage(piece).method is not None else usage_piece
                yield piece
            outcome = "completed"
        except Exception:
            outcome = "upstream_broke"
            raise
        finally:
            self._finish(request_data, usage_piece, outcome, 200)

    def _finish(self, data: dict[str, Any], response: Any, outcome: str, status: int) -> None:
        try:
            state = _state(data)
            if state is not None:
                plan, answer = state
                answer.status, answer.usage = status, _usage(response)
                answer.text = _text(response)
                answer.model = _named(response, "model")
                answer.fingerprint = _named(response, "system_fingerprint")
                self._hook.finish(plan, answer, outcome)
        except Exception as error:
            log_internal_error("LiteLLM callback: the outcome was not recorded", error)


def _state(data: Mapping[str, Any]) -> tuple[Plan, ReportedAnswer] | None:
    """Return what `async_pre_call_hook` stored with a request, or None."""
    for metadata_key in ("litellm_metadata", "metadata"):
        metadata = data.get(metadata_key)
        if isinstance(metadata, dict) and isinstance(metadata.get(_STATE), tuple):
            state: tuple[Plan, ReportedAnswer] = metadata[_STATE]
            return state
    return None


def _headers(request: Mapping[str, Any]) -> dict[str, str]:
    headers = request.get("headers") or {}
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _usage(answer: Any) -> Usage:
    """Return the usage of a complete answer or of one piece of a stream."""
    usage = getattr(answer, "usage", None) or getattr(
        getattr(answer, "response", None), "usage", None
    )
    counts = [
        next((n for name in names if isinstance(n := getattr(usage, name, None), int)), None)
        for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
    ]
    return Usage(counts[0], counts[1], None if counts[1] is None else "reported")


def _named(answer: Any, field: str) -> str | None:
    """Return a text field of an answer, or None."""
    value = getattr(answer, field, None)
    return value[:LONGEST_NAME] if isinstance(value, str) and value else None


def _text(answer: Any) -> str | None:
    """Return the text of an answer's first choice, or None."""
    choices = getattr(answer, "choices", None)
    if not choices:
        return None
    message = getattr(choices[0], "message", None)
    text = getattr(message, "content", None) if message else getattr(choices[0], "text", None)
    return text if isinstance(text, str) else None
