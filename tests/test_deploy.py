"""The files in deploy/ agree with the program: its flags, ports, metrics and extras."""

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
from serving.quality.metrics import QualityMetrics
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
    """Return the settings that `sprout serve` parses from a container's arguments."""
    commands = []
    monkeypatch.setattr(Serve, "cli_cmd", lambda self: commands.append(self))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    # Kubernetes sets this variable in its pods if a service is named "sprout".
    monkeypatch.setenv("SPROUT_PORT", "tcp://10.0.0.1:80")
    assert main([*ENTRY[1:], *arguments]) == 0
    return commands[0]


@pytest.mark.parametrize("arguments", [GATEWAY["command"], CONTAINER["args"]])
def test_the_container_arguments_set_the_addresses_upstream_and_workers(arguments, monkeypatch):
    filled_in = [re.sub(r"\$\{WORKERS:-(\d+)\}", r"\1", a) for a in arguments]
    filled_in = [re.sub(r"\$\{UPSTREAM:.*\}", "http://model:8000", a) for a in filled_in]
    settings = parsed(filled_in, monkeypatch)
    assert settings.host == settings.admin_host == "0.0.0.0"
    assert (settings.port, settings.admin_port) == (8080, 8081)
    assert settings.upstreams[0] == "http://model:8000"
    assert settings.workers == 2


def test_the_container_grace_period_exceeds_the_drain_time():
    drain = GatewayConfig.model_fields["drain_seconds"].default
    pod = KUBERNETES[0]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > drain
    assert int(GATEWAY["stop_grace_period"].rstrip("s")) > drain


def test_the_image_has_no_training_packages_and_does_not_run_as_root():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra_names = re.search(r"'\.\[(.*)\]'", DOCKERFILE)[1].split(",")
    requirements = project["dependencies"] + [
        d for e in extra_names for d in project["optional-dependencies"][e]
    ]
    assert not [
        d for d in requirements if re.match(r"torch|gymnasium|wandb|stable|transformers", d)
    ]
    assert re.search(r"^USER 10001", DOCKERFILE, re.MULTILINE)
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / path).exists() for path in sources.split())


def test_the_dashboard_shows_exactly_the_metrics_that_exist(tmp_path):
    made_hook = hook(tmp_path)
    with served(Upstream()) as upstream, served(Gateway(made_hook, Relay(upstream))) as url:
        post(url, CHAT)
        post(url, b"{")
    made_hook.publish_metrics()
    keeper = Keeper(made_hook.config, made_hook.control)
    keeper.step()
    QualityMetrics(keeper.registry)
    text = (made_hook.metrics.render() + generate_latest(keeper.registry)).decode()
    keeper.close()
    metric_names = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    metric_names |= {f"{name}_bucket" for name in metric_names}
    label_names = {name: set() for name in metric_names}
    for name, label_text in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE):
        label_names.setdefault(name, set()).update(re.findall(r"(\w+)=", label_text))
    panels = json.loads((DEPLOY / "grafana" / "dashboards" / "sprout.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(expressions) > 20
    used_names = {
        name for expression in expressions for name in re.findall(r"sprout_\w+", expression)
    }
    assert used_names <= metric_names, used_names - metric_names
    # Conversely, the dashboard shows every metric.
    assert {n for n in metric_names if not n.endswith(("_bucket", "_created"))} <= {
        name.removesuffix("_bucket") for name in used_names
    }
    for expression in expressions:
        (name,) = set(re.findall(r"sprout_\w+", expression)[:1])
        groupings = set(re.findall(r"by \(([\w, ]+)\)", expression) or [""])
        for grouped_by in {
            label for grouping in groupings for label in grouping.split(", ") if label
        } - {"instance", "le"}:
            known_labels = label_names[name] | label_names[name.removesuffix("_bucket")]
            # A counter that was never incremented has no sample, so its labels are not known.
            assert not known_labels or grouped_by in known_labels, (expression, grouped_by)


def test_the_alerts_use_metrics_that_exist(tmp_path):
    names = known_metrics(tmp_path)
    groups = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 7
    for rule in rules:
        used = set(re.findall(r"sprout_\w+", rule["expr"]))
        assert used
        assert used <= names, used - names
        assert set(rule["labels"]) == {"severity"}
        assert rule["annotations"]["summary"]
    # The compose file gives Prometheus the rules.
    assert any("alerts.yaml" in volume for volume in COMPOSE["services"]["prometheus"]["volumes"])
    settings = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
    assert settings["rule_files"] == ["/etc/prometheus/alerts.yaml"]


def known_metrics(tmp_path):
    made_hook = hook(tmp_path)
    keeper = Keeper(made_hook.config, made_hook.control)
    QualityMetrics(keeper.registry)
    made_hook.publish_metrics()
    text = (made_hook.metrics.render() + generate_latest(keeper.registry)).decode()
    keeper.close()
    made_hook.close()
    return set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed here")
def test_kustomize_renders_every_manifest():
    command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes")]
    rendered = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    kinds = [document["kind"] for document in yaml.safe_load_all(rendered)]
    assert sorted(kinds) == sorted(document["kind"] for document in KUBERNETES)
