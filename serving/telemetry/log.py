"""The log's format, and rate-limited logging of internal errors.

The log states the type and location of an internal error, never its message, which may contain
request text.
"""

import json
import logging
import time

from serving.settings.gateway import LogFormat

LOG_EVERY_SECONDS = 1.0
log = logging.getLogger("sprout")
_last_logged: dict[str, float] = {}


class _Formatter(logging.Formatter):
    """Formats records with their time in UTC."""

    converter = time.gmtime  # type: ignore[assignment]
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class _JsonFormatter(_Formatter):
    """Formats each record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return time, level, logger and message; with the traceback if there is one."""
        fields = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure_logging(log_format: LogFormat) -> None:
    """Make this process write its log to stderr, with time and level."""
    handler = logging.StreamHandler()
    plain = _Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if log_format == "json" else plain)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    log.setLevel(logging.INFO)


def log_internal_error(message: str, error: Exception | None = None) -> None:
    """Log an internal error without the text of `error`, which may contain request text.

    Args:
        message: what the error led to, without request text.
        error: the exception; its type and location are logged, at most once per
            `LOG_EVERY_SECONDS` and location. None logs only `message`, every time.
    """
    if error is None:
        log.error("%s", message)
        return
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    location = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
    # The metrics count every error; the log does not need thousands of lines per second.
    if time.monotonic() - _last_logged.get(location, -1.0) < LOG_EVERY_SECONDS:
        return
    _last_logged[location] = time.monotonic()
    log.error("%s: %s at %s", message, type(error).__name__, location)
