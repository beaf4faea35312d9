"""Brings a change of the kill switch to all replicas, by every way that works."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from envs.errors import LedgerError, SproutError
from envs.http_client import Fetcher, FetchError
from serving.http.admin import RELEASE, TOKEN_VARIABLE
from serving.ledger.database import Ledger
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
    """

    def __init__(
        self, ledger: Ledger | None, folder: Path | None, admin_urls: Sequence[str]
    ) -> None:
        self._ledger = ledger
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
        state, in_folder = KillState(), False
        if self._folder is not None:
            switch = KillSwitch([self._folder])
            state = switch.state
            try:
                switch.merge(change(state))
                state, in_folder = switch.state, True
                lines.append(f"state folder {self._folder}: written")
            except OSError as error:
                lines.append(f"state folder {self._folder}: not written ({error.strerror})")
        replicas = [] if self._folder is None else read_replicas(self._folder)
        in_database = False
        try:
            if self._ledger is None:
                raise LedgerError("there is no such file")
            known = self._ledger.control().kill.merged(state)
            self._ledger.merge_kill(change(known))
            replicas = self._ledger.replicas()
            in_database = True
            lines.append(f"database {self._ledger.shown}: written")
        except LedgerError as error:
            lines.append(f"database: not written; the replicas will do that ({error})")
        called = {url: self._call(url, request) for url in self._urls(replicas)}
        lines += [f"admin port {url}: {answer or 'done'}" for url, answer in called.items()]
        here = self._folder.absolute() if in_folder and self._folder is not None else None
        missed = [
            replica
            for replica in replicas
            if called.get(replica.admin_url or "", "not called") is not None
            and replica.name != f"{REPLICA}:{here}"
        ]
        if self._ledger is not None and in_database and missed:
            missed = self._unconfirmed(self._ledger, missed, off)
        if missed or not (in_folder or in_database or None in called.values()):
            names = [f"{r.name} (last seen {time.time() - r.seen:.0f} s ago)" for r in missed]
            raise KillSwitchError(
                "\n".join([*lines, f"NOT reached: {', '.join(names) or 'any replica'}"])
            )
        return lines

    def _urls(self, replicas: Sequence[Replica]) -> list[str]:
        urls = [url.rstrip("/") for url in self._admin_urls]
        if self._token:
            urls += [replica.admin_url for replica in replicas if replica.admin_url]
        return list(dict.fromkeys(urls))

    def _call(self, url: str, request: dict[str, object]) -> str | None:
        """Send the change to an admin port; return why that failed, or None."""
        if not self._token:
            return f"{TOKEN_VARIABLE} is not set"
        try:
            self._fetcher.patch(
                f"{url}/v1/control", request, {"authorization": f"Bearer {self._token}"}
            )
        except FetchError as error:
            return str(error)
        return None

    def _unconfirmed(self, ledger: Ledger, replicas: Sequence[Replica], off: bool) -> list[Replica]:
        """Return the replicas that have not confirmed the change in the database in time."""
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
                return left
            time.sleep(0.2)
