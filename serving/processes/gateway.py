"""The gateway's application: a relay wrapped in the hook, and the gateway's own routes."""

from serving.hook.core import Hook
from serving.http.asgi import Receive, Scope, Send, header, respond, respond_error
from serving.http.decide_routes import ROUTES, DecideRoutes
from serving.http.readiness import PATH as READY
from serving.http.readiness import Readiness
from serving.http.relay import Relay
from serving.middleware import SproutMiddleware

HEALTH = "/healthz"


class Gateway:
    """ASGI application in front of the upstream servers.

    Attributes:
        readiness: reports on the gateway.
    """

    def __init__(self, hook: Hook, relay: Relay) -> None:
        self._relay = relay
        self._steered = SproutMiddleware(relay, hook)
        self._decide = DecideRoutes(hook)
        self.readiness = Readiness(hook, relay)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
        elif header(scope["headers"], b"sec-websocket-key") is not None:
            message = "this gateway relays no WebSockets; connect to the LLM server itself"
            await respond_error(send, 501, message, "unsupported")
        elif scope["path"] == HEALTH:
            await respond(send, 200, b'{"status":"ok"}\n')
        elif scope["path"] == READY:
            await self.readiness(scope, receive, send)
        elif scope["path"] in ROUTES:
            await self._decide(scope, receive, send)
        else:
            await self._steered(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                await self._relay.open()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._relay.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
