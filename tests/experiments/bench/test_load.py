"""Load over connections that a real server closes after a fixed number of answers."""

import re
import socket
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from experiments.bench import load

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST = ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n")
EVENTS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
NUMBER = re.compile(rb"What is (\d+) ")


class Closing:
    """A server that answers `answers` requests per connection, then closes the connection.

    Ways to close: said (the last answer announces it in a header); silent (at once after the last
    answer); late (after one more request, which is not answered); cut (in the middle of the last
    answer); mute (before any answer).
    """

    def __init__(self, listener, way, answers):
        self._listener = listener
        self._way = way
        self._answers_per_connection = answers
        self.connections = 0
        self.answered = []

    def serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection):
        with connection, connection.makefile("rb") as file, suppress(ConnectionError):
            for i in range(1, self._answers_per_connection + 1):
                body = self._read(file)
                if not body or self._way == "mute":
                    return
                last = i == self._answers_per_connection
                if last and self._way == "cut":
                    connection.sendall(ANSWER[:-1])
                    return
                self.answered.append(int(NUMBER.search(body)[1]))
                complete_answer = EVENTS if b"stream" in body else ANSWER
                connection.sendall(LAST if last and self._way == "said" else complete_answer)
            if self._way == "late":
                self._read(file)

    def _read(self, file):
        length = 0
        while (line := file.readline()) not in (b"", b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return file.read(length)


@contextmanager
def closing(way, answers):
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        server = Closing(listener, way, answers)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        yield server, f"http://127.0.0.1:{listener.getsockname()[1]}"
        # close() alone does not wake the thread that waits in accept().
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("answers", [1, 7])
@pytest.mark.parametrize("way", ["said", "silent", "late"])
def test_a_connection_closed_between_answers_is_reopened_without_losing_a_request(way, answers):
    with closing(way, answers) as (server, url):
        result = load.run(url, load.chats(url, "made"), 4, 1.0)
    # At least one connection was opened again.
    assert len(result.latencies) > 4 * answers
    # Each request was answered once, and none was left out.
    assert sorted(server.answered) == list(range(len(result.latencies)))
    assert len(server.answered) / answers <= server.connections + 1
    assert np.all(result.latencies >= result.first)
    assert np.all(result.first > 0)


def test_a_paced_load_of_streams_also_reopens_closed_connections():
    with closing("silent", 2) as (server, url):
        result = load.run(url, load.chats(url, "made", stream=True), 2, 0.6, per_second=40)
    # 24 are due; on a busy machine some are not sent before the time is over.
    assert 8 <= len(result.latencies) <= 28
    assert sorted(server.answered) == list(range(len(result.latencies)))
    # Each connection was closed while the load waited for its next request to be due.
    assert server.connections == pytest.approx(len(result.latencies) / 2, abs=2)


def test_a_connection_closed_in_the_middle_of_an_answer_is_an_error():
    with (
        closing("cut", 3) as (_, url),
        pytest.raises(RuntimeError, match="closed in the middle of an answer"),
    ):
        load.run(url, load.chats(url, "made"), 2, 30)


def test_a_server_that_closes_new_connections_gets_no_second_attempt():
    with closing("mute", 1) as (server, url):
        with pytest.raises(RuntimeError, match="the connection was closed"):
            load.run(url, load.chats(url, "made"), 1, 30)
        assert server.connections == 1


@pytest.mark.parametrize("way", ["said", "silent", "late"])
def test_a_closed_connection_is_an_error_if_connections_must_be_kept(way):
    with closing(way, 3) as (_, url), pytest.raises(RuntimeError, match="was closed"):
        load.run(url, load.chats(url, "made"), 2, 30, kept=True)


def test_a_server_that_no_longer_listens_is_an_error_within_ten_seconds():
    start = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(OSError, match=r"refused|failed"):
        load.run(url, load.chats(url, "made"), 2, 30)
    assert time.monotonic() - start < 10
