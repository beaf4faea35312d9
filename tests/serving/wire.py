"""Bytes on real sockets: a scripted upstream and a client that sees every byte."""

import asyncio
import socket
import threading
from contextlib import contextmanager


class ScriptedUpstream:
    """Records each request's bytes and answers with `pieces`, then closes if `closes`.

    A function that takes the head and the body of the request may give the pieces.

    Attributes:
        requests: head (bytes up to the blank line) and decoded body of each request.
        pieces: bytes of the answer; a number waits for that many seconds, None closes.
    """

    def __init__(self, *pieces, closes=True):
        self.requests = []
        self.pieces = pieces
        self.closes = closes
        self.connections = 0
        self.url = ""

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append((head, await _body(head.lower(), reader)))
                pieces = self.pieces
                if len(pieces) == 1 and callable(pieces[0]):
                    pieces = pieces[0](*self.requests[-1])
                for piece in pieces:
                    if piece is None:
                        return
                    if isinstance(piece, bytes):
                        writer.write(piece)
                        await writer.drain()
                    else:
                        await asyncio.sleep(piece)
                if self.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def fields(self):
        """Return the fields of the last request, names in lower case."""
        return fields_of(self.requests[-1][0])


async def _body(head, reader):
    if b"transfer-encoding: chunked" in head:
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        while await reader.readline() != b"\r\n":
            continue
        return body
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return await reader.readexactly(int(line.split(b":")[1]))
    return b""


@contextmanager
def scripted(*pieces, closes=True):
    """Run a scripted upstream in a thread and yield it."""
    upstream = ScriptedUpstream(*pieces, closes=closes)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    start = asyncio.start_server(upstream._serve, "127.0.0.1", 0, limit=1 << 24)
    server = asyncio.run_coroutine_threadsafe(start, loop).result(10)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _end(server):
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def send_raw(url, *pieces, half_close=False, seconds=10):
    """Send bytes and return all that comes back until the server closes the connection."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def request(body=b"", *fields, path="/v1/chat/completions", method="POST", version="1.1"):
    """Return the bytes of a request that asks to close the connection."""
    lines = [f"{method} {path} HTTP/{version}", "Host: gateway", "Connection: close", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answer(body=b'{"ok":true}', *fields, status="200 OK", kind="application/json"):
    """Return the bytes of a complete response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *fields]).encode() + b"\r\n\r\n" + body


def fields_of(message):
    """Return the fields of a message's head as a list of pairs, names in lower case."""
    lines = message.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    pairs = [line.partition(b":") for line in lines]
    return [(name.lower().decode(), value.strip().decode("latin-1")) for name, _, value in pairs]
