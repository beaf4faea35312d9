"""Incremental decoders of content codings (RFC 9110, section 8.4)."""

import sys
import zlib
from typing import Protocol

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Most bytes that one piece of an answer may become.
LONGEST_OUTPUT = 32 << 20
_GZIP, _DEFLATE = 31, 15


class CodingError(Exception):
    """The bytes are not in the announced coding, or become too many."""


class Decoder(Protocol):
    """Decodes one answer, piece by piece."""

    def feed(self, piece: bytes) -> bytes:
        """Return what a piece adds to the decoded answer.

        Raises:
            CodingError: the piece cannot be decoded.
        """


def decoder_of(coding: bytes) -> Decoder | None:
    """Return a decoder for the value of Content-Encoding; None if the coding is not known."""
    name = coding.strip().lower()
    if name in (b"gzip", b"x-gzip"):
        return _Zlib(_GZIP)
    if name == b"deflate":
        return _Zlib(_DEFLATE)
    if name == b"br":
        return _Brotli()
    return _Zstandard() if name == b"zstd" else None


class _Zlib:
    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._stream = zlib.decompressobj(window_bits)
        self._head: bytes | None = b""

    def feed(self, piece: bytes) -> bytes:
        """Decode a piece; see `Decoder`."""
        if self._head is not None:
            # Some servers send deflate without its wrapper, whose two first bytes are a multiple of
            # 31 and name method 8 (RFC 1950, section 2.2).
            piece, self._head = self._head + piece, None
            if len(piece) < 2:
                self._head = piece
                return b""
            wrapped = piece[0] & 15 == 8 and int.from_bytes(piece[:2], "big") % 31 == 0
            if self._window_bits == _DEFLATE and not wrapped:
                self._stream = zlib.decompressobj(-_DEFLATE)
        output = b""
        try:
            while piece:
                output += self._stream.decompress(piece, LONGEST_OUTPUT)
                if self._stream.unconsumed_tail:
                    raise CodingError("a piece becomes too long")
                piece = b""
                if self._stream.eof and self._stream.unused_data.strip(b"\0"):
                    # A gzip file may have several members (RFC 1952, section 2.2).
                    piece = self._stream.unused_data
                    self._stream = zlib.decompressobj(self._window_bits)
        except zlib.error as error:
            raise CodingError(str(error)) from None
        return output


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def feed(self, piece: bytes) -> bytes:
        """Decode a piece; see `Decoder`."""
        try:
            output: bytes = self._stream.process(piece, output_buffer_limit=LONGEST_OUTPUT)
        except brotli.error as error:
            raise CodingError(str(error)) from None
        # The limit is exceeded by a part of the library's buffer, and then reached again and again.
        if len(output) >= LONGEST_OUTPUT:
            raise CodingError("a piece becomes too long")
        return output


class _Zstandard:
    def __init__(self) -> None:
        self._stream = zstd.ZstdDecompressor()

    def feed(self, piece: bytes) -> bytes:
        """Decode a piece; see `Decoder`."""
        output = b""
        try:
            while piece:
                if self._stream.eof:
                    self._stream = zstd.ZstdDecompressor()
                output += self._stream.decompress(piece, LONGEST_OUTPUT)
                if not self._stream.eof and not self._stream.needs_input:
                    raise CodingError("a piece becomes too long")
                piece = self._stream.unused_data
        except zstd.ZstdError as error:
            raise CodingError(str(error)) from None
        return output
