"""What stands in deploy/ fits the program: its flags, ports, metrics and extras."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from experiments.cli import main
from experiments.operate.serve import Serve
from serving.http.relay import Relay
from serving.ledger.keeper import Keeper
from serving.processes.gateway import Gateway
from serving.settings.gateway import GatewayConfig
from tests.serving.hooks import CHAT, hook, post
from tests.serving.upstream import Upstream, served

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
GATEWAY = COMPOSE["services"]["gateway"]
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "gateway.yaml").read_text()))
CONTAINER = KUBERNETES[0]["spec"]["template"]["spec"]["containers"][0]
ENTRY = json.loads(re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[1])


def parsed(arguments, monkeypatch):
    """The settings that `sprout serve` makes of a container's arguments."""
    found = []
    monkeypatch.setattr(Serve, "cli_cmd", lambda self: found.append(self))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    # As Kubernetes does for a service of that name.
    monkeypatch.setenv("SPROUT_PORT", "tcp://10.0.0.1:80")
    assert main([*ENTRY[1:], *arguments]) == 0
    return found[0]


@pytest.mark.parametrize("arguments", [GATEWAY["command"], CONTAINER["args"]])
def test_its_arguments_are_the_programs(arguments, monkeypatch):
    given = [re.sub(r"\$\{WORKERS:-(\d+)\}", r"\1", a) for a in arguments]
    given = [re.sub(r"\$\{UPSTREAM:.*\}", "http://model:8000", a) for a in given]
    settings = parsed(given, monkeypatch)
    assert settings.host == settings.admin_host == "0.0.0.0"
    assert (settings.port, settings.admin_port) == (8080, 8081)
    assert settings.upstreams[0] == "http://model:8000"
    assert settings.workers == 2


def test_requests_are_given_time_to_finish():
    drain = GatewayConfig.model_fields["drain_seconds"].default
    pod = KUBERNETES[0]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > drain
    assert int(GATEWAY["stop_grace_period"].rstrip("s")) > drain


def test_the_image_is_small_and_nobodys_root():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.search(r"'\.\[(.*)\]'", DOCKERFILE)[1].split(",")
    needed = extras["dependencies"] + [d for e in named for d in extras["optional-dependencies"][e]]
    assert not [d for d in needed if re.match(r"torch|gymnasium|wandb|stable|transformers", d)]
    assert re.search(r"^USER 10001", DOCKERFILE, re.MULTILINE)
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / path).exists() for path in copied.split())


def test_every_metric_that_the_dashboard_shows_is_there(tmp_path):
    made = hook(tmp_path)
    with served(Upstream()) as upstream, served(Gateway(made, Relay(upstream))) as url:
        post(url, CHAT)
        post(url, b"{")
    made.publish_metrics()
    kept = Keeper(made.config, made.control)
    kept.step()
    text = (made.metrics.render() + generate_latest(kept.registry)).decode()
    kept.close()
    known = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    known |= {f"{name}_bucket" for name in known}
    labels = {name: set() for name in known}
    for name, given in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r"(\w+)=", given))
    panels = json.loads((DEPLOY / "grafana" / "dashboards" / "sprout.json").read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(shown) > 20
    used = {name for expression in shown for name in re.findall(r"sprout_\w+", expression)}
    assert used <= known, used - known
    # And nothing that is there goes unseen.
    assert {n for n in known if not n.endswith(("_bucket", "_created"))} <= {
        name.removesuffix("_bucket") for name in used
    }
    for expression in shown:
        (name,) = set(re.findall(r"sprout_\w+", expression)[:1])
        by = set(re.findall(r"by \(([\w, ]+)\)", expression) or [""])
        for label in {one for each in by for one in each.split(", ") if one} - {"instance", "le"}:
            of = labels[name] | labels[name.removesuffix("_bucket")]
            # Counters that nothing has happened to have no line that shows their labels.
            assert not of or label in of, (expression, label)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed here")
def test_kustomize_takes_the_manifests():
    command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes")]
    made = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    kinds = [document["kind"] for document in yaml.safe_load_all(made)]
    assert sorted(kinds) == sorted(document["kind"] for document in KUBERNETES)
