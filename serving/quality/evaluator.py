"""The evaluator: makes the answers that a comparison lacks, and asks the judges.

For a served answer that is L0's answer to the same request; for a candidate of the policy, while
the guard or the mode keeps the policy back, the candidate's answer too.
"""

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from envs.errors import SproutError
from envs.requests.directive import Message
from serving.apis.routes import APIS
from serving.ledger.quality.verdict import CANDIDATE, CONTROL, FAILED, SAME, SERVED, TIE, Verdict
from serving.quality.answers import NONE, Answer, AnswerMaker, MissingAnswerError, Served
from serving.quality.judges.protocol import Judge, Opinion, compared
from serving.quality.judges.reviews import Pair
from serving.quality.sampling.sample import Sample

log = logging.getLogger("sprout")
# Share of judged pairs that are followed by a control.
CONTROL_SHARE = 0.05
# Weight of one verdict in the share that did not fail.
_SUCCESS_WEIGHT = 0.02
# In the place of a judge, where an answer to compare with could not be made.
NOBODY = "nobody"


class Evaluator:
    """Judges samples.

    Args:
        answers: makes answers.
        served: returns what is in use for a model; None if nothing is.
        intensity: returns the carbon intensity now, gCO2e/kWh; None if unknown.
        judges: the judges; the first one that has an opinion on a request is the one that the
            guard heeds, and the others' opinions tell how far they agree.
        show: takes each pair of answers that was judged, for people to judge too.
        judge_joules: energy of a judge's token, J; None if unknown.
    """

    def __init__(
        self,
        answers: AnswerMaker,
        served: Callable[[str], Served | None],
        intensity: Callable[[], float | None],
        judges: Sequence[Judge],
        show: Callable[[Pair], None],
        judge_joules: float | None = None,
    ) -> None:
        self.answers = answers
        self._served = served
        self._intensity = intensity
        self._judges = tuple(judges)
        self._show = show
        self._judge_joules = judge_joules
        # Share of the last verdicts that did not fail.
        self._success = 1.0
        # L0's last answer, for the next control.
        self._other: str | None = None

    def evaluate(self, sample: Sample) -> list[Verdict]:
        """Return the verdicts on a sample; none if no judge knows such requests.

        A verdict that fails is one too, with the result "failed": it is counted and not guessed.
        """
        messages = APIS[sample.route].messages(sample.body)
        if not any(judge.knows(messages) for judge in self._judges):
            return []
        served = self._served(sample.model)
        tests = [(SERVED, sample.served)] if sample.steered else []
        if sample.candidate is not None:
            tests.append((CANDIDATE, sample.candidate))
        answers: dict[str, Answer] = {}
        if sample.answer is not None:
            answers[sample.served] = Answer(sample.answer, sample.tokens, sample.joules)
        verdicts: list[Verdict] = []
        for arm, directive in tests:
            if directive == NONE:
                verdicts.append(self._same(sample, arm, directive))
                continue
            if verdicts and directive == sample.served and sample.steered:
                verdicts += [_as_candidate(v) for v in verdicts if v.arm == SERVED]
                continue
            try:
                if served is None or directive not in served.catalogue.names:
                    raise MissingAnswerError(f"the bundle has no directive {directive!r} any more")
                for name in (directive, NONE):
                    if name not in answers:
                        answers[name] = self.answers.make(sample, name, served)
                verdicts += self._judge(sample, arm, directive, answers)
            except SproutError as error:
                log.warning("a sampled answer is not judged: %s", error)
                self._success -= _SUCCESS_WEIGHT * self._success
                verdicts.append(_verdict(sample, arm, directive, NOBODY))
        self._book(verdicts, [each for name, each in answers.items() if name != sample.served])
        return verdicts

    def _same(self, sample: Sample, arm: str, directive: str) -> Verdict:
        """Return the verdict on an answer that is L0's own.

        It fails as often as judges do: if only the others failed, the ties that need no judge
        would make quality look better than it is.
        """
        verdict = _verdict(sample, arm, directive, SAME)
        verdict.judge_joules = 0.0
        return _fill(verdict, compared(TIE)) if random.random() < self._success else verdict

    def _book(self, verdicts: Sequence[Verdict], made: Sequence[Answer]) -> None:
        """Note in the verdicts what it took to make them; answers count once, at the first one."""
        verdicts[0].evaluation_joules = _sum(answer.joules for answer in made)
        g_per_kwh = self._intensity()
        for verdict in verdicts:
            parts = [verdict.evaluation_joules, verdict.judge_joules]
            joules = sum(part for part in parts if part is not None)
            if g_per_kwh is not None and parts != [None, None]:
                verdict.evaluation_grams = self.answers.site.grams(joules, 0.0, g_per_kwh)

    def _judge(
        self, sample: Sample, arm: str, directive: str, answers: Mapping[str, Answer]
    ) -> list[Verdict]:
        messages = APIS[sample.route].messages(sample.body)
        answer, l0 = answers[directive], answers[NONE]
        verdicts: list[Verdict] = []
        for judge in self._judges:
            verdict = _verdict(sample, arm, directive, judge.name)
            if not self._ask(judge, verdict, messages, answer.text, l0.text):
                continue
            verdict.tokens, verdict.l0_tokens = answer.tokens, l0.tokens
            verdict.heeded = not verdicts
            verdicts.append(verdict)
        if verdicts:
            self._show(Pair(verdicts[0], messages, answer.text, l0.text))
            verdicts += self._controls(sample, messages, l0.text)
        return verdicts

    def _controls(self, sample: Sample, messages: Sequence[Message], l0: str) -> list[Verdict]:
        """Now and then, show the judges the answer to another request: they must find it worse."""
        other, self._other = self._other, l0
        if other is None or other == l0 or random.random() >= CONTROL_SHARE:
            return []
        verdicts = []
        for judge in self._judges:
            verdict = _verdict(sample, CONTROL, NONE, judge.name)
            verdict.heeded = False
            # A judge without a rubric follows a rule, which needs no control.
            if judge.rubric is not None and self._ask(judge, verdict, messages, other, l0):
                verdicts.append(verdict)
        return verdicts

    def _ask(
        self, judge: Judge, verdict: Verdict, messages: Sequence[Message], answer: str, l0: str
    ) -> bool:
        """Fill in a judge's verdict; return whether it has an opinion on such requests."""
        started = time.monotonic()
        try:
            opinion = judge.compare(messages, answer, l0)
        except SproutError as error:
            log.warning("judge %s: %s", judge.name, error)
            opinion = Opinion(FAILED, None, None)
        if opinion is None:
            return False
        if verdict.arm != CONTROL:
            succeeded = float(opinion.quality is not None)
            self._success += _SUCCESS_WEIGHT * (succeeded - self._success)
        verdict.rubric, verdict.judge_seconds = judge.rubric, time.monotonic() - started
        _fill(verdict, opinion)
        if opinion.tokens == 0:
            verdict.judge_joules = 0.0
        elif opinion.tokens is not None and self._judge_joules is not None:
            verdict.judge_joules = opinion.tokens * self._judge_joules
        return True


def _verdict(sample: Sample, arm: str, directive: str, judge: str) -> Verdict:
    """Return a verdict that is still to be filled in."""
    return Verdict(
        verdict_id=f"{sample.decision_id}-{arm}-{judge}",
        decision_id=sample.decision_id,
        decided=sample.decided,
        time=time.time(),
        model=sample.model,
        task=sample.task,
        zone=sample.zone,
        policy_version=sample.policy_version,
        arm=arm,
        directive=directive,
        floor=sample.floor,
        probability=sample.probability,
        judge=judge,
        rubric=None,
        result=FAILED,
        quality=None,
        l0_quality=None,
        # Nothing was made, unless `_book` says so.
        evaluation_joules=0.0,
    )


def _as_candidate(verdict: Verdict) -> Verdict:
    """Return the verdict on a candidate that is the served answer itself; it took nothing more."""
    return replace(
        verdict,
        verdict_id=f"{verdict.decision_id}-{CANDIDATE}-{verdict.judge}",
        arm=CANDIDATE,
        judge_joules=0.0,
        evaluation_joules=0.0,
    )


def _fill(verdict: Verdict, opinion: Opinion) -> Verdict:
    """Note an opinion in a verdict, and return it."""
    verdict.result, verdict.consistent = opinion.result, opinion.consistent
    verdict.quality, verdict.l0_quality = opinion.quality, opinion.l0_quality
    verdict.judge_tokens = opinion.tokens
    return verdict


def _sum(values: Iterable[float | None]) -> float | None:
    """Return a sum; None if a part is unknown."""
    known = list(values)
    total = [value for value in known if value is not None]
    return sum(total) if len(total) == len(known) else None
