"""`transformers serve` with ASGI middleware, for which the program has no flag.

`python -m experiments.llama.transformers_serve '["module.Class"]' serve MODEL ...`
"""

import json
import sys
from pkgutil import resolve_name
from typing import Any

from transformers.cli import transformers as program
from transformers.cli.serving import server


def main() -> None:
    """Make the program add the middleware to its application, then run the program."""
    classes = [resolve_name(path) for path in json.loads(sys.argv.pop(1))]
    build = server.build_server

    def build_with_middleware(*arguments: Any, **keywords: Any) -> Any:
        app = build(*arguments, **keywords)
        for middleware in classes:
            app.add_middleware(middleware)
        return app

    server.build_server = build_with_middleware
    program.main()


if __name__ == "__main__":
    main()
