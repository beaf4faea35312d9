"""HTTP GET of other people's services: bounded in time and size, and silent about secrets."""

import base64
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from envs.errors import SproutError

MOST_BYTES = 8 << 20
_PIECE_BYTES = 1 << 16


class FetchError(SproutError):
    """No answer, or none of use.

    Attributes:
        status: HTTP status; None where there was no answer.
        retry_after_seconds: how long the service asks to be left alone; None if it does not.
    """

    def __init__(
        self, message: str, status: int | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class Fetcher:
    """Gets bodies. Neither headers, queries nor bodies are in its errors.

    Args:
        timeout_seconds: for all of an answer, the slowest body included.
    """

    def __init__(self, timeout_seconds: float = 10.0) -> None:
        # Here: the hook's workers, which fetch nothing, start sooner without it.
        import urllib3

        self._timeout = timeout_seconds
        self._urllib3 = urllib3
        # Trying again is the caller's: it knows when an answer is of use.
        self._pool = urllib3.PoolManager(retries=False, maxsize=2)

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> bytes:
        """The body of a 200; empty for 204.

        Raises:
            FetchError: no connection, another status, too late or too long.
        """
        where = self.shown(url)
        deadline = time.monotonic() + self._timeout
        try:
            answer = self._pool.request(
                "GET",
                url,
                headers=dict(headers or {}),
                timeout=self._urllib3.Timeout(total=self._timeout),
                preload_content=False,
                redirect=False,
            )
        except (self._urllib3.exceptions.HTTPError, ValueError) as error:
            # Their texts repeat the whole URL.
            raise FetchError(f"{where}: {type(error).__name__}") from None
        try:
            if answer.status not in (200, 204):
                wait = self._seconds(answer.headers.get("retry-after"))
                raise FetchError(f"{where} answered {answer.status}", answer.status, wait)
            body = bytearray()
            # What has come, not as much as was asked for: a body that drips is noticed.
            while piece := answer.read1(_PIECE_BYTES):
                body += piece
                if len(body) > MOST_BYTES:
                    raise FetchError(f"{where}: more than {MOST_BYTES >> 20} MiB")
                if time.monotonic() > deadline:
                    raise FetchError(f"{where}: not complete in {self._timeout:g} s")
            answer.release_conn()
            return bytes(body)
        except (self._urllib3.exceptions.HTTPError, ValueError) as error:
            raise FetchError(f"{where}: {type(error).__name__}") from None
        finally:
            answer.close()

    def _seconds(self, retry_after: str | None) -> float | None:
        """Retry-After in s (RFC 9110, 10.2.3); None where it is absent or of no use."""
        if retry_after is None:
            return None
        try:
            return max(0.0, self._urllib3.Retry().parse_retry_after(retry_after))
        except self._urllib3.exceptions.InvalidHeader:
            return None

    @staticmethod
    def shown(url: str) -> str:
        """A URL without what may be secret in it: user, password, query."""
        try:
            parts = urlsplit(url)
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            return "a URL that is none"
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def basic_auth(user: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
