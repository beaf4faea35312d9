"""Stand-ins for the libraries and services that meters read, each with 1 W per unit of `watts`."""

import sys
import threading
import time
import types
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class NVMLError(Exception):
    pass


class Gpu:
    def __init__(self, uuid, watts=300.0, counts=True, mig=False):
        self.uuid, self.watts, self.counts, self.mig = uuid, watts, counts, mig
        self.began = time.monotonic()
        self.broken = False

    def millijoules(self):
        return int(1e3 * self.watts * (time.monotonic() - self.began)) + 1


def pynvml(gpus):
    """A module with the calls of nvidia-ml-py that the meter makes."""
    nvml = types.ModuleType("pynvml")
    nvml.NVMLError = NVMLError

    def energy(gpu):
        if gpu.broken or not gpu.counts:
            raise NVMLError("Not Supported")
        return gpu.millijoules()

    def power(gpu):
        if gpu.broken:
            raise NVMLError("GPU is lost")
        return int(1e3 * gpu.watts)

    def by_uuid(uuid):
        if uuid.startswith("MIG-"):
            return ("mig", next(g for g in gpus if g.mig))
        return next(g for g in gpus if g.uuid == uuid)

    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetCount = lambda: len(gpus)
    nvml.nvmlDeviceGetHandleByIndex = lambda i: gpus[i]
    nvml.nvmlDeviceGetHandleByUUID = by_uuid
    nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle = lambda handle: handle[1]
    nvml.nvmlDeviceGetUUID = lambda gpu: gpu.uuid
    nvml.nvmlDeviceGetName = lambda gpu: "NVIDIA Made"
    nvml.nvmlDeviceGetMigMode = lambda gpu: [int(gpu.mig), int(gpu.mig)]
    nvml.nvmlDeviceGetTotalEnergyConsumption = energy
    nvml.nvmlDeviceGetPowerUsage = power
    return nvml


def install(monkeypatch, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", pynvml(gpus))


@contextmanager
def answering(answer):
    """A server on loopback; `answer(path)` gives (status, body, headers)."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            status, body, headers = answer(self)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
