"""Brings a change of the kill switch to all replicas, by every way that works."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from envs.errors import LedgerError, SproutError
from envs.http_client import Fetcher, FetchError
from serving.http.admin import RELEASE, TOKEN_VARIABLE
from serving.ledger.database import Ledger
from serving.ledger.keeper import LOCK
from serving.ledger.record import REPLICA
from serving.ledger.replica import AWAY_SECONDS, Replica, read_replicas
from serving.settings.kill_switch import KillState, KillSwitch

# Longest wait for the replicas to confirm a change that the database has, s.
CONFIRM_SECONDS = 5.0
_ADMIN_SECONDS = 3.0


class KillSwitchError(SproutError):
    """A replica did not get a change of the kill switch."""


class Kill:
    """One change of the kill switch.

    Args:
        ledger: the database, which may be unreachable; None if there is none.
        folder: state folder of a replica on this machine; None if there is none.
        admin_urls: URLs of further admin ports.
        problem: why there is no database.
    """

    def __init__(
        self,
        ledger: Ledger | None,
        folder: Path | None,
        admin_urls: Sequence[str],
        problem: str = "",
    ) -> None:
        self._ledger = ledger
        self._problem = problem
        self._folder = folder
        self._admin_urls = admin_urls
        self._fetcher = Fetcher(_ADMIN_SECONDS)
        self._token = os.environ.get(TOKEN_VARIABLE)

    def close(self) -> None:
        """Close the database's connections."""
        if self._ledger is not None:
            self._ledger.close()

    def engage(self) -> list[str]:
        """Engage the kill switch; return what to tell the operator.

        Raises:
            KillSwitchError: nobody was reached, or a replica was not; the message names it.
        """
        engaged = KillState().engage("command")
        return self._bring(lambda known: known.merged(engaged), {"mode": "off"}, off=True)

    def release(self) -> list[str]:
        """Release the kill switch; return what to tell the operator.

        Raises:
            KillSwitchError: nobody was reached, or a replica was not; the message names it.
        """
        return self._bring(KillState.release, {RELEASE: True}, off=False)

    def _bring(
        self, change: Callable[[KillState], KillState], request: dict[str, object], *, off: bool
    ) -> list[str]:
        lines: list[str] = []
        state, here = KillState(), None
        if self._folder is not None:
            switch = KillSwitch([self._folder])
            state = switch.state
            try:
                switch.merge(change(state))
                state = switch.state
                if _has_gateway(self._folder):
                    here = f"{REPLICA}:{self._folder.absolute()}"
                    lines.append(f"state folder {self._folder}: written")
                else:
                    lines.append(
                        f"state folder {self._folder}: written, but no gateway uses it now"
                    )
            except OSError as error:
                lines.append(f"state folder {self._folder}: not written ({error.strerror})")
        replicas = [] if self._folder is None else read_replicas(self._folder)
        in_database = False
        try:
            if self._ledger is None:
                raise LedgerError(self._problem)
            known = self._ledger.control().kill.merged(state)
            self._ledger.merge_kill(change(known))
            replicas = self._ledger.replicas()
            in_database = True
            lines.append(f"database {self._ledger.shown}: written")
        except ValidationError:
            lines.append("database: not written: its settings are of another version")
        except SproutError as error:
            lines.append(f"database: not written; the replicas will do that ({error})")
        reached = {here} - {None}
        for url in self._urls(replicas):
            name, problem = self._call(url, request)
            reached |= {name} - {None}
            lines.append(f"admin port {url}: {problem or f'done ({name})'}")
        missed = [
            replica
            for replica in replicas
            # A file that is still mounted holds a replica off after its release.
            if replica.name not in reached or (not off and _holds_file(replica))
        ]
        if self._ledger is not None and in_database and missed:
            missed, away = self._unconfirmed(self._ledger, missed, off)
            lines += [
                f"{_named(replica)} is away; it gets this from the database when it is back"
                for replica in away
            ]
        if missed or not (reached or in_database):
            names = [_named(replica) for replica in missed]
            raise KillSwitchError(
                "\n".join([*lines, f"NOT reached: {', '.join(names) or 'any replica'}"])
            )
        return lines

    def _urls(self, replicas: Sequence[Replica]) -> list[str]:
        urls = [url.rstrip("/") for url in self._admin_urls]
        # An admin port listens on loopback by default: elsewhere its URL leads to another one.
        near = [r.admin_url for r in replicas if r.name.partition(":")[0] == REPLICA]
        return list(dict.fromkeys([*urls, *(url for url in near if url and self._token)]))

    def _call(self, url: str, request: dict[str, object]) -> tuple[str | None, str | None]:
        """Send the change to an admin port; return its replica's name, or why that failed."""
        if not self._token:
            return None, f"{TOKEN_VARIABLE} is not set"
        try:
            answer = json.loads(
                self._fetcher.patch(
                    f"{url}/v1/control", request, {"authorization": f"Bearer {self._token}"}
                )
            )
            if RELEASE in request and answer["off"]:
                return None, f"still off: {', '.join(answer['off'])}"
            return str(answer["replica"]), None
        except FetchError as error:
            return None, str(error)
        except (ValueError, KeyError, TypeError):
            return None, "the answer is not that of an admin port"

    def _unconfirmed(
        self, ledger: Ledger, replicas: Sequence[Replica], off: bool
    ) -> tuple[list[Replica], list[Replica]]:
        """Wait until the replicas have confirmed the change in the database.

        Returns:
            Those that are there and have not, and those that are away.
        """
        names, deadline = {replica.name for replica in replicas}, time.monotonic() + CONFIRM_SECONDS
        while True:
            try:
                left = [
                    replica
                    for replica in ledger.replicas()
                    if replica.name in names and bool(replica.off) != off
                ]
            except LedgerError:
                left = list(replicas)
            present = [r for r in left if time.time() - r.seen < AWAY_SECONDS]
            if not present or time.monotonic() > deadline:
                return present, [replica for replica in left if replica not in present]
            time.sleep(0.2)


def _holds_file(replica: Replica) -> bool:
    # The name of an engagement by such a file begins with "file on HOST".
    reasons = [reason for reason in replica.off if reason.startswith("file ")]
    return any(not reason.startswith("file on ") for reason in reasons)


def _named(replica: Replica) -> str:
    off = f", off: {', '.join(replica.off)}" if replica.off else ""
    return f"{replica.name} (last seen {time.time() - replica.seen:.0f} s ago{off})"


def _has_gateway(folder: Path) -> bool:
    """Return whether a running hook uses a state folder: its keeper holds a lock there."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
