"""`sprout ledger shadow`: what the policy would have done in mode shadow, and what that saves."""

from contextlib import closing
from typing import Any

from experiments.operate.on_ledger import OverPeriod
from experiments.settings import write_json
from serving.savings.shadow import read_shadow


class Shadow(OverPeriod):
    """Show what the policy would have chosen in mode shadow, with foretold saving and quality.

    The figures are foretold from the policy's training, and the interval is that of the traffic
    seen. They are no measurement: that takes mode canary or on, with a hold-out.
    """

    def cli_cmd(self) -> None:
        """Read the period, print the figures, and write them as JSON if asked to."""
        since, until = self.period()
        with closing(self.open()) as ledger:
            shadow = read_shadow(ledger, since, until)
        for line in _lines(shadow):
            print(line)
        write_json(self.json_path, shadow)


def _lines(shadow: dict[str, Any]) -> list[str]:
    alone = sum(shadow["left_alone"].values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in shadow["left_alone"].items())
    left_alone = f"{alone} requests would be left alone in any case: {reasons}"
    if not shadow["requests"]:
        none = "no request in mode shadow in this period got a decision of the policy"
        return [none, *([left_alone] if alone else [])]
    lines = [_line("the policy's requests", shadow)]
    lines += [
        _line("no task tag" if task == "untagged" else f"task {task}", part)
        for task, part in shadow["tasks"].items()
    ]
    if alone:
        lines.append(left_alone)
    lines.append(
        "foretold from training, for the traffic seen; follow-up questions cannot be foretold"
    )
    plan = shadow["plan"]
    if plan["conversations"] is not None:
        duration = ""
        if plan["days"] is not None:
            duration = f", {_duration(plan['days'])} at this rate"
            if share := plan["canary_ratio"]:
                longer = _duration(plan["days"] / share)
                duration += f", or {longer} in mode canary at {100 * share:g} %"
        lines.append(
            f"to measure the saving to within {100 * plan['half_width']:.0f} points, with "
            f"{100 * plan['hold_out_ratio']:g} % held out in mode on: about "
            f"{plan['conversations']:,} conversations{duration}"
        )
    return lines


def _line(name: str, part: dict[str, Any]) -> str:
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in part["directives"].items())
    line = f"{name}: {part['requests']} requests would get {shares}"
    if part["saving"] is None:
        line += "; saving not known"
    else:
        line += f"; foretold saving {100 * part['saving']:.1f} %"
        if part["saving_ci95"] is not None:
            low, high = (100 * bound for bound in part["saving_ci95"])
            line += f" [{low:.1f}, {high:.1f}]"
    if part["foretold_ratio"] < 1:
        line += f" (known for {100 * part['foretold_ratio']:.0f} % of the requests)"
    if part["quality"] is None:
        return f"{line}; quality not known"
    floor = part.get("floor")
    against = "" if floor is None else f", floor {floor:g}"
    low, high = part["quality_ci95"]
    quality = f"{part['quality']:.3f} [{low:.3f}, {high:.3f}]"
    return f"{line}; foretold quality {quality} of L0's (no directive){against}"


def _duration(days: float) -> str:
    if days >= 1:
        return f"{days:.1f} days"
    return f"{24 * days:.1f} hours" if days >= 1 / 24 else f"{1440 * days:.0f} minutes"
