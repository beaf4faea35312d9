"""`sprout bench gateway`: overhead of the hook, compared with a bare hop, nginx and LiteLLM."""

import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from agents.policy.bundle import load_bundle
from experiments.bench import load
from experiments.bench.canned import UPSTREAM_VARIABLE, canned
from experiments.hook_process import start_hook
from experiments.processes import ChildProcess, free_port, loopback, start_process
from experiments.settings import Settings, write_json

NGINX = """
daemon off; error_log {folder}/error.log; pid {folder}/pid; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream canned {{ server {upstream}; keepalive 64; }}
  server {{ listen 127.0.0.1:{port}; location / {{
    proxy_pass http://canned; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""
LITELLM = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "{upstream}/v1", api_key: sk-bench}}
general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}
"""


class GatewayBench(Settings):
    """Measure requests/s, latency on one connection, and the first byte of a stream.

    All targets are measured in each round. The hook runs with every feature on: policy,
    features, ledger, metrics, hold-out.
    """

    policy: Path = Field(description="policy bundle")
    seconds: float = Field(3.0, gt=0, description="length of each measurement")
    rounds: int = Field(5, ge=1, description="rounds; each measures all targets in turn")
    connections: int = Field(32, ge=1, description="connections when requests/s are measured")
    litellm: str | None = Field(
        None,
        description="path of the LiteLLM program; default the one installed beside this Python",
    )
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Measure all targets, print their medians and ratios, and write the JSON result."""
        model = load_bundle(self.policy).model
        with ExitStack() as stack:
            targets = _targets(stack, self.policy, model, self.litellm)
            rounds: dict[str, dict[str, list[float]]] = {
                name: {"per_second": [], "median_ms": [], "first_ms": []} for name in targets
            }
            for _ in range(self.rounds):
                for name, url in targets.items():
                    self._round(rounds[name], url, model)
        result = {name: _ranges(samples) for name, samples in rounds.items()}
        result["ratios"] = _ratios(rounds)
        _print(result, self.connections)
        write_json(self.json_path, {"schema": 1, **result})

    def _round(self, samples: dict[str, list[float]], url: str, model: str) -> None:
        """Measure one target once and append the results to `samples`."""
        # A short warm-up opens the upstream connections and runs what only the first request needs.
        load.run(url, load.chats(url, model), self.connections, 0.3)
        many = load.run(url, load.chats(url, model), self.connections, self.seconds)
        one = load.run(url, load.chats(url, model), 1, self.seconds)
        streamed = load.run(url, load.chats(url, model, stream=True), 1, self.seconds)
        samples["per_second"].append(many.per_second)
        samples["median_ms"].append(1e3 * statistics.median(one.latencies))
        samples["first_ms"].append(1e3 * statistics.median(streamed.first))


def _targets(stack: ExitStack, policy: Path, model: str, litellm: str | None) -> dict[str, str]:
    """Start all targets that are installed and return their URLs by name."""
    upstream = stack.enter_context(canned())
    targets = {"direct": upstream.url, "hop": stack.enter_context(_hop(upstream.url)).url}
    if shutil.which("nginx"):
        targets["nginx"] = stack.enter_context(_nginx(upstream.url)).url
    default_program = Path(sys.executable).with_name("litellm")
    program = litellm or (str(default_program) if importlib.util.find_spec("fastapi_sso") else None)
    if program is not None:
        targets["litellm"] = stack.enter_context(_litellm(program, upstream.url, model)).url
    flags = ("--clock-start", "2024-01-02T00:00")
    targets["sprout"] = stack.enter_context(
        start_hook(upstream.url, policy, flags, hold_out_ratio=0.05)
    ).url
    return targets


@contextmanager
def _hop(upstream: str) -> Iterator[ChildProcess]:
    port = free_port()
    command = [sys.executable, "-P", "-m", "uvicorn", "experiments.bench.canned:hop"]
    flags = ["--port", str(port), "--log-level", "warning", "--no-access-log"]
    environment = {**os.environ, UPSTREAM_VARIABLE: upstream}
    with start_process(
        "the bare hop",
        [*command, *flags],
        loopback(port, "/"),
        environment=environment,
        start_seconds=30,
    ) as hop:
        yield hop


@contextmanager
def _nginx(upstream: str) -> Iterator[ChildProcess]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        address = upstream.removeprefix("http://")
        config.write_text(NGINX.format(folder=folder, upstream=address, port=port))
        command = ["nginx", "-c", str(config), "-e", f"{folder}/error.log"]
        with start_process("nginx", command, loopback(port, "/"), start_seconds=30) as nginx:
            yield nginx


@contextmanager
def _litellm(program: str, upstream: str, model: str) -> Iterator[ChildProcess]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "litellm.yaml"
        config.write_text(LITELLM.format(upstream=upstream, model=model))
        # LiteLLM must not download its price list, or a tokenizer to count streamed tokens.
        offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
        environment = {**os.environ, **offline}
        command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        with start_process(
            "LiteLLM",
            command,
            loopback(port, "/health/liveliness"),
            environment=environment,
            start_seconds=180,
        ) as gateway:
            yield gateway


def _ranges(samples: dict[str, list[float]]) -> dict[str, Any]:
    """Return the median and the range of each series."""
    return {
        name: {"median": statistics.median(values), "range": [min(values), max(values)]}
        for name, values in samples.items()
    }


def _ratios(rounds: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return the hook's overhead and ratios to the other targets: medians and ranges.

    Ratios are computed within each round, so outside load affects all targets alike.
    """
    pairs: dict[str, list[float]] = {}
    direct, hop, sprout = (rounds[name] for name in ("direct", "hop", "sprout"))
    latencies = list(zip(sprout["median_ms"], hop["median_ms"], direct["median_ms"], strict=True))
    pairs["added latency, ms"] = [s - d for s, _, d in latencies]
    pairs["added latency / bare hop's"] = [(s - d) / (h - d) for s, h, d in latencies]
    first = zip(sprout["first_ms"], direct["first_ms"], strict=True)
    pairs["first streamed byte later, ms"] = [s - d for s, d in first]
    rates = zip(sprout["per_second"], hop["per_second"], strict=True)
    pairs["requests/s / bare hop's"] = [s / h for s, h in rates]
    if "litellm" in rounds:
        rates = zip(sprout["per_second"], rounds["litellm"]["per_second"], strict=True)
        pairs["requests/s / LiteLLM's"] = [s / other for s, other in rates]
    return {name: _ranges({name: values})[name] for name, values in pairs.items()}


def _print(result: dict[str, Any], connections: int) -> None:
    heads = f"requests/s at {connections}", "latency at 1, ms", "first byte of stream, ms"
    print(f"{'':<10}" + "".join(f"{head:>34}" for head in heads))
    for name, series in result.items():
        if name == "ratios":
            continue
        cells = (_cell(series[key]) for key in ("per_second", "median_ms", "first_ms"))
        print(f"{name:<10}" + "".join(f"{cell:>34}" for cell in cells))
    for name, ratio in result["ratios"].items():
        print(f"{name}: {_cell(ratio)}")


def _cell(series: dict[str, Any]) -> str:
    """Return a median and its range as text."""
    low, high = series["range"]
    return f"{series['median']:,.2f} ({low:,.2f} to {high:,.2f})"
