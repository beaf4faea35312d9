"""`sprout mode`, `sprout rules` and `sprout ledger`: the hook's operators, at its database."""

import json
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import Field

from envs.errors import ConfigError
from experiments.settings import Settings, write_json
from serving.ledger.database import Ledger, days_ago
from serving.ledger.savings import COLUMNS, estimate_savings
from serving.settings.hook import Listed
from serving.settings.rules import Mode, RequestFacts, Rule, first_matching, read_rules

RULE_COLUMNS = ("route", "model", "task", "tenant", "characters", "directive", "grams", "rule")


class _OnLedger(Settings):
    """What all of them share."""

    ledger: str = Field(
        "sqlite:///runs/serve/ledger.db", description="the hook's database URL, as it was started"
    )

    def open(self) -> Ledger:
        """The database; refuses one that no hook has made."""
        name = self.ledger.removeprefix("sqlite:///")
        if name != self.ledger and not Path(name).exists():
            raise ConfigError(f"--ledger {self.ledger}: there is no such file")
        return Ledger(self.ledger)


class ModeCommand(_OnLedger):
    """Show or change what all workers and replicas do, within 2 s: `--set off` is the kill switch.

    off: relay only; shadow: decide and record; canary: steer a share; on.
    """

    set: Mode | None = Field(None, description="off, shadow, canary or on; none shows")
    canary: float | None = Field(None, ge=0, le=1, description="share of conversations")
    canary_tasks: Listed = Field([], description="tasks all of whose requests are, too")
    hold_out: float | None = Field(None, ge=0, le=1, description="share of conversations at L0")
    json_path: Path | None = Field(None, alias="json", description="also write it here")

    def cli_cmd(self) -> None:
        """Change and show."""
        given = {
            "mode": self.set,
            "canary_ratio": self.canary,
            "canary_tasks": self.canary_tasks or None,
            "hold_out_ratio": self.hold_out,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        with closing(self.open()) as ledger:
            now = ledger.set_control(**changes) if changes else ledger.control()
        shown = now.model_dump(mode="json", exclude={"salt"}, exclude_none=True)
        print(json.dumps(shown, indent=1))
        write_json(self.json_path, shown)


class RulesSet(_OnLedger):
    """Put a file's rules in force for all replicas; an empty list takes all away."""

    rules: Path = Field(description="YAML list of rules")

    def cli_cmd(self) -> None:
        """Check, then set."""
        rules = read_rules(self.rules)
        with closing(self.open()) as ledger:
            ledger.set_control(rules=rules)
        print(f"{len(rules)} rules in force within 2 s")


class RulesTry(_OnLedger):
    """What rules would have done to the ledger's requests; changes nothing.

    Headers are not in the ledger: a rule that asks for one matches nothing here.
    """

    rules: Path = Field(description="YAML list of rules")
    days: float = Field(1.0, gt=0, description="how far back")
    json_path: Path | None = Field(None, alias="json", description="machine-readable result")

    def cli_cmd(self) -> None:
        """Count and print."""
        rules = read_rules(self.rules)
        matched: dict[str, dict[str, Any]] = {
            rule.name: {"effect": _effect(rule), "requests": 0, "grams": 0.0, "directives": {}}
            for rule in rules
        }
        total = 0
        with closing(self.open()) as ledger:
            for values in ledger.rows(RULE_COLUMNS, days_ago(self.days)):
                row = dict(zip(RULE_COLUMNS, values, strict=True))
                total += 1
                facts = RequestFacts(
                    route=row["route"],
                    model=row["model"] or "",
                    task=row["task"],
                    tenant=row["tenant"],
                    characters=row["characters"],
                    headers=None,
                )
                if (rule := first_matching(rules, facts)) is not None:
                    found = matched[rule.name]
                    found["requests"] += 1
                    found["grams"] += row["grams"] or 0.0
                    found["directives"] = Counter(found["directives"]) + Counter([row["directive"]])
        print(f"{total} requests of the last {self.days:g} days")
        for name, found in matched.items():
            given = ", ".join(f"{n} {d}" for d, n in sorted(found["directives"].items()))
            print(
                f"{name} ({found['effect']}): {found['requests']} requests"
                + (f", which got {given} and emitted {found['grams']:.3g} g" if given else "")
            )
        write_json(self.json_path, {"schema": 1, "requests": total, "rules": matched})


class Export(_OnLedger):
    """Write recorded requests and answers as Parquet, to be profiled or trained on again.

    Needs prompts: `sprout serve --store-prompts`. Each row has the one directive that its
    request got, with the propensity; `sprout profile` plays the same requests under all.
    """

    out: Path = Field(description="Parquet file")
    days: float = Field(30.0, gt=0, description="how far back")

    def cli_cmd(self) -> None:
        """Read, convert, write."""
        from experiments.record.ledger_rows import NEEDED, profile_rows, write_rows

        with closing(self.open()) as ledger:
            rows = list(profile_rows(ledger.rows(NEEDED, days_ago(self.days))))
        if not rows:
            raise ConfigError(
                f"{ledger.shown}: no completed request with its prompt in the last "
                f"{self.days:g} days; start the hook with --store-prompts"
            )
        write_rows(self.out, rows)
        print(f"{len(rows)} requests -> {self.out}")


class Delete(_OnLedger):
    """Delete records of a request, of a tenant, or older than some days."""

    request: str | None = Field(None, description="decision id, from the answer's headers")
    tenant: str | None = Field(None, description="as the ledger has it")
    older_than_days: float | None = Field(None, ge=0)

    def cli_cmd(self) -> None:
        """Delete what is named."""
        if self.request is None and self.tenant is None and self.older_than_days is None:
            raise ConfigError("give --request, --tenant or --older-than-days")
        before = None if self.older_than_days is None else days_ago(self.older_than_days)
        with closing(self.open()) as ledger:
            count = ledger.delete(before=before, decision_id=self.request, tenant=self.tenant)
        print(f"{count} records deleted")


class Savings(_OnLedger):
    """What the policy saved on live traffic, against the random hold-out, with an interval."""

    hours: float = Field(24.0, gt=0, description="how far back")
    json_path: Path | None = Field(None, alias="json", description="machine-readable result")

    def cli_cmd(self) -> None:
        """Estimate and print."""
        until = time.time()
        since = until - 3600 * self.hours
        with closing(self.open()) as ledger:
            found = {"since": since, "until": until} | estimate_savings(
                ledger.rows(COLUMNS, since, until)
            )
        if found["grams"] is None:
            print(f"no figure yet: {found['reason']} ({found['requests']} requests)")
        else:
            low, high = (100 * bound for bound in found["grams"]["ci95"])
            print(
                f"carbon saved: {100 * found['grams']['ratio']:.1f} % [{low:.1f}, {high:.1f}] of "
                f"{found['baseline']}; {found['requests']} requests, "
                f"{found['held_out_requests']} held out; energy {found['energy_methods']}"
            )
        write_json(self.json_path, found)


def _effect(rule: Rule) -> str:
    given = {"forbid": rule.forbid, "force": rule.force, "floor": rule.floor, "mode": rule.mode}
    return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)


RULES = {"set": RulesSet, "try": RulesTry}
LEDGER = {"export": Export, "delete": Delete, "savings": Savings}
