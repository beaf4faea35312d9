"""Load on a live server, seen as a gateway would see it, and the server's metered windows."""

import asyncio
import random
import string
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import openai
from openai import AsyncOpenAI
from openai.types import CompletionUsage

from envs.energy.meter import EnergyReading, Meter, WindowReader
from envs.energy.work import Activity
from envs.errors import MeterError, UpstreamError

# A word of these is about a token to most tokenizers.
_WORD_LETTERS = 3


@dataclass(frozen=True)
class Question:
    """What is asked: how long the prompt is to be about, and how long the answer at most."""

    prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True)
class Played:
    """What was asked in a bounded time, each question with what was seen of its answer.

    Attributes:
        cut: answers that had begun and not ended; their tokens are counted by the pieces that
            came, as many a piece as in those that ended, else one.
    """

    ended: list[tuple[Question, Activity]]
    cut: list[tuple[Question, Activity]]

    @property
    def all(self) -> list[tuple[Question, Activity]]:
        """Those that ended, then those that were cut off."""
        return [*self.ended, *self.cut]

    @property
    def activities(self) -> list[Activity]:
        """Of all that was begun to be answered."""
        return [activity for _, activity in self.all]


@dataclass
class _Answer:
    question: Question
    key: str
    start: float
    first: float | None = None
    last: float = 0.0
    end: float = 0.0
    pieces: int = 0
    usage: CompletionUsage | None = None


@contextmanager
def metered(meter: Meter, window_seconds: float = 1.0) -> Iterator[list[EnergyReading]]:
    """A meter's windows, read in a thread; the list is complete once the context has ended.

    Raises:
        MeterError: there was no window in all that time.
    """
    reader, over = WindowReader(meter), threading.Event()
    windows: list[EnergyReading] = []

    def watch() -> None:
        while not over.wait(window_seconds):
            if (reading := reader.read()) is not None:
                windows.append(reading)

    reader.read()
    thread = threading.Thread(target=watch, name="sprout-metering", daemon=True)
    thread.start()
    try:
        yield windows
    finally:
        over.set()
        thread.join()
    # A counter that ticks slowly may owe the last of it.
    deadline = time.monotonic() + 2 * meter.tick_seconds + window_seconds
    while time.monotonic() < deadline:
        if (last := reader.read()) is not None:
            windows.append(last)
            break
        time.sleep(window_seconds / 20)
    if not windows:
        problem = reader.problem or "the counter did not move"
        raise MeterError(f"{meter.source}: no window in all that time; {problem}")


def play(
    url: str, model: str, at_once: int, ask: Callable[[], Question | None], seed: int = 0
) -> list[Activity]:
    """Keep `at_once` requests in flight until there is nothing more to ask, and wait for the last.

    Prompts are random words, so that no cache of prefixes spares their reading.

    Raises:
        UpstreamError: a request failed, or the server reports no usage.
    """
    return play_for(url, model, at_once, ask, None, seed).activities


def play_for(
    url: str,
    model: str,
    at_once: int,
    ask: Callable[[], Question | None],
    seconds: float | None,
    seed: int = 0,
) -> Played:
    """As `play`, but what has not ended after so many seconds is cut off.

    Raises:
        UpstreamError: a request failed, or the server reports no usage.
    """
    begun: list[_Answer] = []
    asyncio.run(_play_for(url, model, at_once, ask, seconds, random.Random(seed), begun))
    ended = [(a.question, _ended(a, a.usage)) for a in begun if a.usage is not None]
    cut = [a for a in begun if a.usage is None and a.first is not None]
    pieces = sum(a.pieces for a in begun if a.usage is not None)
    rate = sum(a.completion_tokens for _, a in ended) / pieces if pieces else 1.0
    # What a chat template adds.
    more = round(np.mean([a.prompt_tokens - q.prompt_tokens for q, a in ended])) if ended else 0
    return Played(ended, [(a.question, _cut(a, more, rate)) for a in cut])


def timed(seconds: float, questions: Sequence[Question], seed: int = 0) -> Callable[[], Question]:
    """One of these by lot, for so long; for `play`."""
    rng = random.Random(seed)
    until = time.monotonic() + seconds

    def ask() -> Question | None:
        return rng.choice(questions) if time.monotonic() < until else None

    return ask  # type: ignore[return-value]


async def _play_for(
    url: str,
    model: str,
    at_once: int,
    ask: Callable[[], Question | None],
    seconds: float | None,
    rng: random.Random,
    begun: list[_Answer],
) -> None:
    try:
        async with asyncio.timeout(seconds):
            await _play(url, model, at_once, ask, rng, begun)
    except TimeoutError:
        pass


async def _play(
    url: str,
    model: str,
    at_once: int,
    ask: Callable[[], Question | None],
    rng: random.Random,
    begun: list[_Answer],
) -> None:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)

    async def one() -> None:
        """Ask again and again."""
        while (question := ask()) is not None:
            begun.append(_Answer(question, f"{rng.getrandbits(64):016x}", time.time()))
            await _answered(client, model, begun[-1], rng)

    try:
        async with client, asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(one())
    except* openai.OpenAIError as errors:
        raise UpstreamError(f"a request to {url} failed: {errors.exceptions[0]}") from None
    except* UpstreamError as errors:
        raise UpstreamError(str(errors.exceptions[0])) from None


async def _answered(client: AsyncOpenAI, model: str, answer: _Answer, rng: random.Random) -> None:
    words = (
        "".join(rng.choices(string.ascii_lowercase, k=_WORD_LETTERS))
        for _ in range(answer.question.prompt_tokens)
    )
    text, usage = " ".join(words), None
    answer.start = time.time()
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        max_tokens=answer.question.max_tokens,
        temperature=0.0,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        if chunk.choices and chunk.choices[0].delta.content:
            answer.pieces += 1
            answer.last = time.time()
            answer.first = answer.first or answer.last
    if usage is None:
        raise UpstreamError("the server reports no token usage; nothing to account by")
    answer.end, answer.usage = time.time(), usage


def _ended(answer: _Answer, usage: CompletionUsage) -> Activity:
    return Activity(
        key=answer.key,
        start=answer.start,
        first=answer.first,
        end=answer.end,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )


def _cut(answer: _Answer, more: int, rate: float) -> Activity:
    tokens = min(answer.question.max_tokens, round(answer.pieces * rate))
    return Activity(
        key=answer.key,
        start=answer.start,
        first=answer.first,
        end=answer.last,
        prompt_tokens=answer.question.prompt_tokens + more,
        completion_tokens=tokens,
    )
