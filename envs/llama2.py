"""The Gymnasium environments over `envs.world.World`: one request a step, or many."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.arrays import AnyArray, BoolArray, Float32Array, Int64Array
from envs.requests.features import Featurizer
from envs.world import Step, World


def observation_space(featurizer: Featurizer) -> Any:
    """The Box of a featurizer's observations."""
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

    A request that says itself how long its answer is to be (`own_length`) is answered
    at L0 whatever the action; `action_masks()` tells which actions count.

    ## Observation Space
    `Box` of float32, shape (n_features,): the prompt's structure, what a trained bundle's
    featurizer foretells from its words (none without one), the task's tag (one `task=`
    component a known task), then the context, and with a bundle's featurizer what each
    directive would spare now (one `spared=` component each but L0).

    | Name | Unit | Low | High | Meaning |
    |---|---|---|---|---|
    | log_tokens | ln(1+tokens) | 0 | 16 | prompt tokens, estimated at 4 characters each |
    | log_words | ln(1+words) | 0 | 16 | words and numbers of what is read |
    | log_sentences | ln(1+n) | 0 | 12 | full stops, exclamation marks and lines |
    | numbers | count | 0 | 32 | numbers written in digits |
    | options | count | 0 | 16 | options marked by a letter, as (A) or A) |
    | questions | count | 0 | 8 | question marks |
    | quantity | 0/1 | 0 | 1 | asks how many or how much |
    | explain | 0/1 | 0 | 1 | asks why or how, or for an explanation or steps |
    | write | 0/1 | 0 | 1 | asks to write, list, summarise or translate |
    | format | 0/1 | 0 | 1 | asks for JSON, a table, or another fixed format |
    | own_length | 0/1 | 0 | 1 | says how long the answer is to be: it is left alone |
    | code | 0/1 | 0 | 1 | contains code |
    | turns | count | 0 | 32 | messages of the chat |
    | system | 0/1 | 0 | 1 | the caller sent a system text |
    | in_flight | requests | 0 | 1024 | requests at the server when this one is sent |
    | log_intensity | ln(1+gCO2e/kWh) | 0 | 8 | the grid's intensity now |
    | recent_place | ratio | 0 | 1 | its place in the trailing 24 hours' range |
    | coming_place | ratio | 0 | 1 | share of the next 24 hours that are cleaner |
    | hour_sin | sin | -1 | 1 | hour of day (UTC), as an angle |
    | hour_cos | cos | -1 | 1 | hour of day (UTC), as an angle |

    ## Rewards
    The sum of `info["terms"]`: `footprint` (minus the request's gCO2e over the mean
    L0 footprint), `quality` (the task's multiplier times the margin of quality over
    the floor, relative to L0), `latency` (0 unless a task has a limit). See `envs.outcomes.reward`.

    ## Starting State
    A request drawn from the workload (uniformly, or by a mix of tasks), at a random
    hour of the trace.

    ## Episode End
    Never terminated; truncated after `episode_requests` requests (default 64).

    ## Arguments
    `world`: the backend (live or replay), workload, trace, clock and reward. Through
    `gymnasium.make("envs.registration:sprout/Llama2Live-v0", upstream=URL)`, see
    `envs.registration` for what else can be given.

    ## Version History
    * v0: initial version.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, world: World) -> None:
        if world.lanes != 1:
            raise ValueError("Llama2Env takes a world of one lane")
        self.world = world
        self.observation_space = observation_space(world.featurizer)
        self.action_space = spaces.Discrete(world.n_directives)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Begin an episode; see the class."""
        super().reset(seed=seed)
        return self.world.reset(seed)[0], {}

    def step(self, action: np.int64) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Send one request under `action`; see the class."""
        step = self.world.step(np.array([action]))
        # A quality that is unknown is left out: NaN equals nothing, not even itself.
        info = {
            name: values[0] for name, values in step_info(step).items() if values[0] == values[0]
        }
        info["terms"] = {name: float(values[0]) for name, values in step.terms.items()}
        info["energy_method"] = step.outcomes.energy_method
        return step.observations[0], float(step.rewards[0]), False, step.truncated, info

    def action_masks(self) -> BoolArray:
        """Which actions the request allows, shape (n_directives,)."""
        mask: BoolArray = self.world.action_masks()[0]
        return mask

    def close(self) -> None:
        """Close the backend's connections."""
        self.world.backend.close()


class Llama2VectorEnv(VectorEnv[Float32Array, Int64Array, AnyArray]):
    """Many lanes of `Llama2Env` at once: one call sends all lanes' requests together.

    On a live server its batching is used; on a replay a step is array arithmetic.
    Autoreset is in the same step: the returned observations begin the next episode
    and the last ones are `info["final_obs"]`.
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
        return self.world.reset(seed), {}

    def step(
        self, actions: Int64Array
    ) -> tuple[Float32Array, AnyArray, AnyArray, AnyArray, dict[str, Any]]:
        """Send every lane's request under its action."""
        step = self.world.step(actions)
        info: dict[str, Any] = {**step_info(step), "terms": step.terms}
        info["energy_method"] = np.full(self.num_envs, step.outcomes.energy_method)
        observations = step.observations
        if step.truncated:
            info["final_obs"] = observations
            observations = self.world.reset()
        flags = np.full(self.num_envs, step.truncated)
        return observations, step.rewards, np.zeros(self.num_envs, dtype=bool), flags, info

    def action_masks(self) -> BoolArray:
        """Which actions each lane's request allows, shape (lanes, n_directives)."""
        return self.world.action_masks()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the backend's connections."""
        self.world.backend.close()


def step_info(step: Step) -> dict[str, AnyArray]:
    """What a step reports beside the reward; arrays of shape (lanes,)."""
    outcomes = step.outcomes
    return {
        "completion_tokens": outcomes.completion_tokens,
        "energy_joules": outcomes.energy_joules,
        "latency_seconds": outcomes.latency_seconds,
        "correct": outcomes.correct,
        "preference": outcomes.preference,
        "footprint_grams": step.grams,
        "carbon_intensity": step.intensity,
        "row": step.rows,
    }
