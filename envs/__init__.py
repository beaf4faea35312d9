"""The simulated and live world: requests, directives, carbon, energy, quality, environments.

The public names are those in `__all__`; each is imported when it is first used.
`envs.registration` registers the Gymnasium environments.
"""

from envs.lazy import lazy_getattr

__version__ = "0.1.0"

_MODULES = {
    "Arrivals": "envs.requests.arrivals",
    "Catalogue": "envs.requests.directive",
    "CostInStep": "envs.constrained",
    "Directive": "envs.requests.directive",
    "FootprintModel": "envs.carbon.footprint",
    "IntensityTrace": "envs.carbon.intensity",
    "Llama2Env": "envs.llama2",
    "Llama2VectorEnv": "envs.llama2",
    "Meter": "envs.energy.meter",
    "Mix": "envs.requests.mix",
    "Outcomes": "envs.outcomes.outcome",
    "Profile": "envs.outcomes.profile",
    "Request": "envs.requests.request",
    "SproutError": "envs.errors",
    "Upstream": "envs.upstream",
    "fixed_mix": "envs.requests.mix",
    "footprint_grams": "envs.carbon.footprint",
    "mix_from_job_counts": "envs.requests.mix",
    "read_catalogue": "envs.requests.directive",
    "read_job_counts": "envs.requests.mix",
    "read_mix": "envs.requests.mix",
    "read_profile": "envs.outcomes.profile_reader",
    "read_trace": "envs.carbon.csv_traces",
    "uniform_mix": "envs.requests.mix",
    "write_profile": "envs.outcomes.profile",
}
__all__ = ["__version__", *_MODULES]
__getattr__ = lazy_getattr(_MODULES)
