"""`sprout rules` and `sprout ledger`: an operator's commands on a hook's database."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import Field

from envs.errors import ConfigError
from experiments.operate.on_ledger import OnLedger
from experiments.operate.savings import Savings
from experiments.operate.shadow import Shadow
from experiments.settings import write_json
from serving.ledger.database import days_ago
from serving.ledger.known_names import known_names
from serving.settings.rules import (
    RequestFacts,
    Rule,
    check_names,
    first_matching,
    read_rules,
)

RULE_COLUMNS = ("route", "model", "task", "tenant", "characters", "directive", "grams", "rule")


class RulesSet(OnLedger):
    """Apply a file's rules in all replicas; an empty list removes all rules."""

    rules: Path = Field(description="YAML file with a list of rules")

    def cli_cmd(self) -> None:
        """Check the rules and store them."""
        rules = read_rules(self.rules)
        with closing(self.open()) as ledger:
            check_names(rules, known_names(ledger), str(self.rules))
            ledger.set_control(rules=rules)
        print(f"{len(rules)} rules take effect within 2 s")


class RulesTry(OnLedger):
    """Show what rules would have done to the ledger's requests, without applying them.

    The ledger has no headers, so a rule with a condition on headers matches nothing here.
    """

    rules: Path = Field(description="YAML file with a list of rules")
    days: float = Field(1.0, gt=0, description="period to look at, days before now")
    json_path: Path | None = Field(None, alias="json", description="file for the result as JSON")

    def cli_cmd(self) -> None:
        """Count the matching requests and print the counts."""
        rules = read_rules(self.rules)
        matched: dict[str, dict[str, Any]] = {
            rule.name: {"effect": _effect(rule), "requests": 0, "grams": 0.0, "directives": {}}
            for rule in rules
        }
        total = 0
        with closing(self.open()) as ledger:
            check_names(rules, known_names(ledger), str(self.rules))
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
                    totals = matched[rule.name]
                    totals["requests"] += 1
                    totals["grams"] += row["grams"] or 0.0
                    directives = Counter(totals["directives"]) + Counter([row["directive"]])
                    totals["directives"] = directives
        print(f"{total} requests in the last {self.days:g} days")
        for name, totals in matched.items():
            counts = ", ".join(f"{n} {d}" for d, n in sorted(totals["directives"].items()))
            print(
                f"{name}: {totals['requests']} requests would have {totals['effect']}"
                + (f"; they got {counts} and emitted {totals['grams']:.3g} gCO2e" if counts else "")
            )
        write_json(self.json_path, {"schema": 1, "requests": total, "rules": matched})


class Export(OnLedger):
    """Write recorded requests and answers as Parquet, for profiling, training or evaluation.

    The ledger must contain prompts: `sprout serve --store-prompts`. Each row has the directive
    that its request got, and its propensity; `sprout profile` repeats the requests under all
    directives. With --for-ope the rows are for off-policy evaluation instead: the policy's
    observation, the action, its propensity with the hold-out's share, and the outcome; no prompts
    are needed.
    """

    out: Path = Field(description="Parquet file to write")
    days: float = Field(30.0, gt=0, description="period to export, days before now")
    for_ope: bool = Field(False, description="write rows for off-policy evaluation")

    def cli_cmd(self) -> None:
        """Read the records, convert them and write the file."""
        needed: Sequence[str]
        if self.for_ope:
            from experiments.record import ope_rows as module

            convert, write, needed = module.ope_rows, module.write_ope, module.NEEDED
            problem = "no request was steered by lottery; serve in mode canary or on"
        else:
            from experiments.record import ledger_rows

            convert, write, needed = (
                ledger_rows.profile_rows,
                ledger_rows.write_rows,
                ledger_rows.NEEDED,
            )
            problem = (
                "no completed request with a stored prompt; start the hook with --store-prompts"
            )
        with closing(self.open()) as ledger:
            rows = list(convert(ledger.rows(needed, days_ago(self.days))))
        if not rows:
            raise ConfigError(f"{ledger.shown}, the last {self.days:g} days: {problem}")
        write(self.out, rows)
        print(f"{len(rows)} requests -> {self.out}")


class Delete(OnLedger):
    """Delete records by request, tenant or age; of several conditions, all must hold."""

    request: str | None = Field(
        None, description="decision id, from the header x-sprout-decision-id"
    )
    tenant: str | None = Field(None, description="tenant, as the ledger names it")
    older_than_days: float | None = Field(None, ge=0, description="least age of a record, days")

    def cli_cmd(self) -> None:
        """Delete the records and print their number."""
        if self.request is None and self.tenant is None and self.older_than_days is None:
            raise ConfigError("give --request, --tenant or --older-than-days")
        before = None if self.older_than_days is None else days_ago(self.older_than_days)
        with closing(self.open()) as ledger:
            count = ledger.delete(before=before, decision_id=self.request, tenant=self.tenant)
        print(f"{count} records deleted")


def _effect(rule: Rule) -> str:
    """Return what a rule would have done, after "would have"."""
    if rule.forbid:
        return "been left at L0"
    if rule.force is not None:
        return f"got {rule.force}"
    if rule.floor is not None:
        return f"had a floor of {rule.floor:g}"
    return f"been in mode {rule.mode}"


RULES = {"set": RulesSet, "try": RulesTry}
LEDGER = {"export": Export, "delete": Delete, "savings": Savings, "shadow": Shadow}
