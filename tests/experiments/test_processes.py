import socket
import subprocess
import sys
import time

import psutil
import pytest

from envs.errors import ConfigError, UpstreamError
from experiments.llama.server import llama_server
from experiments.processes import free_port, loopback, start_process

WEB = ["-m", "http.server", "--bind", "127.0.0.1"]


def test_a_child_is_ready_inside_the_context_and_gone_after_it(tmp_path):
    port = free_port()
    with start_process(
        "web", [sys.executable, *WEB, str(port)], loopback(port, "/"), folder=tmp_path
    ) as started:
        assert started.process.poll() is None
        assert started.ready_seconds > 0
    assert started.process.poll() is not None


def test_the_output_of_a_child_that_dies_at_once_is_quoted_in_the_error():
    port = free_port()
    command = [sys.executable, "-c", "print('no such weights'); raise SystemExit(3)"]
    expected_error = pytest.raises(UpstreamError, match="has ended with 3: no such weights")
    with expected_error, start_process("web", command, loopback(port, "/")):
        pass


def test_a_port_in_use_is_named_in_the_error():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use"), llama_server(port=port):
            pass


def test_a_free_port_is_given_to_nobody_else_until_its_server_listens():
    ports = [free_port() for _ in range(1000)]
    assert len(set(ports)) == 1000
    with socket.create_server(("127.0.0.1", ports[0])) as server:
        assert server.getsockname()[1] == ports[0]


def test_a_child_ends_when_its_parent_is_killed(tmp_path):
    port = free_port()
    code = (
        "import sys, time\n"
        "from experiments.processes import start_process\n"
        f"command = [sys.executable, *{WEB!r}, '{port}']\n"
        f"with start_process('web', command, 'http://127.0.0.1:{port}/') as started:\n"
        "    print(started.process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child.pid) and time.monotonic() < deadline:
        if child.status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    assert not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE
