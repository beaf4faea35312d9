"""`sprout judge`: let a language model pick the best answer to each request of a profile.

This is how SPROUT measures quality (Li et al., EMNLP 2024, section 3.4): the judge sees the answers
under all directives at once, in an order drawn at random. It fills the profile's `preference`, the
quality of `sprout train --quality preference`.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
from pydantic import Field
from rich.progress import track

from envs.errors import ConfigError, DataError
from envs.outcomes.profile import write_profile
from experiments.settings import Settings
from serving.quality.judges.llm_judge import JudgeError, LlmJudge
from serving.settings.quality import QualityFlags
from serving.watching import make_llm_judge

_Rows = list[dict[str, Any]]


class JudgeCommand(Settings):
    """Judge a profile's answers: which directive's answer to each request is the best one?

    Requests without a verdict keep an unknown preference, and are counted.
    """

    outcomes: Path = Field(description="Parquet profile with the answers' texts")
    out: Path = Field(description="Parquet file to write: the same with the judge's preference")
    judge: str = Field(pattern="^https?://", description="URL of an OpenAI-compatible server")
    judge_model: str = Field(description="model that judges; key in SPROUT_JUDGE_KEY")
    judge_rubric: Path | None = Field(None, description="text file with the judge's rubric")
    judge_redact: Path | None = Field(
        None, description="file of regular expressions, taken out of all texts"
    )
    judge_timeout: float = Field(60.0, gt=0, description="time limit for a verdict, seconds")
    in_flight: int = Field(8, ge=1, description="requests that are judged side by side")
    seed: int = Field(0, description="seed of the orders in which the judge sees the answers")

    def cli_cmd(self) -> None:
        """Judge, write the profile and print the shares of each directive by task.

        Raises:
            ConfigError: the output exists, or every verdict failed.
            DataError: the profile holds no texts.
        """
        if self.out.exists():
            raise ConfigError(f"--out {self.out}: the file exists; give another one, or delete it")
        rows = pq.read_table(self.outcomes).to_pylist()
        requests: dict[str, _Rows] = {}
        for row in rows:
            requests.setdefault(row["request_id"], []).append(row)
        if not any(row.get("response") for row in rows):
            raise DataError(
                self.outcomes, "holds no answers' texts", "record it with `sprout profile`"
            )
        names = ("judge_rubric", "judge_redact", "judge_timeout")
        flags = QualityFlags.model_validate({name: getattr(self, name) for name in names})
        judge = make_llm_judge(flags, self.judge, self.judge_model)
        groups = list(requests.values())
        with ThreadPoolExecutor(self.in_flight) as pool:
            jobs = pool.map(lambda group: self._pick(judge, group), groups)
            picks = list(track(jobs, "judging", total=len(groups)))
        for group, pick in zip(groups, picks, strict=True):
            for place, row in enumerate(group):
                row["preference"] = None if pick is None else float(place == pick)
        known = sum(pick is not None for pick in picks)
        if not known:
            raise ConfigError(f"--judge {self.judge}: the judge gave no verdict on any request")
        write_profile(self.out, rows)
        self.save(self.out.parent)
        print(f"{known} of {len(groups)} requests judged; {len(groups) - known} without a verdict")
        for line in _shares(rows):
            print(line)

    def _pick(self, judge: LlmJudge, group: _Rows) -> int | None:
        """Return the place of the best answer in a request's rows; None without a verdict."""
        answers = [row["response"] or "" for row in group]
        order = random.Random(f"{self.seed} {group[0]['request_id']}")
        try:
            return judge.pick(orjson.loads(group[0]["messages"]), answers, order)
        except JudgeError:
            return None


def _shares(rows: _Rows) -> list[str]:
    """Return by task how often each directive's answer was the best."""
    lines = []
    for task in sorted({row["task"] for row in rows}):
        of_task = [row for row in rows if row["task"] == task and row["preference"] is not None]
        directives = list(dict.fromkeys(row["directive"] for row in of_task))
        parts = []
        for directive in directives:
            picked = [row["preference"] for row in of_task if row["directive"] == directive]
            parts.append(f"{directive} {100 * sum(picked) / len(picked):.1f} %")
        lines.append(f"{task}: best answer: {', '.join(parts)}")
    return lines
