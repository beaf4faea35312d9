"""A load over connections that a real server closes after so many answers."""

import re
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from experiments.bench import load

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST = ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n")
EVENTS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
NUMBER = re.compile(rb"What is (\d+) ")


class Closing:
    """Answers so many requests a connection, then closes it.

    Ways: said (the last answer says it); silent (at once after it); late (it reads one more
    request); cut (in the middle of the last answer); mute (it answers nothing at all).
    """

    def __init__(self, listener, way, answers):
        self._listener = listener
        self._way = way
        self._most = answers
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
        with connection, connection.makefile("rb") as file:
            for i in range(1, self._most + 1):
                body = self._read(file)
                if not body or self._way == "mute":
                    return
                last = i == self._most
                if last and self._way == "cut":
                    connection.sendall(ANSWER[:-1])
                    return
                self.answered.append(int(NUMBER.search(body)[1]))
                whole = EVENTS if b"stream" in body else ANSWER
                connection.sendall(LAST if last and self._way == "said" else whole)
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
        # Closing alone does not wake what waits in accept.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("answers", [1, 7])
@pytest.mark.parametrize("way", ["said", "silent", "late"])
def test_a_connection_that_was_closed_between_answers_is_opened_anew(way, answers):
    with closing(way, answers) as (server, url):
        found = load.run(url, load.chats(url, "made"), 4, 0.4)
    assert len(found.latencies) > 4 * answers
    # Each request was answered once, and none was left out.
    assert sorted(server.answered) == list(range(len(found.latencies)))
    assert len(server.answered) / answers <= server.connections + 1
    assert np.all(found.latencies >= found.first)
    assert np.all(found.first > 0)


def test_so_it_is_for_streams_and_while_the_next_request_is_not_yet_due():
    with closing("silent", 2) as (server, url):
        found = load.run(url, load.chats(url, "made", stream=True), 2, 0.6, per_second=40)
    assert len(found.latencies) == pytest.approx(24, abs=4)
    assert sorted(server.answered) == list(range(len(found.latencies)))
    # It waited: each connection was closed while nothing was on its way.
    assert server.connections == pytest.approx(len(found.latencies) / 2, abs=2)


def test_an_error_in_the_middle_of_an_answer_stays_one():
    with (
        closing("cut", 3) as (_, url),
        pytest.raises(RuntimeError, match="closed in the middle of an answer"),
    ):
        load.run(url, load.chats(url, "made"), 2, 30)


def test_a_server_that_closes_new_connections_is_asked_no_second_time():
    with closing("mute", 1) as (server, url):
        with pytest.raises(RuntimeError, match="the connection was closed"):
            load.run(url, load.chats(url, "made"), 1, 30)
        assert server.connections == 1


@pytest.mark.parametrize("way", ["said", "silent", "late"])
def test_where_connections_are_to_be_kept_a_closed_one_is_an_error(way):
    with closing(way, 3) as (_, url), pytest.raises(RuntimeError, match="was closed"):
        load.run(url, load.chats(url, "made"), 2, 30, kept=True)


def test_a_server_that_has_gone_is_an_error():
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(OSError, match=r"refused|failed"):
        load.run(url, load.chats(url, "made"), 2, 30)
    assert time.monotonic() - began < 10
