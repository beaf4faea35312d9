"""Chooses the upstream of a request by the model that its body names."""

import json
import logging
from collections.abc import Mapping
from urllib.parse import parse_qs

import orjson
from python_multipart.exceptions import ParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.http.asgi import Headers, header
from serving.streams.coding import CodingError, decoder_of

_LONGEST_NAME = 4096
_LONGEST_TYPE = 1024
# Its messages about broken forms quote the request.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)


class UnreadableError(Exception):
    """The model of a body cannot be told; the argument says why."""


class Upstreams:
    """The base URLs of the upstreams.

    Args:
        default: base URL for every model that is not in `by_model`, and for requests without one.
        by_model: base URL for each model that another upstream serves.
    """

    def __init__(self, default: str, by_model: Mapping[str, str] | None = None) -> None:
        self.default = default.rstrip("/")
        self.by_model = {model: url.rstrip("/") for model, url in (by_model or {}).items()}

    @property
    def need_model(self) -> bool:
        """True if the model decides; a request's whole body must be read first then."""
        return bool(self.by_model)

    def choose(self, headers: Headers, body: bytes) -> str:
        """Return the base URL for a request.

        Args:
            headers: the request's fields, names in lower case.
            body: the whole body.

        Raises:
            UnreadableError: a model decides, and the body's cannot be told.
        """
        if not self.by_model or not body:
            return self.default
        coding = header(headers, b"content-encoding") or b"identity"
        if coding.strip().lower() != b"identity":
            body = _decoded(coding, body)
        model = model_of(header(headers, b"content-type") or b"", body)
        return self.by_model.get(model or "", self.default)


def model_of(content_type: bytes, body: bytes) -> str | None:
    """Return the model that a body names; None if it names none.

    Args:
        content_type: the field Content-Type. Everything but a form is tried as JSON, because
            servers do the same.
        body: the whole body.

    Raises:
        UnreadableError: the body is said to be JSON and is not.
    """
    if len(content_type) > _LONGEST_TYPE:
        raise UnreadableError("the Content-Type is too long to find the model by it")
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        return _model_of_multipart(options.get(b"boundary", b""), body)
    if kind == b"application/x-www-form-urlencoded":
        values = parse_qs(body.decode("latin-1")).get("model", ())
        return values[-1] if values else None
    try:
        parsed = _parsed(body)
    except (ValueError, RecursionError):
        if b"json" not in kind and kind:
            return None
        message = "several upstreams: the body is no JSON that the model can be read from"
        raise UnreadableError(message) from None
    if not isinstance(parsed, dict):
        return None
    # Some servers do not mind the case of names.
    model = parsed.get("model", next((v for n, v in parsed.items() if n.lower() == "model"), None))
    return model if isinstance(model, str) else None


def _decoded(coding: bytes, body: bytes) -> bytes:
    decoder = decoder_of(coding)
    if decoder is None:
        raise UnreadableError("several upstreams: the body's Content-Encoding is not known")
    try:
        return decoder.feed(body)
    except CodingError:
        raise UnreadableError(
            "several upstreams: the body is not in its Content-Encoding"
        ) from None


def _parsed(body: bytes) -> object:
    """Parse JSON as leniently as the servers behind the gateway do."""
    try:
        return orjson.loads(body)
    except ValueError:
        pass
    try:
        # Lone surrogates, NaN, a byte order mark, UTF-16.
        return json.loads(body)
    except UnicodeDecodeError:
        return json.loads(body.decode("utf-8", "replace"))


def _model_of_multipart(boundary: bytes, body: bytes) -> str | None:
    part = _ModelPart()
    callbacks = {
        "on_header_field": part.add_header_name,
        "on_header_value": part.add_header_value,
        "on_header_end": part.end_header,
        "on_part_data": part.add_data,
        "on_part_end": part.end,
    }
    try:
        MultipartParser(boundary, callbacks).write(body)  # type: ignore[arg-type]
    except (ParseError, ValueError):
        # The server judges whether the form is valid.
        pass
    return part.model


class _ModelPart:
    """Collects the value of a form's field "model" from the events of the parser.

    Attributes:
        model: the value; None before the field's end.
    """

    def __init__(self) -> None:
        self.model: str | None = None
        self._header_name, self._header_value = bytearray(), bytearray()
        self._value: bytearray | None = None

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._header_value))
            self._value = bytearray() if options.get(b"name") == b"model" else None
        self._header_name.clear()
        self._header_value.clear()

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self._value is not None and len(self._value) <= _LONGEST_NAME:
            self._value += data[start:end]

    def end(self) -> None:
        if self._value is not None:
            self.model, self._value = self._value.decode("utf-8", "replace"), None
