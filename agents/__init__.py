"""Choose a directive per request: the PPO agent, the baselines, the policy bundle and its runtime.

The names in `__all__` are the public interface of this package.
"""

from envs import __version__
from envs.lazy import lazy_getattr

_HOMES = {
    "Bundle": "agents.policy.bundle",
    "Lanes": "agents.training.sb3",
    "METHODS": "agents.methods",
    "Method": "agents.methods.method",
    "Policy": "agents.policy.network",
    "PpoConfig": "agents.training.config",
    "Scene": "agents.methods.scene",
    "Trainer": "agents.training.ppo",
    "build_scene": "agents.methods.scene",
    "load_bundle": "agents.policy.bundle",
    "make_method": "agents.methods",
    "save_bundle": "agents.policy.bundle",
}
__all__ = ["__version__", *_HOMES]
__getattr__ = lazy_getattr(_HOMES)
