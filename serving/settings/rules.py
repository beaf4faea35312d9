"""The operators' rules, which override the policy for the requests that they match."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from envs.errors import ConfigError
from envs.outcomes.stated_floors import ANY_TASK
from envs.yaml_file import read_yaml

Mode = Literal["off", "shadow", "canary", "on"]
# Strict, so that `false` is not accepted as 0.
Ratio = Annotated[float, Field(ge=0, le=1, strict=True)]


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """The facts about a request that rules can test.

    Attributes:
        route: path of the API, e.g. "/v1/chat/completions".
        model: name of the requested model; empty if the request names none.
        task: task tag, or None.
        tenant: tenant, or None if unknown.
        characters: length of the request's messages, characters.
        headers: values by header name in lower case; None if they were not recorded.
    """

    route: str
    model: str
    task: str | None
    tenant: str | None
    characters: int
    headers: Mapping[str, str] | None


class Condition(BaseModel):
    """Condition of a rule: all given fields must match. Texts are shell patterns (`legal-*`)."""

    model_config = ConfigDict(extra="forbid")

    route: str | None = None
    model: str | None = None
    task: str | None = None
    tenant: str | None = None
    min_characters: Annotated[int, Field(ge=0)] | None = None
    max_characters: Annotated[int, Field(ge=0)] | None = None
    headers: dict[str, str] = {}

    def holds(self, facts: RequestFacts) -> bool:
        """Return whether a request meets the condition.

        A condition on headers is never met by a request without recorded headers.
        """
        texts = (
            (self.route, facts.route),
            (self.model, facts.model),
            (self.task, facts.task),
            (self.tenant, facts.tenant),
            *(
                (pattern, (facts.headers or {}).get(name.lower()))
                for name, pattern in self.headers.items()
            ),
        )
        return (
            all(
                pattern is None or (text is not None and fnmatchcase(text, pattern))
                for pattern, text in texts
            )
            and (self.min_characters is None or facts.characters >= self.min_characters)
            and (self.max_characters is None or facts.characters <= self.max_characters)
        )


class Rule(BaseModel):
    """One rule: a condition on requests, and its single effect on them.

    Attributes:
        name: name of the rule, recorded with the requests that it matches.
        when: condition; the default matches every request.
        forbid: True forbids steering.
        force: name of the directive to use.
        floor: least quality floor, ratio of L0's quality.
        mode: mode of the hook for these requests.
    """

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
    """Return the first rule that matches the request, or None."""
    return next((rule for rule in rules if rule.when.holds(facts)), None)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Return the rules of a YAML file, which holds a list.

    Raises:
        DataError: the file cannot be read.
        ConfigError: a rule is wrong; the message names the file, the rule and the field.
    """
    rows = read_yaml(path, "give a YAML list of rules")
    if rows is None:
        raise ConfigError(f"rules {path}: the file is empty; give a list, [] for no rules")
    return check_rules(rows, str(path))


def check_rules(rows: Any, source: str) -> tuple[Rule, ...]:
    """Convert a parsed list to rules.

    Args:
        rows: the parsed YAML or JSON.
        source: origin of the rows, for error messages.

    Raises:
        ConfigError: a rule is wrong; the message names the source, the rule and the field.
    """
    try:
        rules = TypeAdapter(tuple[Rule, ...]).validate_python(rows)
    except ValidationError as error:
        problem = error.errors()[0]
        location = [str(part) for part in problem["loc"]]
        subject = f"rule {int(location[0]) + 1}" if location else "rules"
        field = ".".join(location[1:])
        raise ConfigError(
            f"rules {source}: {subject}{f', {field}' if field else ''}: {_remedy(problem)}"
        ) from error
    names = [rule.name for rule in rules]
    if len(set(names)) != len(names):
        raise ConfigError(f"rules {source}: names are not unique: {names}; give each its own")
    return rules


def _remedy(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a field, without the words of the checking library."""
    *place, name = problem["loc"] or ("",)
    if problem["type"] == "extra_forbidden":
        known = (Condition if "when" in place else Rule).model_fields
        return f"there is no {name!r}; give one of {', '.join(known)}"
    if problem["type"] in ("tuple_type", "list_type"):
        return "give a list of rules, each with name, when and an effect"
    if problem["type"] == "literal_error" and name == "forbid":
        return "give true, or leave it out"
    return str(problem["msg"]).removeprefix("Value error, ")


@dataclass(frozen=True)
class KnownNames:
    """Names that a rule can speak of: those of the policies, and those of recorded requests.

    Empty means that none is known, so that a rule's name is not checked.
    """

    directives: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()


def unknown_tasks(tasks: Sequence[str], known: frozenset[str]) -> list[str]:
    """Return a line about each task that no policy and no request has had so far."""
    return [f"nobody knows task {t!r} yet; {_hint(t, known)}" for t in tasks if t not in known]


def _hint(name: str, names: frozenset[str]) -> str:
    similar = get_close_matches(name, names, n=1)
    return f"did you mean {similar[0]!r}?" if similar else f"known: {', '.join(sorted(names))}."


def check_tasks(tasks: Sequence[str], known: frozenset[str], source: str) -> None:
    """Raise ConfigError if a floor is for a task that nobody knows; "*" stands for all others."""
    if unknown := [task for task in tasks if known and task not in (*known, ANY_TASK)]:
        raise ConfigError(f"{source}: nobody knows task {unknown[0]!r}; {_hint(unknown[0], known)}")


def check_names(
    rules: Sequence[Rule], known: KnownNames, source: str, *, first: bool = False
) -> None:
    """Refuse a rule that names a directive, a task or a model that nobody knows.

    A condition with a wildcard is not checked: it may be meant for names that are still to come.

    Args:
        first: True if no request was seen yet. A task is then refused only if a known one is
            similar: callers choose tasks freely.

    Raises:
        ConfigError: the message names the source, the rule, the field and a similar name.
    """
    for rule in rules:
        for field, name, names in (
            ("force", rule.force, known.directives),
            ("when.task", rule.when.task, known.tasks),
            ("when.model", rule.when.model, known.models),
        ):
            if name is None or not names or any(fnmatchcase(one, name) for one in names):
                continue
            is_condition = field.startswith("when")
            if is_condition and any(character in name for character in "*?["):
                continue
            hint = _hint(name, names)
            if first and field == "when.task" and not hint.startswith("did you mean"):
                continue
            if is_condition:
                hint += f" If callers will send it later, write {name + '*'!r}"
            problem = f"rule {rule.name!r}, {field}: nobody knows {name!r}"
            raise ConfigError(f"rules {source}: {problem}; {hint}")
