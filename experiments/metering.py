"""Load on a live server, seen as a gateway would see it, and the server's metered windows."""

import asyncio
import random
import string
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import openai
from openai import AsyncOpenAI

from envs.energy import EnergyReading, Meter, Windows
from envs.errors import MeterError, UpstreamError
from envs.work import Activity

# A word of these is about a token to most tokenizers.
_WORD_LETTERS = 3


@dataclass(frozen=True)
class Question:
    """What is asked: how long the prompt is to be about, and how long the answer at most."""

    prompt_tokens: int
    max_tokens: int


class Metering:
    """A meter's windows while the context lasts; read in a thread of its own.

    Attributes:
        windows: so far; complete once the context has ended.
    """

    def __init__(self, meter: Meter, window_seconds: float = 1.0) -> None:
        self.windows: list[EnergyReading] = []
        self._reader = Windows(meter)
        self._period = window_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sprout-metering", daemon=True)

    def __enter__(self) -> Self:
        self._reader.read()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        # A counter that ticks slowly may owe the last of it.
        deadline = time.monotonic() + 2 * self._reader.meter.tick_seconds + self._period
        while time.monotonic() < deadline:
            if (last := self._reader.read()) is not None:
                self.windows.append(last)
                break
            time.sleep(self._period / 20)
        if not self.windows and error is None:
            raise MeterError(
                f"{self._reader.meter.source}: no window in all that time; "
                f"{self._reader.problem or 'the counter did not move'}"
            )

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            if (reading := self._reader.read()) is not None:
                self.windows.append(reading)


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
