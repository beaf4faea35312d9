"""What is said when something of ours fails: where, never what, which may quote a request."""

import logging
import time

LOG_EVERY_SECONDS = 1.0
log = logging.getLogger("sprout")
_complained: dict[str, float] = {}


def log_internal_error(what: str, error: Exception | None = None) -> None:
    """Log where an error of ours came from, without its message, which may quote a request."""
    if error is None:
        log.error("%s", what)
        return
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
    # Metrics count them all; a log of thousands a second helps nobody.
    if time.monotonic() - _complained.get(where, -1.0) < LOG_EVERY_SECONDS:
        return
    _complained[where] = time.monotonic()
    log.error("%s: %s at %s", what, type(error).__name__, where)
