"""Send a day of requests to a URL with the official `openai` client, and meter them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openai
from openai import AsyncOpenAI
from rich.progress import Progress

from envs.arrays import Float64Array
from envs.backends.live import DEFAULT_MAX_TOKENS
from envs.carbon.footprint import footprint_grams
from envs.energy.meter import Meter, Window, attributed_method, busy_seconds, split_by_tokens
from envs.errors import UpstreamError
from envs.requests.directive import Directive
from envs.requests.quality import correctness
from envs.requests.request import Request


@dataclass(frozen=True)
class Arm:
    """Results of one way of answering the n requests.

    Attributes:
        name: name of the arm in the report.
        directives: name of the directive of each request.
        tokens: generated tokens, shape (n,).
        joules: J, shape (n,).
        seconds: latency, s, shape (n,).
        grams: gCO2e, shape (n,).
        correct: score of each answer, shape (n,).
        energy_method: "attributed" or "estimated".
        energy_source: description of the meter.
    """

    name: str
    directives: tuple[str, ...]
    tokens: Float64Array
    joules: Float64Array
    seconds: Float64Array
    grams: Float64Array
    correct: Float64Array
    energy_method: str
    energy_source: str


@dataclass(frozen=True)
class Target:
    """Destination of an arm's requests.

    Attributes:
        name: name of the arm in the report.
        url: base URL of an OpenAI-compatible server.
        model: name of the model to request.
        directive: directive that this client adds to each request; None sends requests as they
            are.
    """

    name: str
    url: str
    model: str
    directive: Directive | None = None


def drive(
    target: Target,
    requests: Sequence[Request],
    intensity_g_per_kwh: Float64Array,
    meter: Meter,
    gap_seconds: float,
) -> Arm:
    """Send one request per gap and meter all of them as one window.

    Args:
        intensity_g_per_kwh: carbon intensity when each request is sent, gCO2e/kWh, shape (n,).
        gap_seconds: time between two requests, s.

    Raises:
        UpstreamError: a request failed, or the server reports no token usage.
    """
    window = Window(meter)
    answers = asyncio.run(_send_all(target, requests, gap_seconds))
    energy = window.close()
    prompt = np.array([a.prompt_tokens for a in answers], dtype=np.float64)
    tokens = np.array([a.completion_tokens for a in answers], dtype=np.float64)
    seconds = np.array([a.seconds for a in answers])
    joules = split_by_tokens(energy.joules, prompt, tokens)
    correct = [
        correctness(r.task, a.text, r.reference) for r, a in zip(requests, answers, strict=True)
    ]
    starts = np.array([a.started for a in answers])
    # Embodied carbon counts only busy time, so idle gaps between requests are left out.
    device = split_by_tokens(busy_seconds(starts, starts + seconds), prompt, tokens)
    return Arm(
        target.name,
        tuple(a.directive for a in answers),
        tokens,
        joules,
        seconds,
        footprint_grams(joules, device, intensity_g_per_kwh),
        np.array(correct),
        attributed_method(energy.method),
        energy.source,
    )


@dataclass(frozen=True)
class _Answer:
    text: str
    prompt_tokens: int
    completion_tokens: int
    started: float
    seconds: float
    directive: str


async def _send_all(
    target: Target, requests: Sequence[Request], gap_seconds: float
) -> list[_Answer]:
    # No retries: their energy would be metered as part of this arm.
    client = AsyncOpenAI(base_url=f"{target.url}/v1", api_key="none", max_retries=0, timeout=120)
    loop = asyncio.get_running_loop()
    started = loop.time()
    with Progress() as progress:
        bar = progress.add_task(target.name, total=len(requests))

        async def send(index: int, request: Request) -> _Answer:
            """Send the request at its time and measure its latency."""
            await asyncio.sleep(max(0.0, started + index * gap_seconds - loop.time()))
            messages = list(request.messages)
            if target.directive is not None:
                messages = list(target.directive.messages(request.messages))
            sent = loop.time()
            raw = await client.chat.completions.with_raw_response.create(
                model=target.model,
                messages=messages,  # type: ignore[arg-type]
                max_tokens=DEFAULT_MAX_TOKENS,
                temperature=0.0,
                extra_headers={"x-sprout-task": request.task},
            )
            answer = raw.parse()
            seconds = loop.time() - sent
            progress.advance(bar)
            directive = raw.headers.get("x-sprout-directive")
            usage = answer.usage
            if usage is None:
                raise UpstreamError(
                    f"{target.name}: {target.url} reports no token usage, so energy cannot be "
                    "attributed"
                )
            return _Answer(
                answer.choices[0].message.content or "",
                usage.prompt_tokens,
                usage.completion_tokens,
                sent,
                seconds,
                directive or (target.directive.name if target.directive else "none"),
            )

        try:
            async with client, asyncio.TaskGroup() as group:
                tasks = [group.create_task(send(i, r)) for i, r in enumerate(requests)]
        except* openai.OpenAIError as errors:
            first = errors.exceptions[0]
            raise UpstreamError(
                f"{target.name}: a request to {target.url} failed: {first}"
            ) from first
        except* UpstreamError as errors:
            raise UpstreamError(str(errors.exceptions[0])) from None
    return [task.result() for task in tasks]
