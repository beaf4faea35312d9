"""The supervised start: the network learns the best directive at every price before PPO begins.

On a replay the reward of every directive is known, not only of the one that was chosen. So the
choice is cost-sensitive classification (Elkan, 2001) with the price as one of the inputs, as in
loss-conditional training (Dosovitskiy & Djolonga, 2020, https://openreview.net/forum?id=HyxY6JHKwr).
"""

from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR

from agents.training.config import PpoConfig
from envs.world import World

# Weight of the value function's loss; its layers are apart from the policy's.
VALUE_WEIGHT = 0.5


@dataclass(frozen=True)
class Losses:
    """Mean losses of the last tenth of the batches: of the policy, and of the value function."""

    policy: float
    value: float


def fit_start(policy: ActorCriticPolicy, world: World, config: PpoConfig) -> Losses:
    """Fit a policy and its value function to the rewards of all directives of a replay.

    The policy's target at an observation is softmax(reward / temperature) over the directives:
    the best one, softened where others are as good. With `start_loss` "reward" it maximises its
    expected reward instead, an off-line policy gradient. The value function's target is the
    policy's expected reward.

    Args:
        policy: the policy; modified in place.
        world: draws the requests, hours and prices.
        config: supplies `start_batches`, `start_rate`, `start_temperature`, `start_loss`,
            `weight_decay` and `seed`.
    """
    optimiser = torch.optim.AdamW(
        policy.parameters(), config.start_rate, weight_decay=config.weight_decay, fused=True
    )
    schedule = OneCycleLR(optimiser, config.start_rate, total_steps=config.start_batches)
    seeds = np.random.SeedSequence(config.seed).generate_state(world.lanes).tolist()
    observations = world.reset(seeds)
    losses = []
    for _ in range(config.start_batches):
        rewards = torch.as_tensor(world.rewards_of_each(), dtype=torch.float32)
        features = policy.extract_features(torch.as_tensor(observations))
        assert isinstance(features, torch.Tensor)
        logits = policy.action_net(policy.mlp_extractor.forward_actor(features))
        log_chance = functional.log_softmax(logits, dim=1)
        chance = log_chance.exp()
        if config.start_loss == "choice":
            target = functional.softmax(rewards / config.start_temperature, dim=1)
            loss = -(target * log_chance).sum(dim=1).mean()
        else:
            spared = (chance * (rewards - rewards.max(dim=1, keepdim=True).values)).sum(dim=1)
            entropy = -(chance * log_chance).sum(dim=1)
            loss = -(spared / config.start_temperature + entropy).mean()
        value = policy.value_net(policy.mlp_extractor.forward_critic(features)).squeeze(1)
        expected = (chance.detach() * rewards).sum(dim=1)
        value_loss = functional.mse_loss(value, expected)
        optimiser.zero_grad()
        (loss + VALUE_WEIGHT * value_loss).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        losses.append((float(loss.detach()), float(value_loss.detach())))
        observations = world.skip()
    last = torch.tensor(losses[-max(1, len(losses) // 10) :])
    return Losses(*last.mean(dim=0).tolist())
