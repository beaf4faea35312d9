"""`sprout ledger savings`: the policy's savings on live traffic, as text and JSON."""

from contextlib import closing
from typing import Any

from pydantic import Field

from envs.carbon.footprint import JOULES_PER_KWH
from experiments.operate.on_ledger import OverPeriod
from experiments.settings import write_json
from serving.savings.estimate import SETTLE_SECONDS, read_savings


class Savings(OverPeriod):
    """Estimate the policy's savings per conversation on live traffic, against the random hold-out.

    Later turns count as the cost of the conversation's opening, so that follow-up questions after
    short answers are not counted as savings. See docs/operators/savings.md.
    """

    settle_minutes: float = Field(
        SETTLE_SECONDS / 60,
        ge=0,
        description="conversations opened this recently are left out: they may go on, minutes",
    )

    def cli_cmd(self) -> None:
        """Estimate the savings, print them, and write them as JSON if asked to."""
        since, until = self.period()
        with closing(self.open()) as ledger:
            savings = read_savings(ledger, since, until, 60 * self.settle_minutes)
        for line in _lines(savings, self.settle_minutes):
            print(line)
        write_json(self.json_path, savings)


def _lines(savings: dict[str, Any], settle_minutes: float) -> list[str]:
    lines = _shares("carbon saved", savings)
    if savings["grams"] is not None:
        lines += _totals(savings)
    lines += _evaluation(savings)
    if savings["completion_tokens"] is not None:
        lines += _follow_ups(savings) + _evidence(savings)
    lines += _arms(savings)
    if savings["unsettled_conversations"]:
        lines.append(
            f"left out: {savings['unsettled_conversations']} conversations that opened in the last "
            f"{settle_minutes:g} minutes and may go on (--settle-minutes)"
        )
    if savings["later_turns_without_opening"]:
        lines.append(
            f"left out: {savings['later_turns_without_opening']} later turns whose opening is not "
            "in the period"
        )
    if len(savings["tasks"]) > 1:
        for task, part in savings["tasks"].items():
            lines += _shares(f"task {task}", part)
    return lines


def _shares(name: str, part: dict[str, Any]) -> list[str]:
    counts = (
        f"{part['conversations']} conversations, {part['held_out_conversations']} held out; "
        f"{part['draws'] + part['held_out_draws']} draws, which count as "
        f"{part['effective_draws']:.0f}"
    )
    lines = []
    if part["grams"] is not None:
        lines.append(
            f"{name}: {_percent(part['grams'])} of what L0 (no directive) costs per conversation; "
            f"{counts}"
        )
    else:
        lines.append(f"{name}: no estimate: {part['reason']} ({counts})")
        if part["energy_joules"] is not None:
            lines.append(f"{name}, energy: {_percent(part['energy_joules'])} per conversation")
    by_message = part["keyed_by"].get("message", 0)
    if part["effective_draws"] < 0.5 * part["conversations"] and by_message:
        lines.append(
            f"{name}: {by_message} conversations are known by their first message only, and many "
            "of these are the same; send x-sprout-conversation or the field `user`"
        )
    return lines


def _totals(savings: dict[str, Any]) -> list[str]:
    parts = []
    for measure, unit, divisor in (
        ("grams", "gCO2e", 1.0),
        ("energy_joules", "kWh", JOULES_PER_KWH),
        ("completion_tokens", "tokens", 1.0),
    ):
        low, high = (bound / divisor for bound in savings[measure]["total_ci95"])
        parts.append(f"{savings[measure]['total'] / divisor:,.4g} {unit} [{low:,.4g}, {high:,.4g}]")
    return [f"saved in total: {', '.join(parts)}"]


def _evaluation(savings: dict[str, Any]) -> list[str]:
    """Return what judging the answers cost, and what is left of the saving."""
    cost = savings["evaluation"]
    if not cost["answers"]:
        return []
    unknown = f"; {cost['unknown']} of unknown energy are not in it" if cost["unknown"] else ""
    net = cost["net_grams"]
    saved = "" if net is None else f"; saved net of that: {net:,.4g} gCO2e"
    return [
        f"judging answers took {cost['grams']:,.4g} gCO2e and "
        f"{cost['joules'] / JOULES_PER_KWH:,.4g} kWh{unknown}{saved}"
    ]


def _follow_ups(savings: dict[str, Any]) -> list[str]:
    turns, asked = savings["turns_per_conversation"], savings["follow_up_ratio"]
    lines = [
        f"turns per conversation: {_mean(turns['policy'])} under the policy, {_mean(turns['l0'])} "
        f"under L0; with a follow-up: {_mean(asked['policy'])}, {_mean(asked['l0'])}"
    ]
    saving = savings["grams"] or savings["energy_joules"]
    if saving["rebound_pct"] is not None:
        low, high = saving["rebound_pct_ci95"]
        lines.append(
            f"rebound: follow-ups took back {saving['rebound_pct']:.1f} % [{low:.1f}, {high:.1f}] "
            f"of the {100 * saving['per_turn_ratio']:.1f} % that a turn saves"
        )
    return lines


def _evidence(savings: dict[str, Any]) -> list[str]:
    line = f"energy: {', '.join(savings['energy_methods'])}"
    if savings["joules_are_tokens_times_a_constant"]:
        line += "; joules are tokens times a constant, so both are one piece of evidence"
    error = savings["energy_error_ratio"]
    if error is None:
        line += "; its own error is unknown"
    else:
        line += (
            f"; its own error, beside the interval: {100 * error:.1f} % (known for "
            f"{100 * savings['energy_error_known_ratio']:.0f} % of the joules)"
        )
    return [line]


def _arms(savings: dict[str, Any]) -> list[str]:
    lines = []
    for name, arm in savings["arms"].items():
        if arm["requests"]:
            low, high = (100 * bound for bound in arm["failure_ratio_ci95"])
            lines.append(
                f"not completed, {name}: {100 * arm['failure_ratio']:.1f} % [{low:.1f}, "
                f"{high:.1f}] of {arm['requests']} requests; {arm['unmeasured_conversations']} "
                "conversations without a cost"
            )
    return lines


def _percent(saving: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in saving["ci95"])
    return f"{100 * saving['ratio']:.1f} % [{low:.1f}, {high:.1f}]"


def _mean(figure: dict[str, Any]) -> str:
    low, high = figure["ci95"]
    return f"{figure['mean']:.3f} [{low:.3f}, {high:.3f}]"
