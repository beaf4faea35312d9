"""Sums over the verdicts in the ledger's database, for reports."""

from typing import NamedTuple

import sqlalchemy as sa

from serving.ledger.database import Ledger
from serving.ledger.quality.store import VERDICT_COLUMNS
from serving.ledger.quality.verdict import CONTROL, Verdict
from serving.ledger.record import EVALUATION
from serving.ledger.tables import REQUESTS, VERDICTS

_MOST_LENGTHS = 10_000


class Energy(NamedTuple):
    """Energy and emissions of some requests.

    Attributes:
        requests: number of requests.
        joules: energy, J.
        grams: emissions, gCO2e.
        unknown: requests whose energy is unknown.
    """

    requests: int
    joules: float
    grams: float
    unknown: int


class Judging(NamedTuple):
    """Energy and emissions of judging.

    Attributes:
        answers: answers that were made only to compare with.
        joules: energy of these answers, and of the judges as far as it is known, J.
        grams: their emissions, gCO2e.
        unknown: answers and verdicts whose energy is unknown.
    """

    answers: int
    joules: float
    grams: float
    unknown: int


class Tally(NamedTuple):
    """A verdict, and how often (`verdicts`) it was given within one `hour`; see `Verdict`."""

    hour: int
    arm: str
    result: str
    quality: float | None
    l0_quality: float | None
    probability: float
    floor: float | None
    verdicts: int


class JudgeTally(NamedTuple):
    """One result of one judge, how often it was given, and what that took.

    Attributes:
        judge, rubric, result: see `Verdict`.
        verdicts: how often it was given.
        tokens: judge's tokens; None if all are unknown.
        seconds: judge's time, s.
        joules: judge's energy, J; None if all are unknown.
        unknown_joules: verdicts whose energy is unknown.
        seen_twice: verdicts of a judge that saw the answers in both orders.
        consistent: those of them with the same verdict in both.
    """

    judge: str
    rubric: str | None
    result: str
    verdicts: int
    tokens: int | None
    seconds: float
    joules: float | None
    unknown_joules: int
    seen_twice: int
    consistent: int


class QualityTallies:
    """Reads the verdicts; all methods raise LedgerError."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def tallies(
        self, cell: tuple[str, str, str], version: str, after: float, until: float
    ) -> list[Tally]:
        """Return how often each verdict was given that the guard heeds, hour by hour.

        Args:
            cell: model, task and zone.
            version: of the policy bundle.
            after, until: the decisions' period, Unix seconds, without its start.
        """
        v = VERDICTS.c
        # Written out, because PostgreSQL takes two parameters for two expressions.
        hour = sa.cast(sa.literal_column("decided / 3600.0"), sa.BigInteger)
        names = (v.arm, v.result, v.quality, v.l0_quality, v.probability, v.floor)
        query = (
            sa.select(hour, *names, sa.func.count())
            .where(v.model == cell[0], v.task == cell[1], v.zone == cell[2])
            .where(v.policy_version == version, v.heeded, v.decided > after, v.decided < until)
            .group_by(hour, *names)
            .order_by(hour, *names)
        )
        with self._ledger.transaction() as connection:
            return [Tally(*row) for row in connection.execute(query)]

    def cells_judged(self, since: float, until: float) -> set[tuple[str, str, str]]:
        """Return model, task and zone of each cell with a verdict on a decision of a period."""
        v = VERDICTS.c
        query = sa.select(v.model, v.task, v.zone).distinct()
        query = query.where(v.decided >= since, v.decided < until)
        with self._ledger.transaction() as connection:
            return {(row.model, row.task, row.zone) for row in connection.execute(query)}

    def judges(self, since: float, until: float) -> list[JudgeTally]:
        """Return by judge, rubric and result how many verdicts there are, and what they took."""
        v = VERDICTS.c
        names = (v.judge, v.rubric, v.result)
        sums = (v.judge_tokens, v.judge_seconds, v.judge_joules)
        unknown = sa.func.sum(sa.case((v.judge_joules.is_(None), 1), else_=0))
        seen_twice = sa.func.count(v.consistent)
        same = sa.func.sum(sa.case((v.consistent, 1), else_=0))
        query = (
            sa.select(
                *names, sa.func.count(), *(sa.func.sum(c) for c in sums), unknown, seen_twice, same
            )
            .where(v.decided >= since, v.decided < until, v.arm != CONTROL)
            .group_by(*names)
            .order_by(*names)
        )
        with self._ledger.transaction() as connection:
            rows = connection.execute(query).all()
        # PostgreSQL's sum of big integers is a decimal number.
        tallies = [JudgeTally(*row) for row in rows]
        return [each._replace(tokens=each.tokens and int(each.tokens)) for each in tallies]

    def with_lengths(self, since: float, until: float) -> list[Verdict]:
        """Return the last verdicts whose answers' lengths are known, of a period's decisions."""
        v = VERDICTS.c
        query = sa.select(*VERDICT_COLUMNS).where(v.decided >= since, v.decided < until)
        query = query.where(v.tokens.is_not(None), v.l0_tokens.is_not(None))
        query = query.order_by(v.decided.desc()).limit(_MOST_LENGTHS)
        with self._ledger.transaction() as connection:
            return [Verdict(*row) for row in connection.execute(query)]

    def controls(self, since: float) -> list[tuple[str, str | None, str, int]]:
        """Return judge, rubric, result and number of the verdicts on pairs of known quality."""
        v = VERDICTS.c
        names = (v.judge, v.rubric, v.result)
        query = sa.select(*names, sa.func.count()).group_by(*names)
        query = query.where(v.arm == CONTROL, v.decided >= since)
        with self._ledger.transaction() as connection:
            return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query)]

    def also_judged_by(self, prefix: str, since: float) -> list[Verdict]:
        """Return all verdicts on the answers that some judges have judged, oldest first.

        Args:
            prefix: beginning of these judges' names.
            since: time of the first decision, Unix seconds.
        """
        ids = sa.select(VERDICTS.c.decision_id).where(
            VERDICTS.c.judge.startswith(prefix, autoescape=True), VERDICTS.c.decided >= since
        )
        query = sa.select(*VERDICT_COLUMNS).where(VERDICTS.c.decision_id.in_(ids))
        query = query.order_by(VERDICTS.c.decided, VERDICTS.c.time)
        with self._ledger.transaction() as connection:
            return [Verdict(*row) for row in connection.execute(query)]

    def energy(self, since: float, until: float) -> dict[bool, Energy]:
        """Return the energy of the requests of a period: of users, and (True) made to judge."""
        r = REQUESTS.c
        unknown = sa.func.sum(sa.case((r.energy_joules.is_(None), 1), else_=0))
        sums = sa.func.sum(r.energy_joules), sa.func.sum(r.grams), unknown
        of_period = sa.select(sa.func.count(), *sums).where(r.time >= since, r.time < until)
        energies = {}
        with self._ledger.transaction() as connection:
            for made in (False, True):
                query = of_period.where(r.reason == EVALUATION if made else r.reason != EVALUATION)
                count, joules, grams, missing = connection.execute(query).one()
                energies[made] = Energy(count, joules or 0.0, grams or 0.0, missing or 0)
        return energies

    def judging(self, since: float, until: float) -> Judging:
        """Return what judging took in a period, by the records of its answers; Unix seconds."""
        made, v = self.energy(since, until)[True], VERDICTS.c
        query = sa.select(
            sa.func.sum(v.judge_joules),
            sa.func.sum(v.evaluation_grams),
            sa.func.sum(v.evaluation_joules),
            sa.func.sum(sa.case((v.judge_joules.is_(None), 1), else_=0)),
        ).where(v.decided >= since, v.decided < until)
        with self._ledger.transaction() as connection:
            own, grams, answers, unknown = connection.execute(query).one()
        # A verdict's emissions are those of its answers and its judge, so the judge's part follows
        # from its share of the joules. The answers' own come from their records, as measured.
        estimated = (own or 0.0) + (answers or 0.0)
        judges = (grams or 0.0) * (own or 0.0) / estimated if estimated else 0.0
        return Judging(
            made.requests,
            made.joules + (own or 0.0),
            made.grams + judges,
            made.unknown + (unknown or 0),
        )
