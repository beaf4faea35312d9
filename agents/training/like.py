"""The problem that a bundle was trained on, for the environments' argument `like`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.policy.bundle import Bundle, load_bundle
from agents.training.config import TAG_SHARE
from agents.training.prepared import Prepared, prepare
from envs.carbon.intensity import IntensityTrace
from envs.errors import ConfigError
from envs.outcomes.floors import floor_schedule
from envs.outcomes.limits import Limit
from envs.outcomes.objective import Objective
from envs.outcomes.profile import Profile, fingerprint
from envs.outcomes.profile_reader import read_profile
from envs.outcomes.reward import Reward
from envs.problem.problem import Problem
from envs.requests.projection import EncodedProjection

# Fields of the manifest that are the reward's too.
REWARD = ("footprint_ref_grams", "quality_l0", "floors", "quality")
# With these, all that says what a policy was trained for.
FIELDS = (*REWARD, "objective", "limits", "multipliers", "intensity", "data")
SETTINGS = ("seed", "floor_on", "floor_slack", "without")


def replay_like(
    folder: Path, profile: Profile | Path, trace: IntensityTrace, split: str
) -> Problem:
    """Return a bundle's problem on the replay of its profile.

    Args:
        folder: the bundle, made by `sprout train`.
        profile: the profile that it was trained on, or its path; may hold further prompts.
        trace: the carbon intensity that it was trained on.
        split: "train" for the bundle's training prompts, with cross-fitted features and outcomes;
            "held_out" for all others of its tasks, with the outcomes that were measured.

    Raises:
        ConfigError: the bundle does not say what it was trained on, or the inputs are others.
    """
    origin = _Origin.of(folder)
    bundle = origin.bundle
    if split == "all":
        raise ConfigError(
            "split 'all': with `like`, a training prompt is rewarded by predictions and another "
            "one by its own outcome; give split 'train' or 'held_out'"
        )
    origin.check(trace)
    if isinstance(profile, Path):
        profile = read_profile(profile, bundle.model, bundle.catalogue.names)
    if profile.directives != bundle.catalogue.names:
        raise ConfigError(
            f"like {folder}: the bundle chooses among {', '.join(bundle.catalogue.names)}, the "
            f"profile has {', '.join(profile.directives)}"
        )
    data = origin.fields["data"]
    hashes = set(data["prompt_hashes"])
    prompts = profile.select([r.prompt_hash in hashes for r in profile.requests])
    if not prompts.requests or fingerprint(prompts) != data["fingerprint"]:
        raise ConfigError(
            f"like {folder}: the bundle was trained on another profile; give the --outcomes of its "
            "training"
        )
    problem = origin.problem(trace)
    if split == "held_out":
        # Live training prompts are not new either.
        seen, tasks = bundle.prompt_hashes, bundle.featurizer.tasks
        others = profile.select(
            [r.prompt_hash not in seen and r.task in tasks for r in profile.requests]
        )
        if not others.requests:
            raise ConfigError(
                f"like {folder}, split 'held_out': the bundle was trained on every prompt of the "
                "profile; train it with --hold-out"
            )
        return replace(problem, replayed=others)
    prepared = _prepared(origin, prompts, trace)
    outcomes = replace(prepared.expected.outcomes, energy_method="predicted")
    expected = replace(prepared.expected, outcomes=outcomes)
    return replace(problem, replayed=expected, parts=prepared.parts)


def live_like(folder: Path, trace: IntensityTrace) -> Problem:
    """Return a bundle's problem on a live server.

    Args and errors: as `replay_like`.
    """
    origin = _Origin.of(folder)
    origin.check(trace)
    problem = origin.problem(trace)
    if problem.reward.quality != "correct":
        raise ConfigError(
            f"like {folder}: the bundle keeps {problem.reward.quality}, which live answers do not "
            "have, because no judge compares them"
        )
    return problem


# The last prepared profile, by the bundle's version: several environments of one problem are common
# and each preparation fits all models anew.
_last: tuple[str, Prepared] | None = None


def _prepared(origin: "_Origin", prompts: Profile, trace: IntensityTrace) -> Prepared:
    global _last
    if _last is None or _last[0] != origin.bundle.version:
        text = origin.bundle.featurizer.text
        prepared = prepare(
            prompts,
            origin.fields["floors"],
            float(trace.g_per_kwh.mean()),
            quality=origin.fields["quality"],
            floor_on=origin.fields["floor_on"],
            seed=origin.fields["seed"],
            vectors=text.vectors if isinstance(text, EncodedProjection) else None,
        )
        _last = origin.bundle.version, prepared
    return _last[1]


@dataclass(frozen=True)
class _Origin:
    """A bundle, and the fields that say what it was trained for (`FIELDS` and `SETTINGS`)."""

    folder: Path
    bundle: Bundle
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> "_Origin":
        """Load a bundle; raise ConfigError if it does not say what it was trained for."""
        bundle = load_bundle(folder)
        fields = problem_of(bundle)
        if missing := [name for name in (*FIELDS, *SETTINGS) if name not in fields]:
            raise ConfigError(
                f"like {folder}: manifest.json does not say {missing[0]!r}; give a bundle of "
                "`sprout train`, or one that was made from a checkpoint with --like"
            )
        return cls(folder, bundle, fields)

    def check(self, trace: IntensityTrace) -> None:
        """Raise ConfigError if the trace is not that of the training."""
        trained = self.fields["intensity"]
        if trained["sha256"] != trace.sha256:
            raise ConfigError(
                f"like {self.folder}: the bundle was trained on other hours (zone "
                f"{trained['zone']}, {trained['source']}); give the intensity and zone of its "
                "training"
            )

    def problem(self, trace: IntensityTrace) -> Problem:
        """Return the problem of the training, without outcomes to replay."""
        return Problem(
            self.bundle.featurizer,
            self._reward(trace),
            tag_share=TAG_SHARE,
            catalogue=self.bundle.catalogue,
            hidden=hidden_features(self.bundle),
        )

    def _reward(self, trace: IntensityTrace) -> Reward:
        """Return the reward of the training, with the prices of its floors."""
        reward = Reward(
            **{name: self.fields[name] for name in REWARD},
            limits={task: Limit(**limit) for task, limit in self.fields["limits"].items()},
            floor_schedule=floor_schedule(trace, self.fields["floor_slack"]),
            objective=Objective.from_manifest(self.fields["objective"]),
        )
        limited = [name for name in reward.constraints if name not in reward.floors]
        reward.latency_prices = dict.fromkeys(limited, 0.0)
        reward.set_multipliers(self.fields["multipliers"])
        return reward


def problem_of(bundle: Bundle) -> dict[str, Any]:
    """Return what a bundle was trained for: those of `FIELDS` and `SETTINGS` that are known.

    A bundle that was made from a checkpoint has them in its manifest's entry "problem": they are
    not about its own policy.
    """
    if "problem" in bundle.manifest:
        return dict(bundle.manifest["problem"])
    known = {**bundle.manifest.get("training", {}), **bundle.manifest}
    return {name: known[name] for name in (*FIELDS, *SETTINGS) if name in known}


def hidden_features(bundle: Bundle) -> tuple[int, ...]:
    """Return the indices of the features that the training hid from its policy."""
    groups = problem_of(bundle).get("without", ())
    return tuple(sorted({int(i) for g in groups for i in bundle.featurizer.groups[g]}))
