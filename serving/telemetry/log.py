"""Rate-limited logging of internal errors.

The log states the type and location of an error, never its message, which may contain request
text.
"""

import logging
import time

LOG_EVERY_SECONDS = 1.0
log = logging.getLogger("sprout")
_last_logged: dict[str, float] = {}


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
