"""A verdict on one answer, in comparison with L0's answer to the same request."""

from dataclasses import dataclass

# How an answer compares with L0's.
BETTER, WORSE, TIE = "better", "worse", "tie"
# The judge's answer was none of these; or the judge, or the server whose answer was to be judged,
# did not answer.
NO_VERDICT, FAILED = "no_verdict", "failed"
# Which answer was judged: the one that the user got; the one that the asked floor's price would
# have given, while the guard or the mode kept the policy from giving it; or a control, an answer to
# another request, which a judge must find to be worse.
SERVED, CANDIDATE, CONTROL = "served", "candidate", "control"
# Judge of answers that are L0's own: no judge is asked.
SAME = "same"


@dataclass(slots=True)
class Verdict:
    """One judge's verdict on one answer; a row of the ledger.

    It holds no text of the request or the answers.

    Attributes:
        verdict_id: made of the decision, the arm and the judge, so that none is counted twice.
        decision_id: id of the request's decision.
        decided: time of the decision, Unix seconds.
        time: time of the verdict, Unix seconds.
        model, task, zone: the cell whose quality it is evidence of. `task` is empty for requests
            without a tag that the policy knows.
        policy_version: version of the policy bundle.
        arm: "served", "candidate" or "control".
        directive: directive of the judged answer.
        floor: least quality relative to L0 that was asked for; None if there is no floor.
        probability: probability that the request was sampled.
        judge: name of the judge; "same" if the answer is L0's own.
        rubric: version of the judge's rubric; None if it has none.
        result: "better", "worse" or "tie" relative to L0's answer; "no_verdict" or "failed".
        quality, l0_quality: quality of the two answers, 0..1; None without a verdict. Of an answer
            that is compared only, 1 if it is as good as the other one or better, else 0.
        tokens, l0_tokens: lengths of the two answers, tokens; None if unknown.
        consistent: whether a judge that saw the answers in both orders gave one verdict; None if
            it did not see both.
        judge_tokens: tokens that the judge read and wrote; None if unknown.
        judge_seconds: time that the judge took, s.
        judge_joules: energy that the judge took, J; None if unknown.
        evaluation_joules: energy of the answers that were made only for this, J; None if unknown.
        evaluation_grams: emissions of both, as far as they are known, gCO2e; None if neither is.
        heeded: whether the guard heeds it. Of several judges of one answer it heeds the first.
        counted: whether the guard has counted it.
    """

    verdict_id: str
    decision_id: str
    decided: float
    time: float
    model: str
    task: str
    zone: str
    policy_version: str
    arm: str
    directive: str
    floor: float | None
    probability: float
    judge: str
    rubric: str | None
    result: str
    quality: float | None
    l0_quality: float | None
    tokens: int | None = None
    l0_tokens: int | None = None
    consistent: bool | None = None
    judge_tokens: int | None = None
    judge_seconds: float = 0.0
    judge_joules: float | None = None
    evaluation_joules: float | None = None
    evaluation_grams: float | None = None
    heeded: bool = True
    counted: bool = False
