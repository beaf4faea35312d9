"""`sprout explain`: explain a policy's choice for one request, and the policy as a whole."""

import base64
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.table import Table

from agents.methods.bundle import Learned
from agents.methods.scene import build_scene
from agents.policy.bundle import Bundle, load_bundle
from agents.policy.explain import Tree, contributions, distil, turning_points
from agents.policy.pricing import Floors, floors_from
from envs.carbon.csv_traces import chosen_trace
from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError
from envs.outcomes.profile_reader import read_profile
from envs.outcomes.stated_floors import ANY_TASK, read_floors
from envs.requests.features import GROUPS
from envs.requests.moment import Moment
from experiments.console import table_console
from experiments.operate.on_ledger import OnLedger
from experiments.operate.why import REASONS, explained
from experiments.settings import write_json
from serving.hook.decider import Decider, Decision, DecisionInput
from serving.hook.grid import GridState


class Explain(OnLedger):
    """Explain a decision of the ledger (--decision), a prompt's (--request), or all (--outcomes).

    --outcomes approximates the policy by a small tree.
    """

    policy: CliPositionalArg[Path] = Field(description="folder of the policy bundle")
    decision: str | None = Field(
        None, description="decision id, from the header x-sprout-decision-id, of --ledger"
    )
    request: str | None = Field(None, description="a prompt, or a file that contains one")
    task: str | None = Field(None, description="the request's task tag")
    at: float | None = Field(
        None, ge=0, description="carbon intensity, gCO2e/kWh; default: the trace's mean"
    )
    floor: str | None = Field(
        None,
        description="floors in place of the policy's own: a ratio, TASK=RATIO,... or a YAML file",
    )
    outcomes: Path | None = Field(None, description="profile whose prompts the tree is fitted to")
    intensity: list[Path] = Field(
        [],
        description="CSV traces of carbon intensity, or folders of them; default: a synthetic day",
    )
    zone: str | None = Field(None, description="zone of the traces to use; default: all")
    leaves: int = Field(12, ge=2, le=12, description="largest number of leaves of the tree")
    json_path: Path | None = Field(None, alias="json", description="file for the result as JSON")

    def cli_cmd(self) -> None:
        """Explain, print, and write the result as JSON if asked to."""
        if self.decision is None and self.request is None and self.outcomes is None:
            raise ConfigError(
                "give --decision to explain a recorded decision, --request for a prompt, or "
                "--outcomes for the tree"
            )
        bundle = load_bundle(self.policy)
        trace = chosen_trace(self.intensity, self.zone)
        result: dict[str, Any] = {"schema": 1, "policy": bundle.version}
        console = table_console()
        if self.decision is not None:
            result["recorded"] = recorded = self._recorded(bundle, self.decision)
            console.print(recorded["text"], soft_wrap=True, markup=False, highlight=False)
        if self.request is not None:
            decision = self._decision(bundle, trace, self.request)
            show(console, decision)
            result["decision"] = decision
        if self.outcomes is not None:
            tree = self._tree(bundle, trace, self.outcomes)
            console.print(
                f"[bold]a tree of {tree.leaves} leaves[/] chooses the policy's likeliest "
                f"directive in {tree.fidelity:.1%} of new cases (always choosing the most "
                f"frequent directive: {tree.usual:.1%})"
            )
            print(tree.rules)
            result["tree"] = {**vars(tree)}
        write_json(self.json_path, result)

    def _recorded(self, bundle: Bundle, decision: str) -> dict[str, Any]:
        with closing(self.open()) as ledger:
            record, shown = ledger.find(decision), ledger.shown
        if record is None:
            raise ConfigError(f"--decision {decision}: {shown} has no such decision (yet)")
        reason, version = record["reason"], record["policy_version"]
        text = REASONS.get(reason)
        if reason == "rule":
            text = f"{record['directive']}, because rule {record['rule']!r} says so"
        elif reason == "sticky":
            text = f"{record['directive']}, as in the conversation's earlier turns"
        if text is not None:
            text = text if record["applied"] else f"would have been {text} (mode shadow)"
            return {"decision_id": decision, "reason": reason, "text": text}
        if version != bundle.version:
            raise ConfigError(
                f"--decision {decision}: policy {version} decided it, and {self.policy} is "
                f"{bundle.version}; give the folder of {version}"
            )
        features = np.frombuffer(base64.b64decode(record["features"]), np.float32)
        return explained(bundle, record, features)

    def _decision(self, bundle: Bundle, trace: IntensityTrace, request: str) -> dict[str, Any]:
        if self.task is not None and self.task not in bundle.featurizer.tasks:
            known = ", ".join(bundle.featurizer.tasks)
            raise ConfigError(
                f"--task {self.task}: the policy does not know it; give one of {known}"
            )
        path = Path(request)
        is_file = len(request) < 256 and path.is_file()
        text = path.read_text(encoding="utf-8") if is_file else request
        chat = [{"role": "user", "content": text}]
        level = float(trace.g_per_kwh.mean()) if self.at is None else self.at
        names = bundle.catalogue.names
        floors = Floors()
        if self.floor is not None:
            floors = floors_from(read_floors(self.floor), "start")
        asked = _Asked(bundle, chat, trace, level)
        decision = asked.decision(self.task, floors)
        if not decision.steerable:
            return {"directive": names[0], "reason": "own_length", "intensity_g_per_kwh": level}
        observation, probabilities = decision.observation, decision.probabilities
        first, second = np.argsort(probabilities)[::-1][:2]
        by_tag = {
            str(tag): asked.likeliest(tag, floors) for tag in (None, *bundle.featurizer.tasks)
        }
        return {
            "directive": names[first],
            "reason": "policy",
            "intensity_g_per_kwh": level,
            "probabilities": dict(zip(names, probabilities, strict=True)),
            "against": names[second],
            "contributions": contributions(
                bundle.policy, bundle.featurizer, observation, int(first), int(second)
            ),
            "price": decision.price,
            "floor": None if decision.floor is None else decision.floor.ratio,
            "by_floor": asked.by_floor(self.task),
            "by_intensity": [
                {"from_g_per_kwh": threshold, "directive": names[action]}
                for threshold, action in turning_points(
                    bundle.policy, bundle.featurizer, observation
                )
            ],
            "by_task_tag": by_tag,
        }

    def _tree(self, bundle: Bundle, trace: IntensityTrace, outcomes: Path) -> Tree:
        profile = read_profile(outcomes)
        quality = str(bundle.manifest.get("quality", "correct"))
        scene = build_scene(profile, [trace], dict.fromkeys(profile.tasks, 0.0), quality=quality)
        observations, _ = Learned(bundle).observations(scene, Floors())
        return distil(
            bundle.policy,
            bundle.featurizer,
            observations,
            dict(enumerate(bundle.catalogue.names)),
            self.leaves,
        )


# Floors at which a request's directive is shown.
_FLOORS = np.arange(0.5, 1.0001, 0.005)


class _Asked:
    """The hook's decisions for a chat at noon, with no load.

    Args:
        level: carbon intensity, gCO2e/kWh, taken to be in the middle of the day's range.
    """

    def __init__(
        self, bundle: Bundle, chat: list[Any], trace: IntensityTrace, level: float
    ) -> None:
        self._decider, self._chat = Decider(bundle), chat
        noon = trace.start + 12 * 3600.0
        half = np.full(1, 0.5)
        moment = Moment(np.zeros(1), np.array([level]), half, half, np.array([noon]))
        reading = replace(trace.reading(noon), g_per_kwh=level)
        self._grid = GridState(reading, moment)

    def decision(self, task: str | None, floors: Floors) -> Decision:
        """Return the decision under a task's tag; None for no tag."""
        return self._decider.decide(DecisionInput(self._chat, task, 0, floors, self._grid))

    def likeliest(self, task: str | None, floors: Floors) -> str:
        """Return the name of the most probable directive."""
        chances = self.decision(task, floors).probabilities
        return self._decider.bundle.catalogue.names[int(np.argmax(chances))]

    def by_floor(self, task: str | None) -> list[dict[str, Any]]:
        """Return the most probable directive from each floor on; none if floors change nothing."""
        if self._decider.bundle.front is None:
            return []
        turns: list[dict[str, Any]] = []
        for floor in _FLOORS.round(3).tolist():
            name = self.likeliest(task, floors_from({ANY_TASK: floor}, "start"))
            if not turns or turns[-1]["directive"] != name:
                turns.append({"from_floor": floor, "directive": name})
        return turns


def show(console: Console, decision: dict[str, Any]) -> None:
    """Print the explanation of a decision."""
    level = decision["intensity_g_per_kwh"]
    console.print(f"[bold]{decision['directive']}[/] at {level:.0f} gCO2e/kWh")
    if decision["reason"] != "policy":
        console.print("not steered: the request itself states the length of its answer")
        return
    probabilities = ", ".join(f"{name} {p:.3f}" for name, p in decision["probabilities"].items())
    console.print(f"probabilities: {probabilities}")
    table = Table("feature group", f"adds to the log-odds against {decision['against']}", box=None)
    for group in sorted(GROUPS, key=lambda g: -abs(decision["contributions"][g])):
        table.add_row(group, f"{decision['contributions'][group]:+.2f}")
    console.print(table)
    if decision["price"] is not None:
        floor = decision["floor"]
        console.print(
            f"price of quality: {decision['price']:.3g} times the mean cost of a request without a "
            f"directive{'' if floor is None else f', for a floor of {floor:.4g}'}"
        )
    if decision["by_floor"]:
        turns = [f"from {t['from_floor']:g} {t['directive']}" for t in decision["by_floor"]]
        console.print(f"by floor: {'; '.join(turns)}")
    ranges = "; ".join(
        f"from {turn['from_g_per_kwh']:.0f} g/kWh {turn['directive']}"
        for turn in decision["by_intensity"]
    )
    console.print(f"by carbon intensity: {ranges}")
    tags = ", ".join(f"{tag}: {name}" for tag, name in decision["by_task_tag"].items())
    console.print(f"by task tag: {tags}")
