"""Load on a live server, seen as a gateway would see it, and the server's metered windows."""

import asyncio
import random
import string
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import openai
from openai import AsyncOpenAI

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
    """Keep `at_once` requests in flight until there is nothing more to ask.

    Prompts are random words, so that no cache of prefixes spares their reading.

    Raises:
        UpstreamError: a request failed, or the server reports no usage.
    """
    return asyncio.run(_play(url, model, at_once, ask, random.Random(seed)))


def timed(seconds: float, questions: Sequence[Question], seed: int = 0) -> Callable[[], Question]:
    """One of these by lot, for so long; for `play`."""
    rng = random.Random(seed)
    until = time.monotonic() + seconds

    def ask() -> Question | None:
        return rng.choice(questions) if time.monotonic() < until else None

    return ask  # type: ignore[return-value]


async def _play(
    url: str,
    model: str,
    at_once: int,
    ask: Callable[[], Question | None],
    rng: random.Random,
) -> list[Activity]:
    found: list[Activity] = []
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)

    async def one() -> None:
        """Ask again and again."""
        while (question := ask()) is not None:
            found.append(await _answer(client, model, question, rng))

    try:
        async with client, asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(one())
    except* openai.OpenAIError as errors:
        raise UpstreamError(f"a request to {url} failed: {errors.exceptions[0]}") from None
    except* UpstreamError as errors:
        raise UpstreamError(str(errors.exceptions[0])) from None
    return found


async def _answer(
    client: AsyncOpenAI, model: str, question: Question, rng: random.Random
) -> Activity:
    words = (
        "".join(rng.choices(string.ascii_lowercase, k=_WORD_LETTERS))
        for _ in range(question.prompt_tokens)
    )
    sent, first, pieces, usage = time.time(), None, 0, None
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": " ".join(words)}],
        max_tokens=question.max_tokens,
        temperature=0.0,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        if chunk.choices and chunk.choices[0].delta.content:
            pieces += 1
            first = first or time.time()
    if usage is None:
        raise UpstreamError("the server reports no token usage; nothing to account by")
    key = f"{rng.getrandbits(64):016x}"
    return Activity(key, sent, first, time.time(), usage.prompt_tokens, usage.completion_tokens)
