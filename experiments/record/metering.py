"""Load for a live server, observed as a gateway observes it, and the server's meter windows."""

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

# A random word of this length is about one token in most tokenizers.
_WORD_LETTERS = 3


@dataclass(frozen=True)
class Question:
    """Size of a request: approximate prompt tokens, and the cap on the answer's tokens."""

    prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True)
class Played:
    """Requests whose answers began within a bounded time, each with its observed activity.

    Attributes:
        ended: requests whose answers ended.
        cut: requests whose answers had begun but were cut off. Their tokens are estimated from
            the received pieces, at the ended answers' mean tokens per piece, or 1 if none ended.
    """

    ended: list[tuple[Question, Activity]]
    cut: list[tuple[Question, Activity]]

    @property
    def all(self) -> list[tuple[Question, Activity]]:
        """Requests whose answers ended, then those that were cut off."""
        return [*self.ended, *self.cut]

    @property
    def activities(self) -> list[Activity]:
        """Activities of all requests whose answers began."""
        return [activity for _, activity in self.all]


@dataclass
class _Answer:
    """The observed state of one answer; times are Unix seconds."""

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
    """Read a meter's windows in a thread; the list is complete once the context has ended.

    Raises:
        MeterError: the meter gave no window.
    """
    reader, stopped = WindowReader(meter), threading.Event()
    windows: list[EnergyReading] = []

    def watch() -> None:
        while not stopped.wait(window_seconds):
            if (reading := reader.read()) is not None:
                windows.append(reading)

    reader.read()
    thread = threading.Thread(target=watch, name="sprout-metering", daemon=True)
    thread.start()
    try:
        yield windows
    finally:
        stopped.set()
        thread.join()
    # A counter that ticks slowly may advance only after the load has ended.
    deadline = time.monotonic() + 2 * meter.tick_seconds + window_seconds
    while time.monotonic() < deadline:
        if (last := reader.read()) is not None:
            windows.append(last)
            break
        time.sleep(window_seconds / 20)
    if not windows:
        problem = reader.problem or "the counter did not move"
        raise MeterError(f"{meter.source}: no window was measured; {problem}")


def play(
    url: str, model: str, at_once: int, ask: Callable[[], Question | None], seed: int = 0
) -> list[Activity]:
    """Keep `at_once` requests in flight until `ask` returns None, then wait for the last answers.

    Prompts are random words, so that a prefix cache cannot save work.

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
    """Keep requests in flight as `play` does, but cut off those not ended after `seconds`.

    Args:
        seconds: None waits for all answers.

    Raises:
        UpstreamError: a request failed, or the server reports no usage.
    """
    answers: list[_Answer] = []
    asyncio.run(_play_for(url, model, at_once, ask, seconds, random.Random(seed), answers))
    ended = [(a.question, _ended(a, a.usage)) for a in answers if a.usage is not None]
    cut = [a for a in answers if a.usage is None and a.first is not None]
    pieces = sum(a.pieces for a in answers if a.usage is not None)
    per_piece = sum(a.completion_tokens for _, a in ended) / pieces if pieces else 1.0
    # The chat template adds tokens to every prompt.
    added = round(np.mean([a.prompt_tokens - q.prompt_tokens for q, a in ended])) if ended else 0
    return Played(ended, [(a.question, _cut(a, added, per_piece)) for a in cut])


def timed(seconds: float, questions: Sequence[Question], seed: int = 0) -> Callable[[], Question]:
    """Return a source for `play` that draws random questions for `seconds`, then returns None."""
    rng = random.Random(seed)
    deadline = time.monotonic() + seconds

    def ask() -> Question | None:
        return rng.choice(questions) if time.monotonic() < deadline else None

    return ask  # type: ignore[return-value]


async def _play_for(
    url: str,
    model: str,
    at_once: int,
    ask: Callable[[], Question | None],
    seconds: float | None,
    rng: random.Random,
    answers: list[_Answer],
) -> None:
    """Append the answers to `answers`; stop after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await _play(url, model, at_once, ask, rng, answers)
    except TimeoutError:
        pass


async def _play(
    url: str,
    model: str,
    at_once: int,
    ask: Callable[[], Question | None],
    rng: random.Random,
    answers: list[_Answer],
) -> None:
    """Keep `at_once` requests in flight until `ask` returns None; append each one to `answers`."""
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)

    async def lane() -> None:
        """Send one request after another until there is no question left."""
        while (question := ask()) is not None:
            answers.append(_Answer(question, f"{rng.getrandbits(64):016x}", time.time()))
            await _receive(client, model, answers[-1], rng)

    try:
        async with client, asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(lane())
    except* openai.OpenAIError as errors:
        raise UpstreamError(f"a request to {url} failed: {errors.exceptions[0]}") from None
    except* UpstreamError as errors:
        raise UpstreamError(str(errors.exceptions[0])) from None


async def _receive(client: AsyncOpenAI, model: str, answer: _Answer, rng: random.Random) -> None:
    """Send the answer's question and record the stream in `answer`."""
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
        raise UpstreamError("the server reports no token usage; energy cannot be attributed")
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


def _cut(answer: _Answer, added_tokens: int, per_piece: float) -> Activity:
    """Return the activity of a cut-off answer, with tokens estimated from its pieces."""
    tokens = min(answer.question.max_tokens, round(answer.pieces * per_piece))
    return Activity(
        key=answer.key,
        start=answer.start,
        first=answer.first,
        end=answer.last,
        prompt_tokens=answer.question.prompt_tokens + added_tokens,
        completion_tokens=tokens,
    )
