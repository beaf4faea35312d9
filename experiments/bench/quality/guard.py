"""`sprout bench guard`: false alarms, and requests until a fall is caught, with known truth."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from envs.arrays import Float64Array
from experiments.settings import Settings, write_json
from serving.proportions import wilson
from serving.quality.detector import Detector


@dataclass(frozen=True)
class Answers:
    """Answers to one task's requests, by L0 and by the policy, each right or wrong.

    Attributes:
        l0: share of requests that L0 answers rightly.
        luck: share of requests that only the policy answers rightly, by the chance of sampling.
            As many more are right under L0 alone if the qualities are equal.
    """

    l0: float
    luck: float

    def differences(
        self, ratio: float, floor: float, runs: int, rng: np.random.Generator
    ) -> Float64Array:
        """Return y - floor x y0 of one request in each run, shape (runs,).

        Args:
            ratio: quality of the policy's answers relative to L0.
        """
        right = rng.random(runs) < self.l0
        kept = (ratio * self.l0 - self.luck) / self.l0
        gained = self.luck / (1 - self.l0) if self.l0 < 1 else 0.0
        policy = rng.random(runs) < np.where(right, kept, gained)
        difference: Float64Array = policy - floor * right
        return difference


# An easy task, a middling one, and a hard one whose answers depend much on chance.
TASKS = {"easy": Answers(1.0, 0.0), "middling": Answers(0.7, 0.035), "hard": Answers(0.4, 0.04)}
FALLS = (0.94, 0.9, 0.8, 0.5)
GOOD_REQUESTS = (0, 10_000, 100_000)


class GuardBench(Settings):
    """False alarms at exactly the floor, and requests until a fall of quality is caught.

    Each run is the traffic of one (task, zone) cell. Judged requests are drawn at random and
    looked at one by one.
    """

    runs: int = Field(1000, ge=20, description="simulated cells of each kind")
    floor: float = Field(0.95, gt=0, le=1, description="least quality relative to L0")
    sampling: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.02, 0.0033], min_length=1, description="shares of the requests that are judged"
    )
    false_alarms: float = Field(
        0.05, gt=0, lt=1, description="largest probability of a false alarm within --per requests"
    )
    per: int = Field(100_000, ge=1, description="requests of --false-alarms")
    horizon: int = Field(1_000_000, ge=1, description="most requests after a fall")
    seed: int = Field(0, description="seed of the traffic")
    json_path: Path | None = Field(
        None, alias="json", description="write the result as JSON to this file"
    )

    def cli_cmd(self) -> None:
        """Simulate, print the figures and write the JSON result."""
        rows: list[dict[str, Any]] = []
        for share in self.sampling:
            for task, answers in TASKS.items():
                row = self._false_alarms(answers, share)
                rows.append({"sampling": share, "task": task, **row})
                low, high = row["ci95"]
                print(
                    f"{share:.2%} judged, {task}: false alarms at the floor in {row['share']:.1%} "
                    f"[{low:.1%}, {high:.1%}] of {self.runs} cells in {self.per:,} requests"
                )
                for good in GOOD_REQUESTS:
                    for ratio in FALLS:
                        row = self._fall(answers, share, good, ratio)
                        rows.append({"sampling": share, "task": task, **row})
                        print(
                            f"  to {ratio} after {good:,} good requests: caught after "
                            f"{_requests(row['median'])} in the median, {_requests(row['p90'])} in "
                            f"nine of ten; {row['missed']:.1%} not within {self.horizon:,}"
                        )
        settings = self.model_dump(mode="json", exclude={"json_path", "config"})
        tasks = {name: asdict(answers) for name, answers in TASKS.items()}
        write_json(
            self.json_path, {"schema": 1, "settings": settings, "tasks": tasks, "rows": rows}
        )

    def _detector(self) -> Detector:
        return Detector(
            falls=True,
            threshold=self.per / self.false_alarms,
            streams=self.runs,
        )

    def _false_alarms(self, answers: Answers, share: float) -> dict[str, Any]:
        rng = np.random.default_rng(self.seed)
        detector, alarmed = self._detector(), np.zeros(self.runs, dtype=np.bool_)
        for _ in range(int(self.per * share)):
            detector.add(answers.differences(self.floor, self.floor, self.runs, rng), share)
            alarmed |= detector.alarms
        return {
            "ratio": self.floor,
            "share": float(alarmed.mean()),
            "ci95": wilson(int(alarmed.sum()), self.runs),
        }

    def _fall(self, answers: Answers, share: float, good: int, ratio: float) -> dict[str, Any]:
        """Return the requests until a fall is caught.

        A cell with a false alarm before the fall begins again, as the guard does after each alarm.
        """
        rng = np.random.default_rng(self.seed)
        detector = self._detector()
        for _ in range(int(good * share)):
            detector.add(answers.differences(1.0, self.floor, self.runs, rng), share)
            detector.restart(detector.alarms)
        caught = np.full(self.runs, np.inf)
        for judged in range(1, int(self.horizon * share) + 1):
            detector.add(answers.differences(ratio, self.floor, self.runs, rng), share)
            caught[detector.alarms & np.isinf(caught)] = judged / share
            if not np.isinf(caught).any():
                break
        median, p90 = np.quantile(caught, [0.5, 0.9], method="higher").tolist()
        return {
            "ratio": ratio,
            "good_requests": good,
            "median": None if np.isinf(median) else median,
            "p90": None if np.isinf(p90) else p90,
            "missed": float(np.isinf(caught).mean()),
        }


def _requests(value: float | None) -> str:
    return "more requests than that" if value is None else f"{value:,.0f} requests"
