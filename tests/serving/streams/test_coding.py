import gzip
import sys
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.streams import coding
from serving.streams.coding import CodingError, decoder_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def raw_deflate(data):
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


ENCODERS = [
    (b"gzip", gzip.compress),
    (b"X-GZIP", lambda data: gzip.compress(data[:50]) + gzip.compress(data[50:])),
    (b"deflate", zlib.compress),
    (b"deflate", raw_deflate),
    (b"br", brotli.compress),
    (b"zstd", lambda data: zstd.compress(data[:50]) + zstd.compress(data[50:])),
]


@pytest.mark.parametrize(("name", "encode"), ENCODERS)
@given(data=st.binary(max_size=500), size=st.integers(1, 64))
def test_any_cut_of_an_encoded_answer_is_decoded(name, encode, data, size):
    encoded = encode(data)
    decoder = decoder_of(name)
    pieces = [encoded[i : i + size] for i in range(0, len(encoded), size)]
    assert b"".join(decoder.feed(piece) for piece in pieces) == data


def test_each_flushed_event_is_decoded_at_once():
    encoder, decoder = zlib.compressobj(wbits=31), decoder_of(b"gzip")
    for event in (b"data: a\n\n", b"data: b\n\n"):
        assert decoder.feed(encoder.compress(event) + encoder.flush(zlib.Z_SYNC_FLUSH)) == event


@pytest.mark.parametrize("name", [b"gzip", b"deflate", b"br", b"zstd"])
def test_wrong_bytes_are_an_error(name):
    decoder = decoder_of(name)
    with pytest.raises(CodingError):
        decoder.feed(b"this is plain text, which is in no coding" * 9)


@pytest.mark.parametrize(("name", "encode"), ENCODERS)
def test_a_piece_that_becomes_too_long_is_an_error(name, encode, monkeypatch):
    monkeypatch.setattr(coding, "LONGEST_OUTPUT", 1000)
    with pytest.raises(CodingError, match="too long"):
        decoder_of(name).feed(encode(b"a" * 5_000_000))


def test_an_unknown_coding_has_no_decoder():
    assert decoder_of(b"dcb") is None
    assert decoder_of(b"gzip, br") is None
