import json
import subprocess
import sys

CODE = """
import logging
from serving.telemetry.log import configure_logging, log
configure_logging({style!r})
log.info("bundle %s", "1")
logging.getLogger("uvicorn.error").warning("slow")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("asyncio").exception("failed")
"""


def logged(style):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(style=style)], capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines()


def test_each_line_has_time_and_level():
    first, second, *_ = logged("plain")
    assert first.endswith("Z INFO sprout: bundle 1")
    assert second.endswith("Z WARNING uvicorn.error: slow")
    assert first[10] == "T"


def test_each_record_is_one_line_of_json():
    records = [json.loads(line) for line in logged("json")]
    assert [(r["level"], r["logger"], r["message"]) for r in records] == [
        ("info", "sprout", "bundle 1"),
        ("warning", "uvicorn.error", "slow"),
        ("error", "asyncio", "failed"),
    ]
    assert "ZeroDivisionError" in records[2]["traceback"]
