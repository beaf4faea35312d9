"""Start a live Llama server: `transformers serve`, or vLLM if it is installed."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from envs.errors import ConfigError
from experiments.processes import HOST, ChildProcess, free_port, loopback, start_process

EMBEDDED = Path(__file__).parent / "sprout-llama-2m"
ENGINES = ("transformers", "vllm")


def batching(blocks: int = 512, tokens: int = 512) -> tuple[str, ...]:
    """Return the flags of `transformers serve` for bounded continuous batching.

    Without bounds, the program takes most of the machine's memory.

    Args:
        blocks: cache blocks of 32 tokens for all requests in flight.
        tokens: most tokens of all requests in one pass.
    """
    return (
        *("--continuous-batching", "--cb-block-size", "32"),
        *("--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", str(tokens)),
    )


BATCHING = batching()
# Settings of the middleware that hold paths.
_PATH_VARIABLES = (
    *("SPROUT_POLICY", "SPROUT_STATE", "SPROUT_OFF_FILE", "SPROUT_INTENSITY", "SPROUT_RULES"),
    "SPROUT_COEFFICIENTS",
)


@dataclass(frozen=True)
class LlamaServer:
    """A running server.

    Attributes:
        model: name of the model, for requests.
        child: process of the server.
    """

    model: str
    child: ChildProcess

    @property
    def url(self) -> str:
        """Base URL of the server, on loopback."""
        return self.child.url


@contextmanager
def llama_server(  # noqa: PLR0913, the parameters are the server's configuration
    model: str | Path = EMBEDDED,
    *,
    engine: str = "transformers",
    port: int = 0,
    device: str = "auto",
    middleware: Sequence[str] = (),
    batched: Sequence[str] = BATCHING,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[LlamaServer]:
    """Serve `model` while the context lasts.

    Args:
        model: a folder with weights, or a Hugging Face model's name.
        engine: "transformers" (`transformers serve`) or "vllm" (if it is installed).
        port: port to listen on; 0 takes a free one.
        device: "auto", "cpu" or "cuda"; only for transformers.
        middleware: import paths of ASGI middleware to add to the server's application.
        batched: batching flags of `transformers serve`.
        environment: variables to add to the server's environment.
        log: file for the server's output; default a temporary file.

    Raises:
        ConfigError: the model, engine or middleware is invalid, or the port is in use.
        UpstreamError: the server did not become healthy; the message quotes its last log line.
    """
    name, folder = _resolved(model)
    port = free_port(port)
    command = _command(engine, name, port, device, middleware, batched)
    with start_process(
        "the Llama server",
        command,
        loopback(port, "/health"),
        log=log,
        folder=folder,
        environment=_environment() | _absolute(environment or {}, bool(middleware)),
    ) as child:
        yield LlamaServer(name, child)


def _resolved(model: str | Path) -> tuple[str, Path | None]:
    """Return the name under which to serve a model, and the folder to serve it from."""
    # Served from its parent folder, a model has a short name that shows no path.
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ConfigError(f"{path} holds no model: config.json is missing")
        return path.resolve().name, path.resolve().parent
    if isinstance(model, Path) or model.startswith((".", "/", "~")):
        raise ConfigError(f"no model folder at {model}; give one, or a Hugging Face model's name")
    if model.count("/") != 1:
        raise ConfigError(
            f"{model!r} is neither a folder nor a Hugging Face name like "
            "meta-llama/Llama-2-7b-chat-hf"
        )
    return model, None


def _command(
    engine: str,
    name: str,
    port: int,
    device: str,
    middleware: Sequence[str],
    batched: Sequence[str],
) -> list[str]:
    """Return the command that starts the server.

    Raises:
        ConfigError: the middleware cannot be imported, or the engine is unknown or missing.
    """
    for path in middleware:
        try:
            resolve_name(path)
        except (ValueError, ImportError, AttributeError) as error:
            raise ConfigError(
                f"middleware {path!r}: {error}; give an import path MODULE.CLASS"
            ) from error
    if engine == "transformers":
        # -P: modules must not be imported from the working folder, which holds models.
        base = [sys.executable, "-P", "-m", "experiments.llama.transformers_serve"]
        base += [json.dumps(list(middleware)), "serve", name]
        options = ["--host", HOST, "--port", str(port), "--device", device]
        return [*base, *options, "--dtype", "auto", *batched]
    if engine != "vllm":
        raise ConfigError(f"unknown engine {engine!r}: give one of {', '.join(ENGINES)}")
    program = shutil.which("vllm")
    if program is None:
        raise ConfigError(
            "engine vllm: the program vllm is not installed; see vLLM's installation guide"
        )
    flags = [part for path in middleware for part in ("--middleware", path)]
    return [program, "serve", name, "--host", HOST, "--port", str(port), *flags]


def _absolute(environment: Mapping[str, str], has_middleware: bool) -> dict[str, str]:
    """Return the variables with the middleware's paths made absolute.

    The server runs in the model's folder, where relative paths would not resolve.
    """
    variables = dict(environment)
    if has_middleware:
        settings = {"SPROUT_STATE": "runs/serve"} | os.environ | variables
        for name in _PATH_VARIABLES:
            # A live source or a constant number is no path.
            is_path = name != "SPROUT_INTENSITY" or Path(settings.get(name, "")).exists()
            if is_path and (paths := settings.get(name)):
                variables[name] = ",".join(str(Path(p).absolute()) for p in paths.split(","))
    return variables


def _environment() -> dict[str, str]:
    """Return the server's environment, with an existing cache folder and passive waiting."""
    # `transformers serve` answers /v1/models with 500 if the cache folder is missing.
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    cache.mkdir(parents=True, exist_ok=True)
    overrides = {"HF_HUB_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "false"}
    # Threads that spin while they wait stall the server for seconds on busy cores, and their
    # processor time would count as energy of the answers.
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **overrides}
