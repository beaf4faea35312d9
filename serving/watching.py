"""Builds the watch over the quality of answers, beside a hook."""

import os
from collections.abc import Callable

from envs.errors import ConfigError
from serving.hook.grid import Grid, UnknownGrid
from serving.hook.policies import Policies
from serving.ledger.journal import Journal
from serving.ledger.keeper import Keeper
from serving.quality.answers import AnswerMaker, Served
from serving.quality.cell import Cell
from serving.quality.evaluator import Evaluator
from serving.quality.judges.llm_judge import LlmJudge
from serving.quality.judges.protocol import Judge, ReferenceJudge, read_references
from serving.quality.judges.reviews import Reviews
from serving.quality.watch import GridNow, QualityWatch
from serving.settings.hook import HookConfig
from serving.settings.quality import QualityFlags

# Variable with the judge's key.
JUDGE_KEY_VARIABLE = "SPROUT_JUDGE_KEY"


def make_watch(
    config: HookConfig,
    keeper: Keeper,
    policies: Policies,
    grid: Grid | UnknownGrid,
    url_of: Callable[[str], str] | None = None,
) -> QualityWatch:
    """Build the watch. The caller must call `QualityWatch.step` regularly.

    Args:
        keeper: the keeper of the same state folder.
        policies: the bundles in use; the caller refreshes them.
        grid: the grid; the caller refreshes it.
        url_of: returns the base URL of the server of a model; None if only --judge-upstream tells.

    Raises:
        ConfigError, DataError: a flag or a file of the judges is missing or wrong.
    """
    config.check_quality()
    if (upstream := config.judge_upstream) is not None:
        # The routes begin with /v1 themselves.
        base = upstream.rstrip("/").removesuffix("/v1")
        url_of = lambda model: base  # noqa: E731
    if url_of is None:
        raise ConfigError(
            "--judge: the answers to compare with come from the LLM server; give its URL with "
            "--judge-upstream"
        )

    def served(model: str) -> Served | None:
        decider = policies.for_model(model)
        return None if decider is None else Served(decider.bundle.catalogue, decider.rates)

    def grid_now() -> GridNow | None:
        state = grid.current()
        if state is None:
            return None
        return GridNow(float(state.moment.time[0]), state.reading.g_per_kwh)

    def intensity() -> float | None:
        now = grid_now()
        return None if now is None else now.g_per_kwh

    def reaches(cell: Cell, floor: float) -> bool:
        return policies.reaches(*cell, floor)

    journal, reviews, judges = Journal(config.state), Reviews(), make_judges(config)
    answers = AnswerMaker(config, url_of, intensity, keeper.settings.control, journal.write)
    evaluator = Evaluator(
        answers, served, intensity, judges, reviews.add, config.judge_joules_per_token
    )
    return QualityWatch(config, keeper, evaluator, reaches, grid_now, journal, reviews)


def make_judges(config: HookConfig) -> list[Judge]:
    """Return the judges of the settings, the most trustworthy first.

    Raises:
        DataError: a file of the judges is wrong.
    """
    judges: list[Judge] = []
    if config.references is not None:
        judges.append(ReferenceJudge(read_references(config.references)))
    if config.judge is not None and config.judge_model is not None:
        judges.append(make_llm_judge(config, config.judge, config.judge_model))
    return judges


def make_llm_judge(flags: QualityFlags, url: str, model: str) -> LlmJudge:
    """Return a language model as judge, with its key from the environment.

    Raises:
        DataError: a file of the judge is wrong.
    """
    return LlmJudge(
        url,
        model,
        os.environ.get(JUDGE_KEY_VARIABLE) or None,
        rubric=flags.rubric(),
        redactions=flags.redactions(),
        timeout_seconds=flags.judge_timeout,
    )
