"""`sprout explain`: why a policy chooses what it does, for a request and as a whole."""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.table import Table

from agents.methods.scene import build_scene
from agents.policy.bundle import Bundle, load_bundle
from agents.policy.explain import Tree, contributions, distilled, turning_points
from envs.arrays import Float32Array
from envs.carbon.csv_traces import chosen_trace
from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError
from envs.outcomes.floors import BANDS
from envs.outcomes.profile_reader import read_profile
from envs.outcomes.reward import untagged
from envs.requests.features import GROUPS
from envs.world import moment_on
from experiments.settings import Settings, write_json


class Explain(Settings):
    """Explain one decision (--request), and distil the whole policy (--outcomes) to a tree."""

    policy: CliPositionalArg[Path] = Field(description="policy bundle")
    request: str | None = Field(None, description="a prompt, or a file that holds one")
    task: str | None = Field(None, description="the request's task tag")
    at: float | None = Field(
        None, ge=0, description="carbon intensity, g/kWh; default the trace's mean"
    )
    outcomes: Path | None = Field(None, description="profile whose prompts the tree is grown on")
    intensity: list[Path] = Field(
        [], description="intensity CSVs or folders of them; default the synthetic day"
    )
    zone: str | None = Field(None, description="one zone; default all that were given")
    leaves: int = Field(12, ge=2, le=12, description="most leaves of the tree")
    json_path: Path | None = Field(None, alias="json", description="machine-readable result")

    def cli_cmd(self) -> None:
        """Explain, print, write."""
        if self.request is None and self.outcomes is None:
            raise ConfigError("give --request to explain a decision, --outcomes for the tree")
        bundle = load_bundle(self.policy)
        trace = chosen_trace(self.intensity, self.zone)
        result: dict[str, Any] = {"schema": 1, "policy": bundle.version}
        console = Console()
        if self.request is not None:
            found = self._decision(bundle, trace, self.request)
            show(console, found)
            result["decision"] = found
        if self.outcomes is not None:
            tree = self._tree(bundle, trace, self.outcomes)
            console.print(
                f"[bold]the policy as a tree of {tree.leaves} leaves[/] takes the policy's "
                f"likeliest directive in {tree.fidelity:.1%} of new cases (always the most "
                f"frequent one: {tree.usual:.1%})"
            )
            print(tree.rules)
            result["tree"] = {**vars(tree)}
        write_json(self.json_path, result)

    def _decision(self, bundle: Bundle, trace: IntensityTrace, request: str) -> dict[str, Any]:
        if self.task is not None and self.task not in bundle.featurizer.tasks:
            known = ", ".join(bundle.featurizer.tasks)
            raise ConfigError(f"--task {self.task}: the policy knows {known}")
        path = Path(request)
        known_file = len(request) < 256 and path.is_file()
        text = path.read_text(encoding="utf-8") if known_file else request
        chat = [{"role": "user", "content": text}]
        level = float(trace.g_per_kwh.mean()) if self.at is None else self.at
        names = bundle.catalogue.names
        seen = _observation(bundle, chat, self.task, trace, level)
        if not bundle.featurizer.steerable(seen[None])[0]:
            return {"directive": names[0], "reason": "own_length", "intensity_g_per_kwh": level}
        chance = bundle.policy.probabilities(seen[None])[0]
        first, second = np.argsort(-chance)[:2]
        tags = (None, *bundle.featurizer.tasks)
        by_tag = {
            str(tag): names[
                int(
                    bundle.policy.probabilities(
                        _observation(bundle, chat, tag, trace, level)[None]
                    )[0].argmax()
                )
            ]
            for tag in tags
        }
        return {
            "directive": names[first],
            "reason": "policy",
            "intensity_g_per_kwh": level,
            "probabilities": dict(zip(names, chance.tolist(), strict=True)),
            "against": names[second],
            "contributions": contributions(
                bundle.policy, bundle.featurizer, seen, int(first), int(second)
            ),
            "price_of_quality": _price(bundle, self.task),
            "by_intensity": [
                {"from_g_per_kwh": level, "directive": names[action]}
                for level, action in turning_points(bundle.policy, bundle.featurizer, seen)
            ],
            "by_task_tag": by_tag,
        }

    def _tree(self, bundle: Bundle, trace: IntensityTrace, outcomes: Path) -> Tree:
        profile = read_profile(outcomes)
        quality = str(bundle.manifest.get("quality", "correct"))
        scene = build_scene(profile, [trace], dict.fromkeys(profile.tasks, 0.0), quality=quality)
        return distilled(
            bundle.policy,
            bundle.featurizer,
            scene.observations(bundle.featurizer, task_tags=True),
            dict(enumerate(bundle.catalogue.names)),
            self.leaves,
        )


def _observation(
    bundle: Bundle, chat: list[Any], task: str | None, trace: IntensityTrace, level: float
) -> Float32Array:
    """The chat in the middle of the trace's range of a day, at noon, with no load."""
    noon = np.array([trace.start + 12 * 3600.0])
    part = bundle.featurizer.request(chat, task)[None]
    at_noon = bundle.featurizer.observe(part, moment_on(trace, noon, np.zeros(1)))
    seen: Float32Array = bundle.featurizer.at_intensity(at_noon, np.array([level]))[0]
    for name in ("recent_place", "coming_place"):
        seen[bundle.featurizer.names.index(name)] = 0.5
    return seen


def _price(bundle: Bundle, task: str | None) -> dict[str, float]:
    """What a hundredth of L0's quality is worth: milligrams of CO2e, by task."""
    grams = bundle.manifest.get("footprint_ref_grams")
    multipliers = bundle.manifest.get("multipliers", {})
    if grams is None:
        return {}
    tasks = bundle.featurizer.tasks if task is None else (task,)
    named = [name for t in tasks for name in (t, *(f"{t}, {band}" for band in BANDS))]
    names = named if task is not None else [untagged(name) for name in named]
    return {name: 1000 * grams * multipliers[name] / 100 for name in names if name in multipliers}


def show(console: Console, found: dict[str, Any]) -> None:
    """Print a decision's explanation."""
    level = found["intensity_g_per_kwh"]
    console.print(f"[bold]{found['directive']}[/] at {level:.0f} gCO2e/kWh")
    if found["reason"] != "policy":
        console.print("left alone: the request says itself how long its answer is to be")
        return
    shares = ", ".join(f"{name} {p:.3f}" for name, p in found["probabilities"].items())
    console.print(f"probabilities: {shares}")
    table = Table("feature group", f"adds to the log-odds against {found['against']}", box=None)
    for group in sorted(GROUPS, key=lambda g: -abs(found["contributions"][g])):
        table.add_row(group, f"{found['contributions'][group]:+.2f}")
    console.print(table)
    for name, milligrams in found["price_of_quality"].items():
        console.print(f"price of 1% of L0's quality, {name}: {milligrams:.3g} mg CO2e")
    spans = "; ".join(
        f"from {turn['from_g_per_kwh']:.0f} g/kWh {turn['directive']}"
        for turn in found["by_intensity"]
    )
    console.print(f"by carbon intensity: {spans}")
    tags = ", ".join(f"{tag}: {name}" for tag, name in found["by_task_tag"].items())
    console.print(f"by task tag: {tags}")
