"""HTTP requests to other services, with limits on time and size and no secrets in errors."""

import base64
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from envs.errors import SproutError

MAX_RESPONSE_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 16


class FetchError(SproutError):
    """A request got no response, or none that can be used.

    Attributes:
        status: HTTP status; None if there was no response.
        retry_after_seconds: seconds that the service asks clients to wait before the next
            request; None if it asks for no wait.
    """

    def __init__(
        self, message: str, status: int | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class Fetcher:
    """Sends requests, returns response bodies; errors have no headers, query strings or bodies.

    Args:
        timeout_seconds: limit for the whole response, including a slow body.
    """

    def __init__(self, timeout_seconds: float = 10.0) -> None:
        # Imported here, so that the hook's workers, which fetch nothing, start sooner.
        import urllib3

        self._timeout = timeout_seconds
        self._urllib3 = urllib3
        # No retries here: only the caller knows how long a response is still useful.
        self._pool = urllib3.PoolManager(retries=False, maxsize=2)

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> bytes:
        """Return the body of a successful response; empty for 204.

        Raises:
            FetchError: no connection, another status, or a response too late or too long.
        """
        return self._request("GET", url, headers)

    def patch(self, url: str, content: Any, headers: Mapping[str, str] | None = None) -> bytes:
        """Send JSON with PATCH; return the body of a successful response.

        Raises:
            FetchError: as for `get`.
        """
        return self._send("PATCH", url, content, headers)

    def post(self, url: str, content: Any, headers: Mapping[str, str] | None = None) -> bytes:
        """Send JSON with POST; return the body of a successful response.

        Args:
            content: JSON-ready values, or bytes to be sent as they are.

        Raises:
            FetchError: as for `get`.
        """
        return self._send("POST", url, content, headers)

    def _send(
        self, method: str, url: str, content: Any, headers: Mapping[str, str] | None
    ) -> bytes:
        fields = {"content-type": "application/json", **(headers or {})}
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self._request(method, url, fields, raw)

    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        content: bytes | None = None,
    ) -> bytes:
        safe_url = self.shown(url)
        deadline = time.monotonic() + self._timeout
        try:
            response = self._pool.request(
                method,
                url,
                body=content,
                headers=dict(headers or {}),
                timeout=self._urllib3.Timeout(total=self._timeout),
                preload_content=False,
                redirect=False,
            )
        except (self._urllib3.exceptions.HTTPError, ValueError) as error:
            # The texts of these errors contain the whole URL.
            raise FetchError(f"{safe_url}: {type(error).__name__}") from None
        try:
            if response.status not in (200, 201, 202, 204):
                wait_seconds = self._seconds(response.headers.get("retry-after"))
                raise FetchError(
                    f"{safe_url} answered {response.status}", response.status, wait_seconds
                )
            body = bytearray()
            # read1 returns the bytes that have arrived instead of waiting for a full chunk, so
            # the deadline also applies to a body that arrives slowly.
            while chunk := response.read1(_CHUNK_BYTES):
                body += chunk
                if len(body) > MAX_RESPONSE_BYTES:
                    raise FetchError(
                        f"{safe_url}: the response exceeds {MAX_RESPONSE_BYTES >> 20} MiB"
                    )
                if time.monotonic() > deadline:
                    raise FetchError(
                        f"{safe_url}: the response was not complete after {self._timeout:g} s"
                    )
            response.release_conn()
            return bytes(body)
        except (self._urllib3.exceptions.HTTPError, ValueError) as error:
            raise FetchError(f"{safe_url}: {type(error).__name__}") from None
        finally:
            response.close()

    def _seconds(self, retry_after: str | None) -> float | None:
        """Return Retry-After in s (RFC 9110, 10.2.3); None if it is absent or invalid."""
        if retry_after is None:
            return None
        try:
            return max(0.0, self._urllib3.Retry().parse_retry_after(retry_after))
        except self._urllib3.exceptions.InvalidHeader:
            return None

    @staticmethod
    def shown(url: str) -> str:
        """Return the URL without the parts that may be secret: user, password, query."""
        try:
            parts = urlsplit(url)
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            return "an invalid URL"
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def basic_auth(user: str, password: str) -> str:
    """Return the value of an Authorization header for Basic authentication (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
