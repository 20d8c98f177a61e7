"""Read server-sent events (html.spec.whatwg.org/multipage/server-sent-events.html) from the bytes of a response.

The openai client's decoder loses the first event after a byte order mark and hides where the stream ends. This one also
accepts what servers send against the standard: a last event without a blank line after it, and JSON without ``data:``.
"""

import codecs
import io
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import NamedTuple


class Event(NamedTuple):
    name: str
    """"" if the server gives none."""
    data: str
    """Its ``data`` lines, joined by newlines."""


async def read_events(parts: AsyncIterable[bytes]) -> AsyncGenerator[Event]:
    """Yield each event that has data, as soon as its bytes are there."""
    reader = _Reader()
    async for part in parts:
        for event in reader.feed(part):
            yield event
    for event in reader.end():
        yield event


class _Reader:
    def __init__(self) -> None:
        text = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._decoder = io.IncrementalNewlineDecoder(text, translate=True)  # CR, LF and CR LF all end a line
        self._line = ""
        self._name = ""
        self._data = list[str]()

    def feed(self, part: bytes, *, final: bool = False) -> Iterator[Event]:
        *lines, self._line = (self._line + self._decoder.decode(part, final=final)).split("\n")
        for line in lines:
            if event := self._read(line):
                yield event

    def end(self) -> Iterator[Event]:
        yield from self.feed(b"", final=True)
        for line in (self._line, ""):
            if event := self._read(line):
                yield event

    def _read(self, line: str) -> Event | None:
        field, _, value = line.partition(":")
        if line.startswith("{"):
            self._data.append(line)
        elif field == "data":
            self._data.append(value.removeprefix(" "))
        elif field == "event":
            self._name = value.removeprefix(" ")
        elif not line:
            event = Event(self._name, "\n".join(self._data))
            self._name, self._data = "", []
            return event if event.data.strip() else None
        return None
