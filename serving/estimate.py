"""What a request has cost, estimated from its tokens."""

from dataclasses import dataclass

from agents.bundle import Bundle
from envs.footprint import footprint_grams

# Llama-2-13b-chat, one A100-class GPU, one request at a time: least squares over SPROUT's published
# outcomes (Li et al., EMNLP 2024, artifact).
JOULES_PER_TOKEN = 5.91
SECONDS_PER_TOKEN = 0.0238
# Of a prompt token against a generated one, in the same data (least squares).
PREFILL_WEIGHT = 0.002


@dataclass(frozen=True)
class Coefficients:
    """Joules and seconds of device time for each token, generated and read.

    Attributes:
        source: whose they are.
    """

    joules_per_token: float = JOULES_PER_TOKEN
    seconds_per_token: float = SECONDS_PER_TOKEN
    prefill_weight: float = PREFILL_WEIGHT
    source: str = "Llama-2-13b on an A100, one request at a time"

    @property
    def power(self) -> float:
        """W, while it generates."""
        return self.joules_per_token / self.seconds_per_token

    def cost(self, prompt_tokens: int, completion_tokens: int) -> tuple[float, float]:
        """J, and s of the device."""
        tokens = completion_tokens + self.prefill_weight * prompt_tokens
        return self.joules_per_token * tokens, self.seconds_per_token * tokens


def coefficients(bundle: Bundle | None, joules_per_token: float | None) -> Coefficients:
    """Those that the operator states, else those of the bundle's training data, else the default.

    A stated figure moves the seconds along: a device's power is taken to be the same.
    """
    found = Coefficients()
    energy = bundle.manifest.get("energy") if bundle is not None else None
    if isinstance(energy, dict) and (own := energy.get("joules_per_completion_token")):
        # All of a request's energy over its generated tokens: prompts are in it.
        seconds = energy.get("seconds_per_completion_token") or own / found.power
        found = Coefficients(float(own), float(seconds), 0.0, "the policy's training data")
    if joules_per_token is not None:
        scale = joules_per_token / found.joules_per_token
        found = Coefficients(
            joules_per_token, found.seconds_per_token * scale, found.prefill_weight, "stated"
        )
    return found


def grams(joules: float, device_seconds: float, g_per_kwh: float, pue: float) -> float:
    """gCO2e of a request; see `envs.footprint`."""
    return footprint_grams(joules, device_seconds, g_per_kwh, pue=pue)
