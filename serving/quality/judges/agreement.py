"""The agreement of a judge with people, and what it may do by that.

Both have judged the same pairs. Cohen's kappa tells how much more often they agree than by chance;
the bias, whether the judge favours the answers under test more than people do.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from serving.ledger.quality.verdict import BETTER, SAME, TIE, WORSE, Verdict
from serving.proportions import Z95, wilson
from serving.quality.detector import Detector
from serving.quality.judges.protocol import ReferenceJudge
from serving.quality.judges.reviews import PEOPLE

RESULTS = (BETTER, TIE, WORSE)
# Fewest pairs that say anything, and those from which on the interval of large samples holds.
FEWEST, MANY = 20, 50
# A judge that favours an answer more than this is biased. In credit: 1 for better, 1/2 for a tie.
TOLERANCE = 0.05
# Evidence of bias from which on there is an alarm: at most one in so many pairs in the mean, of a
# judge whose bias is the tolerance.
BIAS_THRESHOLD = 2000.0
# A judge that sees fewer of the wrong answers is of no use.
LEAST_RECOGNISED = 0.5
# Credit of an answer by its verdict.
CREDIT = {BETTER: 1.0, TIE: 0.5, WORSE: 0.0}


class Kappa(NamedTuple):
    """Agreement of two judges on n pairs.

    Attributes:
        pairs: n.
        agreement: share of pairs with the same verdict.
        kappa: Cohen's kappa; None if there are too few pairs, or if both gave one and the same
            verdict to all, so that nothing could have been disagreed on.
        low, high: its 95 % interval.
    """

    pairs: int
    agreement: float | None
    kappa: float | None
    low: float | None
    high: float | None


def cohen_kappa(verdicts: Sequence[tuple[str, str]]) -> Kappa:
    """Return Cohen's kappa (1960) of two judges' verdicts, unweighted, over `RESULTS`.

    The interval is that of Fleiss, Cohen and Everitt (1969, equation 13,
    https://doi.org/10.1037/h0028106). With fewer than `MANY` pairs, or where all verdicts agree,
    its width is too small, or zero; then it follows from Wilson's interval of the agreement, the
    agreement by chance taken as known.

    Args:
        verdicts: the two verdicts on each pair.
    """
    count = len(verdicts)
    if count < FEWEST:
        return Kappa(count, None, None, None, None)
    joint = Counter(verdicts)
    share = {(a, b): joint[a, b] / count for a in RESULTS for b in RESULTS}
    rows = {a: sum(share[a, b] for b in RESULTS) for a in RESULTS}
    columns = {b: sum(share[a, b] for a in RESULTS) for b in RESULTS}
    agreed = sum(share[a, a] for a in RESULTS)
    chance = sum(rows[a] * columns[a] for a in RESULTS)
    if chance > 1 - 1e-12:
        return Kappa(count, agreed, None, None, None)
    kappa = (agreed - chance) / (1 - chance)
    if count < MANY or agreed == 1:
        bounds = wilson(round(agreed * count), count) or (0.0, 1.0)
        low, high = ((bound - chance) / (1 - chance) for bound in bounds)
        return Kappa(count, agreed, kappa, low, high)
    diagonal = sum(
        share[a, a] * ((1 - chance) - (rows[a] + columns[a]) * (1 - agreed)) ** 2 for a in RESULTS
    )
    others = (1 - agreed) ** 2 * sum(
        share[a, b] * (columns[a] + rows[b]) ** 2 for a in RESULTS for b in RESULTS if a != b
    )
    rest = (agreed * chance - 2 * chance + agreed) ** 2
    variance = max(0.0, diagonal + others - rest) / (count * (1 - chance) ** 4)
    width = Z95 * math.sqrt(variance)
    return Kappa(count, agreed, kappa, max(-1.0, kappa - width), min(1.0, kappa + width))


@dataclass(frozen=True)
class Agreement:
    """A judge's agreement with people on one task's pairs.

    Attributes:
        judge, rubric, task: what is judged by whom; `task` is None for all tasks together.
        kappa: see `Kappa`.
        bias: how much more credit the judge gives to the answers under test than people do, mean
            over the pairs; None without pairs.
        favours, disfavours: whether the last pairs show that it is biased beyond `TOLERANCE`, in
            favour of these answers or against them.
    """

    judge: str
    rubric: str | None
    task: str | None
    kappa: Kappa
    bias: float | None
    favours: bool
    disfavours: bool

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        kappa = self.kappa._asdict()
        return {
            **{name: getattr(self, name) for name in ("judge", "rubric", "task", "bias")},
            **kappa,
            "favours": self.favours,
            "disfavours": self.disfavours,
        }


class Recognition(NamedTuple):
    """The share of controls in which a judge finds the answer to another request worse.

    Attributes:
        judge, rubric: the judge.
        pairs: such pairs that it was shown.
        recognised: those in which it found the answer worse.
    """

    judge: str
    rubric: str | None
    pairs: int
    recognised: int

    @property
    def blind(self) -> bool:
        """True if the judge was shown to miss more of them than it finds."""
        bounds = wilson(self.recognised, self.pairs)
        return bounds is not None and self.pairs >= FEWEST and bounds[1] < LEAST_RECOGNISED


def recognitions(counts: Iterable[tuple[str, str | None, str, int]]) -> list[Recognition]:
    """Return each judge's recognition of controls.

    Args:
        counts: judge, rubric, result and number of verdicts on controls.
    """
    known: dict[tuple[str, str | None], list[int]] = defaultdict(lambda: [0, 0])
    for judge, rubric, result, count in counts:
        if result in RESULTS:
            known[judge, rubric][0] += count
            known[judge, rubric][1] += count * (result == WORSE)
    return [Recognition(*key, *of_judge) for key, of_judge in sorted(known.items(), key=str)]


class Trust(NamedTuple):
    """The rights of a judge's verdicts.

    Attributes:
        tighten: raise a price or withdraw a policy. Withheld from a judge that was shown to agree
            with people too little, or to disfavour the answers under test.
        restore: give the policy back. Withheld from a judge that was shown to agree with people
            too little, to favour the answers under test, or not to see wrong ones.
        loosen: lower a price below that of the asked floor. Granted only to a judge that was shown
            to agree with people enough, and to see wrong answers and not to favour them.
    """

    tighten: bool
    restore: bool
    loosen: bool


FULL = Trust(tighten=True, restore=True, loosen=True)


def trust(judge: str, agreement: Agreement | None, least: float, *, blind: bool = False) -> Trust:
    """Return what a judge may do.

    Args:
        judge: its name. A reference is no opinion, and needs no agreement.
        agreement: with people; None if it is unknown.
        least: least kappa.
        blind: see `Recognition`.
    """
    if judge in (SAME, ReferenceJudge.name):
        return FULL
    if agreement is None:
        return Trust(tighten=True, restore=not blind, loosen=False)
    kappa = agreement.kappa
    below = kappa.high is not None and kappa.high < least
    above = kappa.low is not None and kappa.low >= least
    return Trust(
        tighten=not below and not agreement.disfavours,
        restore=not below and not agreement.favours and not blind,
        loosen=above and not agreement.favours and not blind,
    )


class TrustTable:
    """The rights of each judge on each task, by its agreement with people.

    A task with too few pairs of its own takes the agreement over all tasks.

    Args:
        known: see `agreements`.
        seen: see `recognitions`.
        least: least kappa.
    """

    def __init__(
        self, known: Iterable[Agreement], seen: Iterable[Recognition], least: float
    ) -> None:
        self._known = {(each.judge, each.rubric, each.task): each for each in known}
        self._blind = {(each.judge, each.rubric) for each in seen if each.blind}
        self._least = least

    def of(self, verdict: Verdict) -> Trust:
        """Return what the judge of a verdict may do on its task."""
        judge, rubric = verdict.judge, verdict.rubric
        agreement = self._known.get((judge, rubric, verdict.task))
        if agreement is None or agreement.kappa.pairs < FEWEST:
            agreement = self._known.get((judge, rubric, None))
        blind = (judge, rubric) in self._blind
        return trust(judge, agreement, self._least, blind=blind)


def agreements(verdicts: Iterable[Verdict]) -> list[Agreement]:
    """Return each judge's agreement with people, for each task and for all tasks together.

    Where several people judged a pair, the last verdict counts.
    """
    people: dict[tuple[str, str], Verdict] = {}
    machines: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.result not in RESULTS:
            continue
        pair = verdict.decision_id, verdict.arm
        if verdict.judge.startswith(PEOPLE):
            people[pair] = verdict
        else:
            machines[pair].append(verdict)
    pairs: dict[tuple[str, str | None, str | None], list[tuple[Verdict, Verdict]]]
    pairs = defaultdict(list)
    for key, person in people.items():
        for machine in machines[key]:
            for task in (machine.task, None):
                pairs[machine.judge, machine.rubric, task].append((machine, person))
    return [
        _agreement(judge, rubric, task, sorted(of_judge, key=lambda pair: pair[0].decided))
        for (judge, rubric, task), of_judge in sorted(pairs.items(), key=str)
    ]


def _agreement(
    judge: str, rubric: str | None, task: str | None, pairs: list[tuple[Verdict, Verdict]]
) -> Agreement:
    excess = [CREDIT[machine.result] - CREDIT[person.result] for machine, person in pairs]
    return Agreement(
        judge,
        rubric,
        task,
        cohen_kappa([(machine.result, person.result) for machine, person in pairs]),
        sum(excess) / len(excess) if excess else None,
        is_biased(excess),
        is_biased([-value for value in excess]),
    )


def is_biased(excess: Sequence[float]) -> bool:
    """Return whether the last of some differences show a mean beyond `TOLERANCE`.

    The evidence forgets nothing that speaks for a bias now, however long there was none: see
    `serving.quality.detector`.

    Args:
        excess: credit by the judge less that by people, -1..1, in the order of the decisions.
    """
    detector = Detector(falls=False, threshold=BIAS_THRESHOLD)
    for value in excess:
        # Within the detector's range, -1..1.
        detector.add((value - TOLERANCE) / (1 + TOLERANCE), 1.0)
    return bool(detector.alarms[0])
