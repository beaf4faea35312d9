"""`transformers serve` with ASGI middleware round its application, for which it has no flag.

`python -m experiments.llama.transformers_serve '["module.Class"]' serve MODEL ...`
"""

import json
import sys
from pkgutil import resolve_name
from typing import Any

from transformers.cli import transformers as program
from transformers.cli.serving import server


def main() -> None:
    """Wrap what builds the application, and run the program itself."""
    classes = [resolve_name(path) for path in json.loads(sys.argv.pop(1))]
    build = server.build_server

    def wrapped(*arguments: Any, **named: Any) -> Any:
        app = build(*arguments, **named)
        for middleware in classes:
            app.add_middleware(middleware)
        return app

    server.build_server = wrapped
    program.main()


if __name__ == "__main__":
    main()
