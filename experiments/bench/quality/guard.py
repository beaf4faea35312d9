"""`sprout bench guard`: false alarms, and requests until a fall is caught, with known truth."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from envs.arrays import BoolArray, Float64Array
from experiments.settings import Settings, write_json
from serving.ledger.quality.verdict import BETTER, TIE, WORSE
from serving.proportions import wilson
from serving.quality.detector import Detector
from serving.quality.judges.agreement import (
    CREDIT,
    RESULTS,
    Agreement,
    cohen_kappa,
    is_biased,
    trust,
)


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


# People's verdicts on answers, and a judge that agrees with them in so many cases beyond chance.
PEOPLE, AGREEING = (0.1, 0.6, 0.3), 0.8
_RAISED = {WORSE: TIE, TIE: BETTER, BETTER: BETTER}
# An easy task, a middling one, and a hard one whose answers depend much on chance.
TASKS = {"easy": Answers(1.0, 0.0), "middling": Answers(0.7, 0.035), "hard": Answers(0.4, 0.04)}
LEAST_KAPPA = 0.4
# Reviewed pairs before a judge changes, at most after it, and between two looks.
_REVIEWS_BEFORE, _MOST_REVIEWS, _LOOK_EVERY = 300, 1500, 10
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
    cells: int = Field(20, ge=1, description="cells of a family, for its rate of false alarms")
    bias: float = Field(
        0.1, gt=0, lt=0.5, description="credit by which a judge comes to favour answers, 0..1"
    )
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
                    f"[{low:.1%}, {high:.1%}] of {self.runs} cells in {self.per:,} requests; in "
                    f"{row['families']:.1%} of families of {self.cells} cells, {self.per:,} each"
                )
                for good in GOOD_REQUESTS:
                    for ratio in FALLS:
                        row = self._fall(answers, share, good, ratio)
                        rows.append({"sampling": share, "task": task, **row})
                        print(
                            f"  to {ratio} after {good:,} good requests: caught after "
                            f"{_requests(row['median'])} in the median, {_requests(row['p90'])} in "
                            f"nine of ten, {_requests(row['p99'])} in 99 of 100; "
                            f"{row['missed']:.1%} not within {self.horizon:,}"
                        )
        bias = self._bias()
        print(
            f"a judge that agreed with people comes to favour answers by {100 * self.bias:g} "
            f"points: it may not loosen any more after {bias['median']:.0f} reviewed pairs in the "
            f"median, {bias['p90']:.0f} in nine of ten of {bias['runs']} runs; one that stays as "
            f"it was lost that right in {bias['false']:.1%} of them within {bias['pairs']} pairs"
        )
        settings = self.model_dump(mode="json", exclude={"json_path", "config"})
        tasks = {name: asdict(answers) for name, answers in TASKS.items()}
        write_json(
            self.json_path,
            {"schema": 1, "settings": settings, "tasks": tasks, "rows": rows, "bias": bias},
        )

    def _bias(self) -> dict[str, Any]:
        """Return the reviewed pairs after which a judge that turned biased may not loosen."""
        rng, runs = np.random.default_rng(self.seed), max(5, self.runs // 10)
        noticed = np.array([_reviews_until(rng, self.bias) for _ in range(runs)])
        kept = np.array([_reviews_until(rng, 0.0) for _ in range(runs)])
        median, p90 = np.quantile(noticed, [0.5, 0.9], method="higher").tolist()
        return {
            "runs": runs,
            "pairs": _MOST_REVIEWS,
            "median": median,
            "p90": p90,
            "false": float((kept < _MOST_REVIEWS).mean()),
        }

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
            "families": float(_families(alarmed, self.cells).mean()),
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
        shown = np.quantile(caught, [0.5, 0.9, 0.99], method="higher").tolist()
        known = [None if np.isinf(value) else value for value in shown]
        return {
            "ratio": ratio,
            "good_requests": good,
            **dict(zip(("median", "p90", "p99"), known, strict=True)),
            "missed": float(np.isinf(caught).mean()),
        }


def _families(alarmed: BoolArray, cells: int) -> BoolArray:
    """Return whether each family of cells has an alarm."""
    cells = min(cells, len(alarmed))
    whole = len(alarmed) // cells * cells
    return np.asarray(alarmed[:whole].reshape(-1, cells).any(axis=1), dtype=np.bool_)


def _reviews_until(rng: np.random.Generator, bias: float) -> int:
    """Return the reviews until a judge may not loosen; `_MOST_REVIEWS` if it still may then.

    It has agreed with people on `_REVIEWS_BEFORE` pairs before.

    Args:
        bias: credit that it adds to the answers from then on, in the mean.
    """
    count = _REVIEWS_BEFORE + _MOST_REVIEWS
    people = rng.choice(RESULTS, count, p=PEOPLE)
    judge = np.where(rng.random(count) < AGREEING, people, rng.choice(RESULTS, count, p=PEOPLE))
    raisable = float((judge != BETTER).mean())
    raised = rng.random(count) < 2 * bias / raisable
    raised[:_REVIEWS_BEFORE] = False
    judge = np.where(raised, [_RAISED[result] for result in judge.tolist()], judge)
    pairs = list(zip(judge.tolist(), people.tolist(), strict=True))
    excess = [CREDIT[a] - CREDIT[b] for a, b in pairs]
    for reviews in range(0, _MOST_REVIEWS, _LOOK_EVERY):
        seen = _REVIEWS_BEFORE + reviews
        agreement = Agreement(
            "", None, None, cohen_kappa(pairs[:seen]), None, is_biased(excess[:seen]), False
        )
        if not trust("llm", agreement, LEAST_KAPPA).loosen:
            return reviews
    return _MOST_REVIEWS


def _requests(value: float | None) -> str:
    return "more requests than that" if value is None else f"{value:,.0f} requests"
