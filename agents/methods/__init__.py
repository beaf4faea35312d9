"""Methods that choose directives, learned or not, behind one Protocol."""

import importlib

from agents.methods.method import Method

# Name -> where it is; loaded when asked for, since some need large libraries.
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
    """The named method with its default settings.

    Raises:
        KeyError: there is none of that name.
    """
    module, _, attribute = METHODS[name].partition(":")
    made: Method = getattr(importlib.import_module(module), attribute)()
    return made
