"""The online hook in front of an OpenAI-compatible server.

`__all__` is the public API. `serving.middleware` is for ASGI servers and
`serving.litellm_callback` is for LiteLLM's proxy.
"""

from envs import __version__
from envs.lazy import lazy_getattr

_HOMES = {
    "Decider": "serving.hook.decider",
    "Hook": "serving.hook.core",
    "HookConfig": "serving.settings.hook",
    "Ledger": "serving.ledger.database",
    "Plan": "serving.hook.plan",
    "Record": "serving.ledger.record",
    "SproutCallback": "serving.litellm_callback",
    "SproutMiddleware": "serving.middleware",
    "make_hook": "serving.hook.assembly",
}
__all__ = ["__version__", *_HOMES]
__getattr__ = lazy_getattr(_HOMES)
