"""Methods that choose directives, learned or not, behind one `Method` protocol."""

import importlib

from agents.methods.method import Method

# Name -> module:attribute. Imported on demand, because some methods need large libraries.
METHODS = {
    "base": "agents.methods.simple:Base",
    "co2_opt": "agents.methods.simple:LeastCarbon",
    "random": "agents.methods.simple:RandomDirective",
    "intensity_threshold": "agents.methods.simple:IntensityThreshold",
    "sprout_static": "agents.methods.programs:SproutStatic",
    "sprout_lp": "agents.methods.programs:SproutLP",
    "sprout_oracle": "agents.methods.programs:SproutOracle",
    "per_task_lp": "agents.methods.programs:PerTaskLP",
    "hourly_task_lp": "agents.methods.hourly:HourlyTaskLP",
    "known_cost_lp": "agents.methods.hourly:known_cost_lp",
    "linucb": "agents.methods.linucb:LinUCB",
    "direct": "agents.methods.direct:Direct",
    "clairvoyant": "agents.methods.clairvoyant:Clairvoyant",
    "clairvoyant_global": "agents.methods.clairvoyant:clairvoyant_global",
}


def make_method(name: str) -> Method:
    """Return the named method with its default settings.

    Raises:
        KeyError: `name` is not in `METHODS`.
    """
    module, _, attribute = METHODS[name].partition(":")
    method: Method = getattr(importlib.import_module(module), attribute)()
    return method
