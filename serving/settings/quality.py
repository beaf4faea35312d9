"""Settings of the watched quality: judges, sampling, the guard and its alarms."""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from envs.errors import ConfigError, DataError


class QualityFlags(BaseModel):
    """Which answers are judged, by whom, and what follows."""

    judge: str | None = Field(
        None,
        pattern="^https?://",
        description="URL of an OpenAI-compatible server that judges sampled answers: their prompts "
        "are sent to it; its key is taken from SPROUT_JUDGE_KEY; default: no such judge",
    )
    judge_model: str | None = Field(None, description="model that judges")
    judge_upstream: str | None = Field(
        None,
        pattern="^https?://",
        description="URL of the LLM server that makes the answers to compare with, with the key of "
        "SPROUT_EVALUATOR_KEY; default: the gateway's upstreams",
    )
    judge_priority: int | None = Field(
        None,
        description="value of the field `priority` in requests for answers to compare with, for "
        "servers that know one (vLLM: higher is later; SGLang: lower is later)",
    )
    judge_rubric: Path | None = Field(
        None, description="text file with the rubric of the judge; default: as in docs"
    )
    judge_redact: Path | None = Field(
        None,
        description="file of regular expressions, one a line: what they match is taken out of all "
        "texts that are sent to the judge",
    )
    judge_agreement: float = Field(
        0.4,
        ge=-1,
        le=1,
        description="least agreement with people (Cohen's kappa): a judge that was shown to be "
        "below may not move the guard, and only one shown to be above may ease a floor's price",
    )
    judge_timeout: float = Field(60.0, gt=0, description="time limit for a verdict, seconds")
    judge_delay: float = Field(
        3600.0,
        ge=0,
        description="longest time that a sampled answer waits for a clean and idle hour before it "
        "is judged, seconds",
    )
    judge_hours: Literal["sprout", "forecast", "any"] = Field(
        "forecast",
        description="hours in which waiting answers are judged: sprout (the rule of its paper), "
        "forecast (the cleanest one within --judge-delay, as yesterday was) or any",
    )
    judge_energy: float = Field(
        0.01,
        gt=0,
        description="largest energy of judging, relative to that of the requests; --sample shrinks "
        "to keep it",
    )
    judge_joules_per_token: float | None = Field(
        None, gt=0, description="energy of the judge per token, J; default: unknown"
    )
    judge_busy: int = Field(
        8, ge=0, description="requests in flight from which on the server counts as busy"
    )
    references: Path | None = Field(
        None,
        description="JSON lines of prompts whose right answers are known (prompt, task, reference)",
    )
    sample: float = Field(
        0.02, ge=0, le=1, description="share of the steered requests that are judged"
    )
    unlike: Literal["l0", "steer"] = Field(
        "l0",
        description="what to do with requests that are unlike all that the policy was trained on: "
        "l0 (no directive) or steer",
    )
    guard: Literal["act", "warn"] = Field(
        "act",
        description="what to do about a task whose quality fell below its floor: act (raise its "
        "price, or keep it at L0) or warn",
    )
    ease_floors: bool = Field(
        False,
        description="lower a task's price step by step while its measured quality exceeds its "
        "floor with confidence",
    )
    alarm_webhook: str | None = Field(
        None,
        pattern="^https?://",
        description="URL that the guard's alarms are sent to, signed with SPROUT_WEBHOOK_SECRET "
        "(https://www.standardwebhooks.com)",
    )

    @property
    def judges(self) -> bool:
        """True if there is a judge of any kind."""
        return self.judge is not None or self.references is not None

    def redactions(self) -> list[re.Pattern[str]]:
        """Return the patterns of `judge_redact`.

        Raises:
            DataError: the file cannot be read, or a line is no regular expression.
        """
        if self.judge_redact is None:
            return []
        patterns = []
        for number, line in enumerate(_text(self.judge_redact).splitlines(), 1):
            if line.strip():
                try:
                    patterns.append(re.compile(line))
                except re.error as error:
                    raise DataError(
                        f"{self.judge_redact}, line {number}",
                        f"is no regular expression ({error})",
                        "give one a line, in Python's syntax",
                    ) from None
        return patterns

    def rubric(self) -> str | None:
        """Return the text of `judge_rubric`; None if it is not given.

        Raises:
            DataError: the file cannot be read or is empty.
        """
        if self.judge_rubric is None:
            return None
        if not (text := _text(self.judge_rubric).strip()):
            raise DataError(self.judge_rubric, "is empty", "give the judge's instructions")
        return text

    def check_quality(self) -> None:
        """Check the flags that need each other, and the files.

        Raises:
            ConfigError, DataError: a flag or a file is missing or wrong.
        """
        if self.judge is not None and self.judge_model is None:
            raise ConfigError("--judge: name the model that judges with --judge-model")
        if self.judge is None and self.judge_model is not None:
            raise ConfigError("--judge-model: give the judge's server with --judge URL")
        if not self.judges:
            given = {"--alarm-webhook": self.alarm_webhook, "--ease-floors": self.ease_floors}
            for flag, value in given.items():
                if value:
                    raise ConfigError(f"{flag}: nobody judges answers; give --judge URL")
        self.redactions()
        self.rubric()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", "give a text file in UTF-8") from None
