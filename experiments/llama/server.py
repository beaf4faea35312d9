"""Start a live Llama server: `transformers serve`, or vLLM where it is installed."""

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
    """Continuous batching with bounds: the defaults take most of a machine's memory.

    Args:
        blocks: of 32 tokens each, for all requests in flight.
        tokens: of all of them in a pass.
    """
    return (
        *("--continuous-batching", "--cb-block-size", "32"),
        *("--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", str(tokens)),
    )


BATCHING = batching()


@dataclass(frozen=True)
class LlamaServer:
    """A running server and the model's name to ask it for."""

    model: str
    child: ChildProcess

    @property
    def url(self) -> str:
        """Its URL, on loopback."""
        return self.child.url


@contextmanager
def llama_server(  # noqa: PLR0913, the configuration of a server
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
        engine: "transformers" (`transformers serve`) or "vllm" where it is installed.
        port: 0 takes a free one.
        device: "auto", "cpu" or "cuda"; for transformers.
        batched: flags of `transformers serve` for it.
        middleware: import paths of ASGI middleware to put round the server's application.
        environment: what is added to the server's environment.
        log: the server's output; default a temporary file.

    Raises:
        ConfigError: wrong model, engine, or a port in use.
        UpstreamError: the server did not become healthy; quotes its last line.
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
    ) as started:
        yield LlamaServer(name, started)


def _resolved(model: str | Path) -> tuple[str, Path | None]:
    # Served from its parent folder, a model's name is short and shows no path.
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
    for path in middleware:
        try:
            resolve_name(path)
        except (ValueError, ImportError, AttributeError) as error:
            raise ConfigError(f"middleware {path!r}: {error}; give MODULE.CLASS") from error
    if engine == "transformers":
        # -P: the folder it runs in holds models, not modules.
        base = [sys.executable, "-P", "-m", "experiments.llama.transformers_serve"]
        base += [json.dumps(list(middleware)), "serve", name]
        where = ["--host", HOST, "--port", str(port), "--device", device]
        return [*base, *where, "--dtype", "auto", *batched]
    if engine != "vllm":
        raise ConfigError(f"engine {engine!r}: one of {', '.join(ENGINES)}")
    program = shutil.which("vllm")
    if program is None:
        raise ConfigError("engine vllm: the program vllm is not installed; see vLLM's own guide")
    wrapped = [part for path in middleware for part in ("--middleware", path)]
    return [program, "serve", name, "--host", HOST, "--port", str(port), *wrapped]


def _absolute(given: Mapping[str, str], wrapped: bool) -> dict[str, str]:
    """The middleware's paths as seen from here: the server runs in the model's folder."""
    found = dict(given)
    if wrapped:
        settings = {"SPROUT_STATE": "runs/serve"} | os.environ | found
        for name in ("SPROUT_POLICY", "SPROUT_STATE", "SPROUT_INTENSITY", "SPROUT_RULES"):
            if paths := settings.get(name):
                found[name] = ",".join(str(Path(p).absolute()) for p in paths.split(","))
    return found


def _environment() -> dict[str, str]:
    # `transformers serve` answers /v1/models with 500 where the cache folder is missing.
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    cache.mkdir(parents=True, exist_ok=True)
    own = {"HF_HUB_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "false"}
    # Threads that spin while they wait stall the server for seconds on busy cores, and burn
    # processor time that would count as the answers' energy.
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **own}
