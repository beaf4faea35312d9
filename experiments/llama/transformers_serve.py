"""`transformers serve` with what it lacks: ASGI middleware, and a list of the model that it serves.

`python -m experiments.llama.transformers_serve '["module.Class"]' serve MODEL ...`
"""

import json
import sys
from pkgutil import resolve_name
from typing import Any

from transformers.cli import transformers as program
from transformers.cli.serving import server

from serving.http.asgi import App, Receive, Scope, Send, respond


class ListedModel:
    """ASGI middleware that answers GET /v1/models with the served model.

    The program itself lists the models in the user's cache, which are others.
    """

    def __init__(self, app: App, model: str) -> None:
        self._app = app
        models = [{"id": model, "object": "model", "created": 0, "owned_by": "sprout-rl"}]
        self._body = json.dumps({"object": "list", "data": models}).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http" and (scope["method"], scope["path"]) == ("GET", "/v1/models"):
            await respond(send, 200, self._body)
        else:
            await self._app(scope, receive, send)


def main() -> None:
    """Make the program add the middleware to its application, then run the program."""
    classes = [resolve_name(path) for path in json.loads(sys.argv.pop(1))]
    model = sys.argv[2]
    build = server.build_server

    def build_with_middleware(*arguments: Any, **keywords: Any) -> Any:
        app = build(*arguments, **keywords)
        app.add_middleware(ListedModel, model=model)
        for middleware in classes:
            app.add_middleware(middleware)
        return app

    server.build_server = build_with_middleware
    program.main()


if __name__ == "__main__":
    main()
