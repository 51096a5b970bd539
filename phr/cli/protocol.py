"""The HTTP/1.1 protocol of both listeners: uvicorn's over llhttp, with a bound of our own.

llhttp is strict about framing as h11 is, at half the cost of a page; but it reads a request line
and headers of any length, so they are counted here.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 32 * 1024  # bytes of a request line and headers that do not end


class Protocol(HttpToolsProtocol):
    """One connection of a browser or a machine."""

    _in_head = False
    _head = 0  # bytes that came while the head was unfinished

    def data_received(self, data: bytes) -> None:
        """Read what came; refuse a head that grows too long before it is whole."""
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head += len(data)
        if self._head > MAX_HEAD:
            self.send_400_response("That is more than this Homeport reads.")

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting: `phr.web.application` judges the whole head."""
        self._in_head = False
        super().on_headers_complete()
