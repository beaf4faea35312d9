"""The quality floors in force: those of the start, the operators', a rule's and a caller's."""

from collections.abc import Mapping

from agents.policy.pricing import Floor, Floors
from envs.outcomes.stated_floors import ANY_TASK, floors_file, read_floors
from serving.file_stamp import file_stamp
from serving.settings.control import Control
from serving.settings.rules import Rule


class HookFloors:
    """Combines the floors of all origins for each request.

    By task, an operator's setting counts for more than the flag or file of the start, and both for
    more than the policy's training. A rule replaces them for the requests that it matches. A
    caller can only raise them.

    Args:
        stated: value of `--floor`; None for none.

    Raises:
        SproutError: the value or its file is wrong.
    """

    def __init__(self, stated: str | None) -> None:
        self._stated = stated
        self._path = None if stated is None else floors_file(stated)
        self._stamp = file_stamp(self._path)
        self._start: Mapping[str, float] = {} if stated is None else read_floors(stated)
        self._combined: Floors | None = None
        self._operators: Mapping[str, float] = {}

    @property
    def at_start(self) -> Mapping[str, float]:
        """Floors of the flag or file, by task."""
        return self._start

    def refresh(self) -> None:
        """Read the file again if it has changed.

        Raises:
            SproutError: the file is wrong; the last floors stay in force.
        """
        stamp = file_stamp(self._path)
        if self._stated is None or stamp in (None, self._stamp):
            return
        self._stamp = stamp
        self._start = read_floors(self._stated)
        self._combined = None

    def in_force(self, control: Control, rule: Rule | None, caller: str | None) -> Floors:
        """Return the floors for one request.

        Args:
            control: the operators' settings.
            rule: the rule that matches the request.
            caller: value of the caller's header; None if there is none. What cannot be read counts
                as 1, because the caller wanted a floor.
        """
        if self._combined is None or control.floors is not self._operators:
            self._operators = control.floors
            start = {task: Floor(ratio, "start") for task, ratio in self._start.items()}
            operators = {task: Floor(ratio, "operator") for task, ratio in control.floors.items()}
            self._combined = Floors(start | operators)
        floors = self._combined
        if rule is not None and rule.floor is not None:
            floors = Floors({ANY_TASK: Floor(rule.floor, "rule")})
        if caller is None:
            return floors
        return Floors(floors.by_task, Floor(_ratio(caller), "caller"))


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 1.0
    return min(1.0, max(0.0, value)) if value == value else 1.0
