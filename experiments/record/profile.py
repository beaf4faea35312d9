"""`sprout profile`: record the outcomes of requests under every directive on a live server."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rich.progress import Progress

from agents.policy.bundle_files import sha256_of
from envs.arrays import AnyArray
from envs.backends.live import LiveBackend
from envs.energy.meter import Meter
from envs.energy.meters.choose import choose_meter
from envs.energy.meters.flags import MeterFlags
from envs.energy.meters.tokens import TokenMeter
from envs.errors import ConfigError, DataError
from envs.outcomes.outcome import Outcomes
from envs.outcomes.profile import Profile, write_profile
from envs.outcomes.profile_reader import read_profile
from envs.requests.directive import Catalogue, Place, read_catalogue
from envs.requests.request import Request
from envs.requests.workload import generate_requests
from envs.upstream import Upstream
from experiments.record.recorded_requests import read_requests
from experiments.settings import Settings
from experiments.tracking import tracked

IN_FLIGHT = 32
WARM_UP = 8
ANSWERED_BY = ("answer_model", "fingerprint")
# Rows of the requests that are played together, and the index of their directive.
_Turn = tuple[AnyArray, int]


class ProfileCommand(MeterFlags, Settings):
    """Record a profile of generated or given requests; resume an interrupted recording."""

    upstream: str = Field(description="URL of the Llama server")
    model: str | None = Field(None, description="model to request; default the server's first")
    out: Path = Field(description="Parquet file to write")
    requests: Path | None = Field(
        None,
        description="file of chats to play: `sprout ledger export`, or your own Parquet, CSV or "
        "JSON lines (OpenAI's batch or fine-tuning files, ShareGPT's)",
    )
    rename: str = Field(
        "",
        description="column names of --requests: OURS=THEIRS,..., with OURS messages, prompt, "
        "reference or task",
    )
    per_task: int = Field(300, ge=1, description="generated requests per task, without --requests")
    directives: Path | None = Field(None, description="YAML catalogue; default the paper's three")
    directive_place: Place | None = Field(
        None,
        description="where a directive's text stands: system, or user (after the last user "
        "message, for models without a system role); default: as in the catalogue",
    )
    in_flight: int = Field(IN_FLIGHT, ge=1, description="requests in flight")
    joules_per_token: float | None = Field(
        None, gt=0, description="assumed J per token, for a server on another machine"
    )
    seed: int = 0

    def cli_cmd(self) -> None:
        """Record the profile, write it and track the run.

        Raises:
            ConfigError: there is a finished profile already.
        """
        if self.out.exists():
            raise ConfigError(
                f"--out {self.out}: there is a profile already; give another file, or delete it"
            )
        if self.requests is not None:
            requests = read_requests(self.requests, self.rename)
        else:
            requests = generate_requests(self.per_task, self.seed)
        print(_trainable(requests))
        catalogue = read_catalogue(self.directives).placed(self.directive_place)
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
            # Tracked by digest only, not copied, because the file contains prompts.
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
    """Play every request under every directive, write the profile and return it.

    Requests run in blocks of `in_flight`, under one directive at a time. Each such window is
    metered separately, so that differences between directives are measured, not assumed. A
    window that ends before the meter ticks is merged into the next one, and the joules are split
    by tokens. Finished windows are kept in `out`.partial, from which a later call resumes.

    Args:
        model: name of the model in the profile.
        label: text of the progress bar.

    Raises:
        UpstreamError, MeterError: the server or its meter failed; finished windows are kept.
        ConfigError: the partial file was recorded under other settings.
    """
    partial = out.with_suffix(out.suffix + ".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    session = {"model": model, "catalogue": catalogue.to_rows(), **backend.conditions()}
    recorded = _resumed(partial, session, backend.requests)
    count = len(backend.requests)
    warm = np.arange(min(WARM_UP, count))
    backend.play(warm, np.zeros(len(warm), dtype=np.int64))
    with Progress() as progress, partial.open("a", encoding="utf-8") as journal:
        bar = progress.add_task(label, total=count * len(catalogue), completed=len(recorded))
        waiting: list[_Turn] = []

        def keep(metered: list[Outcomes]) -> None:
            """Write the waiting turns to the journal if the meter has now ticked."""
            # `metered` may have more entries: turns repeated only to make the meter tick come last.
            for (window, action), outcomes in zip(waiting, metered, strict=False):
                name = catalogue[action].name
                new_rows = outcome_rows(backend.requests, window, outcomes, name, model)
                answered_by = dict(zip(ANSWERED_BY, backend.answered_by, strict=True))
                new_rows = [row | answered_by for row in new_rows]
                journal.writelines(json.dumps(row) + "\n" for row in new_rows)
                recorded.update({(row["request_id"], row["directive"]): row for row in new_rows})
                progress.advance(bar, len(window))
            if metered:
                journal.flush()
                waiting.clear()

        for window, action in _turns(count, in_flight, len(catalogue)):
            name = catalogue[action].name
            # A window is reused only as a whole, because its joules were split over all requests.
            if all((backend.requests[r].request_id, name) in recorded for r in window):
                continue
            waiting.append((window, action))
            keep(backend.carry(window, np.full(len(window), action)))
        while waiting:
            # The meter has not ticked since the last turns: repeat one until it does.
            window, action = waiting[-1]
            keep(backend.carry(window, np.full(len(window), action)))
    write_profile(out, recorded.values())
    profile = read_profile(out, directives=catalogue.names)
    partial.unlink()
    return profile


def _turns(count: int, in_flight: int, directives: int) -> Iterator[_Turn]:
    """Yield every block of requests under every directive.

    Each block starts with another directive, so that drift favours none.
    """
    for block, start in enumerate(range(0, count, in_flight)):
        for turn in range(directives):
            yield np.arange(start, min(start + in_flight, count)), (block + turn) % directives


def _resumed(
    partial: Path, session: Mapping[str, Any], requests: Sequence[Request]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the rows of an interrupted recording by request ID and directive.

    Leaves `partial` ready for appending: complete lines only, the session's line first.

    Raises:
        DataError: the file holds something other than JSON lines.
        ConfigError: the file was recorded under other settings.
    """
    text = partial.read_text(encoding="utf-8") if partial.exists() else ""
    # The interruption may have cut the last line; its window is recorded again.
    lines = text[: text.rfind("\n") + 1].splitlines()
    try:
        rows = [json.loads(line) for line in lines]
    except ValueError as error:
        raise DataError(
            partial, f"holds a line that is not JSON ({error})", "delete the file"
        ) from error
    prompts = {request.request_id: request.messages_json for request in requests}
    if rows and (
        rows[0] != session or any(prompts.get(r["request_id"]) != r["messages"] for r in rows[1:])
    ):
        raise ConfigError(
            f"{partial} was recorded under other settings (requests, model, directives, meter); "
            "use the same settings, or delete the file to start again"
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
    """Return the profile rows of one window.

    Args:
        requests: the whole workload.
        rows: indices in `requests` of the window's requests, shape (n,).
        outcomes: outcomes of the window's requests, in the same order.
        directive: name of the directive that all of them had.
    """
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


def _trainable(requests: Sequence[Request]) -> str:
    """Say, before requests are spent, whether a policy can be trained on the profile."""
    judged = sum(request.reference is not None for request in requests)
    text = f"{len(requests)} requests, {judged} with a reference"
    if judged == len(requests):
        return f"{text}: the answers are judged by it, and a policy can be trained on the profile"
    return (
        f"{text}: training needs a verdict on every answer, so the other ones need a judge, who "
        "fills in the profile's column `preference` (docs/researchers/training.md#verdicts)"
    )
