"""`sprout profile`: record a workload's outcomes under every directive from a live server."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from rich.progress import Progress

from agents.policy.bundle_files import sha256_of
from envs.energy.meter import Meter
from envs.energy.meters.choose import choose_meter
from envs.energy.meters.flags import MeterFlags
from envs.energy.meters.tokens import TokenMeter
from envs.errors import ConfigError, DataError
from envs.live import LiveBackend
from envs.outcomes.outcome import Outcomes
from envs.outcomes.profile import Profile, write_profile
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import Catalogue, read_catalogue
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from experiments.record.recorded_requests import read_requests
from experiments.settings import Settings
from experiments.tracking import tracked

IN_FLIGHT = 32
WARM_UP = 8
# Requests that are played at once, and the directive.
_Turn = tuple[NDArray[Any], int]


class ProfileCommand(MeterFlags, Settings):
    """Record a profile of generated or given requests; run again to resume when interrupted."""

    upstream: str = Field(description="URL of the Llama server")
    model: str | None = Field(None, description="model to ask for; default the server's first")
    out: Path = Field(description="Parquet file to write")
    requests: Path | None = Field(
        None, description="Parquet of chats to play, as `sprout ledger export` writes them"
    )
    per_task: int = Field(300, ge=1, description="generated requests a task, without --requests")
    directives: Path | None = Field(None, description="YAML catalogue; default the paper's three")
    in_flight: int = Field(IN_FLIGHT, ge=1, description="requests in flight together")
    joules_per_token: float | None = Field(
        None, gt=0, description="stated energy of a token, for a server on another machine"
    )
    seed: int = 0

    def cli_cmd(self) -> None:
        """Record and write."""
        if self.requests is not None:
            requests = read_requests(self.requests)
        else:
            requests = generate_requests(self.per_task, self.seed)
        catalogue = read_catalogue(self.directives)
        with Upstream(self.upstream, self.model) as upstream:
            meter: Meter
            if self.joules_per_token is None:
                meter = choose_meter(self.upstream, wanted=self.wanted())
            else:
                meter = TokenMeter(upstream, self.joules_per_token)
            backend = LiveBackend(upstream, meter, catalogue, requests)
            profile = record(backend, catalogue, upstream.model, self.out, self.in_flight)
        self.save(self.out.parent)
        settings = self.model_dump(mode="json") | {"energy_method": profile.outcomes.energy_method}
        with tracked(settings, self.out.parent / "tracking", group="profile") as run:
            digest = sha256_of(self.out)
            # Only named: it holds prompts.
            run.artifact("profile", "profile", [self.out], {"digest": digest}, copied=False)
        print(
            f"{len(profile.requests)} requests x {len(profile.directives)} directives in "
            f"{self.out}; joules {profile.outcomes.energy_method} ({meter.source})"
        )


def record(
    backend: LiveBackend,
    catalogue: Catalogue,
    model: str,
    out: Path,
    in_flight: int = IN_FLIGHT,
    label: str = "profile",
) -> Profile:
    """Play every request under every directive and write the profile.

    Requests go in blocks of `in_flight`; a block's requests run under one directive
    at a time, each such window metered by itself, so that differences between
    directives are read, not assumed. A window that ends before the meter ticks is carried
    into the next: one window over both, split by tokens. Finished windows are kept in
    `out`.partial, from which a later call goes on.

    Raises:
        UpstreamError, MeterError: the server or its meter failed; what was recorded stays.
        ConfigError: the partial file was recorded under other settings.
    """
    partial = out.with_suffix(out.suffix + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    session = {"model": model, "catalogue": catalogue.to_rows(), **backend.conditions()}
    kept = _resumed(partial, session, backend.requests)
    count = len(backend.requests)
    warm = np.arange(min(WARM_UP, count))
    backend.play(warm, np.zeros(len(warm), dtype=np.int64))
    with Progress() as progress, partial.open("a", encoding="utf-8") as journal:
        bar = progress.add_task(label, total=count * len(catalogue), completed=len(kept))
        waiting: list[_Turn] = []

        def keep(metered: list[Outcomes]) -> None:
            """Write those that waited, if the meter has seen them by now."""
            # Turns that were played again for the meter alone come last.
            for (window, action), outcomes in zip(waiting, metered, strict=False):
                name = catalogue[action].name
                fresh = outcome_rows(backend.requests, window, outcomes, name, model)
                journal.writelines(json.dumps(row) + "\n" for row in fresh)
                kept.update({(row["request_id"], row["directive"]): row for row in fresh})
                progress.advance(bar, len(window))
            if metered:
                journal.flush()
                waiting.clear()

        for window, action in _turns(count, in_flight, len(catalogue)):
            name = catalogue[action].name
            # A window is kept whole or played again: its joules were split over all of it.
            if all((backend.requests[r].request_id, name) in kept for r in window):
                continue
            waiting.append((window, action))
            keep(backend.carry(window, np.full(len(window), action)))
        while waiting:
            # The meter owes the last of it.
            window, action = waiting[-1]
            keep(backend.carry(window, np.full(len(window), action)))
    write_profile(out, kept.values())
    profile = read_profile(out, directives=catalogue.names)
    partial.unlink()
    return profile


def _turns(count: int, in_flight: int, directives: int) -> Iterator[_Turn]:
    """Blocks of requests, each under every directive; each begins with another directive.

    So drift favours none.
    """
    for block, start in enumerate(range(0, count, in_flight)):
        for turn in range(directives):
            yield np.arange(start, min(start + in_flight, count)), (block + turn) % directives


def _resumed(
    partial: Path, session: Mapping[str, Any], requests: Sequence[Request]
) -> dict[tuple[str, str], dict[str, Any]]:
    """What a cut-off recording kept; leaves `partial` ready to be appended to."""
    text = partial.read_text(encoding="utf-8") if partial.exists() else ""
    # Whatever interrupted us may have cut the last line: it is recorded again.
    lines = text[: text.rfind("\n") + 1].splitlines()
    try:
        rows = [json.loads(line) for line in lines]
    except ValueError as error:
        raise DataError(partial, f"holds what is no JSON ({error})", "delete the file") from error
    prompts = {request.request_id: request.messages_json for request in requests}
    if rows and (
        rows[0] != session or any(prompts.get(r["request_id"]) != r["messages"] for r in rows[1:])
    ):
        raise ConfigError(
            f"{partial} was recorded under other settings (requests, model, directives, meter); "
            "use the same as then, or delete the file"
        )
    rows = rows or [dict(session)]
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {(row["request_id"], row["directive"]): row for row in rows[1:]}


def outcome_rows(
    requests: Sequence[Request],
    rows: Any,
    outcomes: Outcomes,
    directive: str,
    model: str,
) -> list[dict[str, Any]]:
    """Profile rows of one window."""
    result = []
    for i, row in enumerate(rows):
        request = requests[int(row)]
        correct = float(outcomes.correct[i])
        result.append(
            {
                "request_id": request.request_id,
                "task": request.task,
                "model": model,
                "directive": directive,
                "messages": request.messages_json,
                "reference": request.reference,
                "difficulty": request.difficulty,
                "response": outcomes.responses[i] if outcomes.responses else None,
                "prompt_tokens": int(outcomes.prompt_tokens[i]),
                "completion_tokens": int(outcomes.completion_tokens[i]),
                "energy_joules": float(outcomes.energy_joules[i]),
                "energy_method": outcomes.energy_method,
                "latency_seconds": float(outcomes.latency_seconds[i]),
                "device_seconds": float(outcomes.device_seconds[i]),
                "preference": None,
                "correct": None if np.isnan(correct) else correct,
            }
        )
    return result
