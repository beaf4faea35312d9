"""The operator's rules: what goes before the policy, for which requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from envs.errors import ConfigError
from envs.yaml_file import read_yaml

Mode = Literal["off", "shadow", "canary", "on"]
# Strict: `false` is no ratio.
Ratio = Annotated[float, Field(ge=0, le=1, strict=True)]


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What rules can ask of a request; `headers` are in lower case, None where not recorded."""

    route: str
    model: str
    task: str | None
    tenant: str | None
    characters: int
    headers: Mapping[str, str] | None


class Condition(BaseModel):
    """All that is given must hold; texts are shell patterns (`legal-*`)."""

    model_config = ConfigDict(extra="forbid")

    route: str | None = None
    model: str | None = None
    task: str | None = None
    tenant: str | None = None
    min_characters: Annotated[int, Field(ge=0)] | None = None
    max_characters: Annotated[int, Field(ge=0)] | None = None
    headers: dict[str, str] = {}

    def holds(self, facts: RequestFacts) -> bool:
        """Whether a request is meant; one whose headers are not known is not, where asked."""
        texts = (
            (self.route, facts.route),
            (self.model, facts.model),
            (self.task, facts.task),
            (self.tenant, facts.tenant),
            *((p, (facts.headers or {}).get(n.lower())) for n, p in self.headers.items()),
        )
        return (
            all(p is None or (t is not None and fnmatchcase(t, p)) for p, t in texts)
            and (self.min_characters is None or facts.characters >= self.min_characters)
            and (self.max_characters is None or facts.characters <= self.max_characters)
        )


class Rule(BaseModel):
    """One rule: which requests it means and the one thing that it does to them."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    when: Condition = Condition()
    forbid: Literal[True] | None = None
    force: str | None = None
    floor: Ratio | None = None
    mode: Mode | None = None

    @model_validator(mode="after")
    def _one_effect(self) -> "Rule":
        effects = (self.forbid, self.force, self.floor, self.mode)
        if sum(effect is not None for effect in effects) != 1:
            raise ValueError("give exactly one of forbid: true, force, floor, mode")
        return self


def first_matching(rules: Sequence[Rule], facts: RequestFacts) -> Rule | None:
    """The first rule that means the request."""
    return next((rule for rule in rules if rule.when.holds(facts)), None)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Rules of a YAML file, a list.

    Raises:
        DataError: the file cannot be read.
        ConfigError: a rule is wrong; names the file, the rule and the field.
    """
    return check_rules(read_yaml(path, "give a YAML list of rules") or [], str(path))


def check_rules(rows: Any, source: str) -> tuple[Rule, ...]:
    """Plain rows as rules; see `read_rules`."""
    try:
        rules = TypeAdapter(tuple[Rule, ...]).validate_python(rows)
    except ValidationError as error:
        found = error.errors()[0]
        place = [str(part) for part in found["loc"]]
        which = f"rule {int(place[0]) + 1}" if place else "rules"
        field = ".".join(place[1:])
        raise ConfigError(
            f"rules {source}: {which}{f', {field}' if field else ''}: {found['msg']}"
        ) from error
    names = [rule.name for rule in rules]
    if len(set(names)) != len(names):
        raise ConfigError(f"rules {source}: names {names}; give each its own")
    return rules
