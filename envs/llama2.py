"""The Gymnasium environments around `envs.world.World`: scalar and vector."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.arrays import AnyArray, BoolArray, Float32Array, Int64Array
from envs.errors import ConfigError
from envs.requests.features import Featurizer
from envs.world import Step, World


class RenderModeError(ConfigError, TypeError):
    """The environment has no such render mode.

    It is a TypeError too, because stable-baselines3's `make_vec_env` tries "rgb_array" first.
    """


def observation_space(featurizer: Featurizer) -> Any:
    """Return the Box space of a featurizer's observations."""
    return spaces.Box(featurizer.low, featurizer.high, dtype=np.float32)


class Llama2Env(gymnasium.Env[Float32Array, np.int64]):
    """Choose a generation directive for each request to a Llama server.

    ## Action Space
    `Discrete(n)`: the index of a directive in the catalogue. The default catalogue:

    | Action | Directive | System text added |
    |---|---|---|
    | 0 | none | |
    | 1 | brief | Always answer briefly. |
    | 2 | very_brief | Always answer very briefly. |

    Action 0 is L0: it leaves the request unchanged. A request that states the length of
    its own answer (`own_length`) is always answered at L0; `action_masks()` returns which
    actions have an effect.

    ## Observation Space
    `Box` of float32, shape (n_features,), in this order: the prompt's structure; the
    predictions that a trained bundle's featurizer makes from the prompt's words (only with
    such a featurizer); the task's tag (one `task=` component per known task); the context;
    and the saving that the featurizer predicts now for each directive except L0 (one
    `spared=` component each, only with a trained featurizer).

    | Name | Unit | Low | High | Meaning |
    |---|---|---|---|---|
    | log_tokens | ln(1+tokens) | 0 | 16 | prompt tokens, estimated at 4 characters each |
    | log_words | ln(1+words) | 0 | 16 | words and numbers in the part that is read |
    | log_sentences | ln(1+n) | 0 | 12 | full stops, exclamation marks and lines |
    | numbers | count | 0 | 32 | numbers written in digits |
    | options | count | 0 | 16 | options marked by a letter, as (A) or A) |
    | questions | count | 0 | 8 | question marks |
    | quantity | 0/1 | 0 | 1 | asks how many or how much |
    | explain | 0/1 | 0 | 1 | asks why or how, or for an explanation or steps |
    | write | 0/1 | 0 | 1 | asks to write, list, summarise or translate |
    | format | 0/1 | 0 | 1 | asks for JSON, a table, or another fixed format |
    | own_length | 0/1 | 0 | 1 | states the length of its own answer: never steered |
    | code | 0/1 | 0 | 1 | contains code |
    | turns | count | 0 | 32 | messages of the chat |
    | system | 0/1 | 0 | 1 | the caller sent a system text |
    | in_flight | requests | 0 | 1024 | requests at the server when this one is sent |
    | log_price | ln(ratio) | -7 | 7 | price of the request's quality; 0 if none is shown |
    | log_latency_price | ln(ratio) | -7 | 7 | price of its latency's limits; 0 if none is shown |
    | log_intensity | ln(1+gCO2e/kWh) | 0 | 8 | the grid's intensity now |
    | recent_place | ratio | 0 | 1 | its place in the trailing 24 hours' range |
    | coming_place | ratio | 0 | 1 | share of the next 24 hours that are cleaner (looks ahead) |
    | hour_sin | sin | -1 | 1 | hour of day (UTC), as an angle |
    | hour_cos | cos | -1 | 1 | hour of day (UTC), as an angle |

    ## Rewards
    The sum of `info["terms"]`: `footprint` (minus the request's gCO2e divided by the mean
    L0 footprint), `quality` (the task's multiplier times the margin of quality over the
    floor, both relative to L0; under the default multipliers no task is better off breaking its
    floor), and `latency` (0 unless a task has a limit). See
    `envs.outcomes.reward`. With `price_range` the multipliers are drawn for each episode
    (log-uniform), shown as `log_price`, and the reward is divided by 1 + the price; so one policy
    can learn every floor.

    With `reward_mode="footprint"` the reward is the footprint's term alone, and the constraints are
    left to the algorithm: `info["costs"]` holds the cost of each (a floor's: the floor less the
    quality relative to L0; in the mean it must be at most 0), `info["cost"]` their sum. `info` also
    holds the task, whether the observation showed its tag (`tagged`), the directive that was
    executed, and the next request's action mask.

    ## Starting State
    A request drawn from the workload (uniformly, or by a mix of tasks), at a random
    hour of the trace.

    ## Episode End
    Episodes never terminate; they are truncated after `max_episode_steps` requests (default 64).

    ## Arguments
    `world`: the backend (live or replay), workload, trace, clock and reward.
    `gymnasium.make("envs.registration:sprout/Llama2Live-v0", upstream=URL)` builds the
    world from keyword arguments: quality, floors, multipliers, `price_range`, `like` (a policy
    bundle whose problem this is), the split of the prompts, and others;
    `envs.problem.arguments` lists them.

    ## Version History
    * v0: initial version.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012

    def __init__(self, world: World, render_mode: str | None = None) -> None:
        if world.lanes != 1:
            raise ValueError(f"Llama2Env takes a world of one lane, not {world.lanes}")
        if render_mode not in (None, "ansi"):
            raise RenderModeError(f"render_mode {render_mode!r}: give 'ansi' or None")
        self.render_mode = render_mode
        self.world = world
        self._shown = ""
        self.observation_space = observation_space(world.featurizer)
        self.action_space = spaces.Discrete(world.n_directives)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Begin an episode; return its first observation, and the mask of the allowed actions."""
        super().reset(seed=seed)
        self._shown = ""
        observation = self.world.reset(seed)[0]
        return observation, {"action_mask": self.action_masks()}

    def step(self, action: np.int64) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Send one request under `action`; return the next observation and the reward.

        `info` holds the request's outcome (`step_info`), without unknown qualities.
        """
        step = self.world.step(np.array([action]))
        # Leave out unknown qualities: NaN is not equal to itself.
        info = {
            name: values[0] for name, values in step_info(step).items() if values[0] == values[0]
        }
        info["terms"] = {name: float(values[0]) for name, values in step.terms.items()}
        info["costs"] = {name: float(values[0]) for name, values in step.costs.items()}
        info["energy_method"] = step.outcomes.energy_method
        info["task"] = str(self.world.tasks[step.rows[0]])
        info["action_mask"] = self.action_masks()
        if self.render_mode == "ansi":
            self._shown = _shown(info)
        return step.observations[0], float(step.rewards[0]), False, step.truncated, info

    def render(self) -> str | None:
        """Return the last request, its choice and its costs as text, if render_mode is "ansi"."""
        return self._shown if self.render_mode == "ansi" else None

    def action_masks(self) -> BoolArray:
        """Return a mask of the actions that the request allows, shape (n_directives,)."""
        mask: BoolArray = self.world.action_masks()[0]
        return mask

    def close(self) -> None:
        """Close the backend's connections."""
        self.world.backend.close()


class Llama2VectorEnv(VectorEnv[Float32Array, Int64Array, AnyArray]):
    """Many lanes of `Llama2Env`: one step sends the requests of all lanes together.

    A live server can batch them; on a replay, a step is array arithmetic. Autoreset
    happens in the same step: when an episode ends, the returned observations are the first
    of the next episode, and the last of the ended episode are in `info["final_obs"]`.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, world: World) -> None:
        self.world = world
        self.num_envs = world.lanes
        self.single_observation_space = observation_space(world.featurizer)
        self.single_action_space = spaces.Discrete(world.n_directives)
        self.observation_space = batch_space(self.single_observation_space, world.lanes)
        self.action_space = batch_space(self.single_action_space, world.lanes)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Begin an episode in every lane; seed s seeds lane i with s + i."""
        observations = self.world.reset(seed)
        everywhere = np.ones(self.num_envs, dtype=bool)
        return observations, {"action_mask": self.action_masks(), "_action_mask": everywhere}

    def step(
        self, actions: Int64Array
    ) -> tuple[Float32Array, AnyArray, AnyArray, AnyArray, dict[str, Any]]:
        """Send each lane's request under its action; begin the next episode when this one ends."""
        step = self.world.step(actions)
        info: dict[str, Any] = {**step_info(step), "terms": step.terms, "costs": step.costs}
        info["energy_method"] = np.full(self.num_envs, step.outcomes.energy_method)
        info["task"] = self.world.tasks[step.rows]
        info["action_mask"] = self.action_masks()
        everywhere = np.ones(self.num_envs, dtype=bool)
        for name, values in list(info.items()):
            # As Gymnasium's own vector environments mark which of them have a value.
            known = everywhere
            if isinstance(values, np.ndarray) and values.dtype.kind == "f":
                known = ~np.isnan(values)
            info[f"_{name}"] = known
        observations = step.observations
        if step.truncated:
            info["final_obs"], info["_final_obs"] = observations, everywhere
            observations = self.world.reset()
        terminated = np.zeros(self.num_envs, dtype=bool)
        truncated = np.full(self.num_envs, step.truncated)
        return observations, step.rewards, terminated, truncated, info

    def action_masks(self) -> BoolArray:
        """Return a mask of the actions that each lane's request allows, (lanes, n_directives)."""
        return self.world.action_masks()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the backend's connections."""
        self.world.backend.close()


def step_info(step: Step) -> dict[str, AnyArray]:
    """Return the `info` arrays of a step, each of shape (lanes,): outcomes, gCO2e, intensity."""
    outcomes = step.outcomes
    cost = np.zeros(len(step.rows))
    for values in step.costs.values():
        cost += values
    return {
        "completion_tokens": outcomes.completion_tokens,
        "energy_joules": outcomes.energy_joules,
        "latency_seconds": outcomes.latency_seconds,
        "correct": outcomes.correct,
        "preference": outcomes.preference,
        "footprint_grams": step.grams,
        "carbon_intensity": step.intensity,
        "row": step.rows,
        "action": step.actions,
        "tagged": step.tagged,
        "cost": cost,
    }


def _shown(info: dict[str, Any]) -> str:
    """Return five lines about an answered request."""
    quality = info.get("correct", info.get("preference"))
    costs = {name: cost for name, cost in info["costs"].items() if cost}
    return "\n".join(
        (
            f"request: task {info['task']}, row {info['row']}",
            f"choice: directive {info['action']}, at {info['carbon_intensity']:.0f} gCO2e/kWh",
            f"answer: {info['completion_tokens']:.0f} tokens in {info['latency_seconds']:.2f} s, "
            f"quality {'unknown' if quality is None else f'{quality:.2f}'}",
            f"cost: {info['energy_joules']:.3g} J ({info['energy_method']}), "
            f"{1000 * info['footprint_grams']:.3g} mgCO2e",
            "constraints: "
            + (", ".join(f"{name} {cost:+.2f}" for name, cost in costs.items()) or "none"),
        )
    )
