"""Adapters for stable-baselines3: vector environment, normaliser, import and export of weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers.vector import DictInfoToList
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
from torch.distributions import Distribution

from agents.policy.network import CLIP, Policy
from envs.arrays import Float32Array, Int64Array
from envs.errors import ConfigError
from envs.llama2 import Llama2VectorEnv


class Normaliser(BaseFeaturesExtractor):
    """Observation normaliser inside the network: clip((x - mean) * scale, -CLIP, CLIP).

    SB3's own VecNormalize would need a separate pickle file beside the policy.

    Args:
        observation_space: the environment's.
        mean, scale: shape (n_features,).
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        mean: Float32Array,
        scale: Float32Array,
    ) -> None:
        super().__init__(observation_space, features_dim=len(mean))
        self.register_buffer("mean", torch.as_tensor(mean))
        self.register_buffer("scale", torch.as_tensor(scale))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return normalised observations of the same shape."""
        mean, scale = self.get_buffer("mean"), self.get_buffer("scale")
        return torch.clamp((observations - mean) * scale, -CLIP, CLIP)


def policy_arguments(
    mean: Float32Array, scale: Float32Array, hidden: int, weight_decay: float
) -> dict[str, Any]:
    """Return SB3's `policy_kwargs` of the trained network: `Normaliser`, then two tanh layers."""
    return {
        "net_arch": [hidden, hidden],
        "activation_fn": torch.nn.Tanh,
        "features_extractor_class": Normaliser,
        "features_extractor_kwargs": {"mean": mean, "scale": scale},
        "optimizer_class": torch.optim.AdamW,
        # Fused AdamW saves an eighth of the whole training time on networks this small.
        "optimizer_kwargs": {"weight_decay": weight_decay, "fused": True},
    }


@contextmanager
def without_distribution_checks() -> Iterator[None]:
    """Disable torch's argument checks of distributions: they take a twentieth of training time.

    A policy that outputs NaN still fails, when an action is sampled.
    """
    previous = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(previous)


def load_policy(policy: Policy, target: ActorCriticPolicy) -> None:
    """Copy the weights of a `Policy` into an SB3 policy: the inverse of `export_policy`.

    Args:
        policy: the source.
        target: the SB3 policy, made with `policy_arguments`; modified in place.

    Raises:
        ValueError: the shapes or the activation differ.
    """
    linear = [
        module
        for module in [*target.mlp_extractor.policy_net, target.action_net]
        if isinstance(module, torch.nn.Linear)
    ]
    target_shapes = [tuple(module.weight.shape) for module in linear]
    source_shapes = [weight.shape for weight, _ in policy.layers]
    if target_shapes != source_shapes or (policy.activation, policy.clip) != ("tanh", CLIP):
        raise ValueError(
            f"the policy has layers {source_shapes}, activation {policy.activation} and clip "
            f"{policy.clip:g}; this training needs layers {target_shapes}, tanh and clip {CLIP:g}"
        )
    with torch.no_grad():
        for module, (weight, bias) in zip(linear, policy.layers, strict=True):
            module.weight.copy_(torch.as_tensor(weight))
            module.bias.copy_(torch.as_tensor(bias))


def export_policy(policy: ActorCriticPolicy) -> Policy:
    """Return the actor as a NumPy `Policy`; its probabilities agree with SB3's to 1e-5.

    Raises:
        TypeError: the policy is not a tanh perceptron after a `Normaliser`.
    """
    extractor = policy.features_extractor
    if not isinstance(extractor, Normaliser):
        raise TypeError("the policy's features extractor is not agents.training.sb3.Normaliser")
    modules = [*policy.mlp_extractor.policy_net, policy.action_net]
    layers = []
    for module in modules:
        if isinstance(module, torch.nn.Linear):
            layers.append((_array(module.weight), _array(module.bias)))
        elif not isinstance(module, torch.nn.Tanh):
            raise TypeError(f"the policy's layer {module} is neither linear nor tanh")
    mean, scale = extractor.get_buffer("mean"), extractor.get_buffer("scale")
    return Policy(_array(mean), _array(scale), tuple(layers))


def _array(tensor: torch.Tensor) -> Float32Array:
    return tensor.detach().cpu().numpy().astype(np.float32).copy()


class Lanes(VecEnv):
    """SB3 vector environment over a `Llama2VectorEnv`: one call steps all lanes.

    Every lane looks to SB3 and sb3-contrib like an environment of its own: `infos` holds one
    dictionary per lane, and `get_attr` and `env_method` return one value per lane (`MaskablePPO`
    reads `action_masks` so).

    Args:
        env: the environment to wrap.
        infos: whether `infos` are filled. A training with gamma 0 does without, which is faster;
            truncated episodes are then not reported as such, because SB3 would compute the value
            of each last observation only to multiply it by 0.

    Raises:
        ConfigError: `env` is another kind of vector environment.
    """

    def __init__(self, env: Llama2VectorEnv, *, infos: bool = True) -> None:
        if not isinstance(env, Llama2VectorEnv):
            raise ConfigError(
                f"Lanes: {env} is no Llama2VectorEnv; leave out vectorization_mode of make_vec, "
                "and put wrappers around Lanes"
            )
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.env = env
        self.last_info: dict[str, Any] = {}
        self._infos = infos
        self._by_lane = DictInfoToList(env)._convert_info_to_list
        self._actions = np.zeros(env.num_envs, dtype=np.int64)
        self._seed: int | None = None

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seed of the next reset."""
        self._seed = seed
        return [seed] * self.num_envs

    def reset(self) -> Float32Array:
        """Begin an episode in every lane."""
        seeds: list[int | None] | None = None
        if self._seed is not None:
            # One spread-out seed per lane: with seed + lane, neighbouring seeds would share all
            # lanes but one.
            seeds = np.random.SeedSequence(self._seed).generate_state(self.num_envs).tolist()
        observations, info = self.env.reset(seed=seeds)
        self.reset_infos = self._by_lane(info)
        self._seed = None
        return observations

    def step_async(self, actions: Int64Array) -> None:
        """Store the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all lanes; report truncated episodes in `infos` as SB3 expects."""
        observations, rewards, _, truncated, info = self.env.step(self._actions)
        self.last_info = info
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if self._infos:
            infos = self._by_lane(info)
            for lane in infos:
                if "final_obs" in lane:
                    lane["terminal_observation"] = lane.pop("final_obs")
                    lane["TimeLimit.truncated"] = True
        return observations, rewards.astype(np.float32), truncated, infos

    def close(self) -> None:
        """Do nothing: the caller that made the world closes it."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return the environment's attribute for each lane."""
        value = None if attr_name == "render_mode" else getattr(self.env, attr_name)
        return self._for_lanes(value, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set the environment's attribute.

        Raises:
            ValueError: `indices` leaves out a lane; all lanes share one environment.
        """
        if len(set(self._get_indices(indices))) != self.num_envs:
            raise ValueError(f"{attr_name}: all lanes share one environment; leave out indices")
        setattr(self.env, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call the environment's method once; return each lane's part of the result."""
        result = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return self._for_lanes(result, indices)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Return False for each lane: the environment is never wrapped."""
        return [False for _ in self._get_indices(indices)]

    def _for_lanes(self, value: Any, indices: VecEnvIndices) -> list[Any]:
        """Return the rows of an array with one row per lane, or else the value for each lane."""
        by_lane = isinstance(value, np.ndarray) and value.shape[:1] == (self.num_envs,)
        return [value[lane] if by_lane else value for lane in self._get_indices(indices)]
