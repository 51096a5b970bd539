"""Reading forms: bounded, first value counts, files as a stream, nonsense refused."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phr.errors import InvalidInput, TooManyTries
from phr.web import forms
from phr.web.forms import Form

URL = {"content-type": "application/x-www-form-urlencoded"}
PARTS = {"content-type": "multipart/form-data; boundary=edge"}


def receiver(*chunks: bytes) -> Any:
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    return receive


def read(body: bytes, headers: dict[str, str] = URL) -> Form:
    return asyncio.run(forms.read(receiver(body), headers))


def part(name: str, value: str, filename: str | None = None) -> bytes:
    more = f'; filename="{filename}"' if filename is not None else ""
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value.encode() + b"\r\n"


def test_a_program_may_send_as_much_as_its_route_says_and_no_more():
    def sent(most: int) -> tuple[bytes, Form]:
        return asyncio.run(forms.read_machine(receiver(b"a=1&", b"b=2"), URL, most))

    body, form = sent(7)
    assert (body, form.get("b")) == (b"a=1&b=2", "2")
    with pytest.raises(InvalidInput, match="more than this form takes"):
        sent(6)


def test_before_much_of_a_program_is_read_somebody_vouches_for_it():
    asked: list[str] = []

    async def vouch() -> None:
        asked.append("asked")

    def sent(size: int) -> int:
        made = forms.read_machine(receiver(b"x" * size, b"y"), {}, 1 << 20, vouch=vouch)
        return len(asyncio.run(made)[0])

    assert sent(forms.MOST_UNKNOWN - 1) == forms.MOST_UNKNOWN
    assert not asked
    assert sent(forms.MOST_UNKNOWN) == forms.MOST_UNKNOWN + 1
    assert asked == ["asked"]


def test_a_body_that_never_ends_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(forms, "BODY_LASTS", 0.0)

    async def never() -> Any:
        await asyncio.Event().wait()

    for reader in (forms.read, forms.read_machine):
        with pytest.raises(InvalidInput, match="incomplete"):
            asyncio.run(reader(never, URL))


def test_room_is_counted_in_all_and_for_each_network_and_given_back(monkeypatch):
    monkeypatch.setattr(forms, "MOST_OF_ONE", 10)
    monkeypatch.setattr(forms, "MOST_HELD", 15)
    held = forms.Held()
    with held.room("a") as one, held.room("b") as other:
        one(10)
        with pytest.raises(TooManyTries):
            one(1)
        other(5)
        with pytest.raises(TooManyTries):
            other(1)
    with held.room("b") as again:
        again(10)


@pytest.mark.parametrize(
    ("at_home", "size", "pause", "fits"),
    [
        (True, 1, 20.0, False),  # a byte each 20 s
        (True, 65536, 20.0, True),
        (False, 1, 20.0, False),
        (False, 65536, 20.0, False),  # 3 kB a second
        (False, 400_000, 20.0, True),
    ],
)
def test_an_upload_that_dawdles_is_broken_off(
    monkeypatch, at_home: bool, size: int, pause: float, fits: bool
):
    passed = iter(pause * number / 2 for number in range(1000))  # asked twice a piece
    monkeypatch.setattr(forms, "time", SimpleNamespace(monotonic=lambda: next(passed)))
    pieces = [part("csrf", "x"), *[b"x" * size] * 10]
    pieces[1:1] = [part("f", "", "a.json").removesuffix(b"\r\n")]

    async def run() -> int:
        form = await forms.open_stream(
            receiver(*pieces, b"\r\n--edge--\r\n"), PARTS, at_home=at_home
        )
        return await asyncio.to_thread(
            lambda: sum(len(chunk) for up in form.uploads() for chunk in up.chunks)
        )

    if fits:
        assert asyncio.run(run()) == 10 * size
    else:
        with pytest.raises(InvalidInput, match="incomplete"):
            asyncio.run(run())


def test_an_upload_through_a_door_has_an_end_however_fast_it_comes(monkeypatch):
    passed = iter(20.0 * number / 2 for number in range(1000))
    monkeypatch.setattr(forms, "time", SimpleNamespace(monotonic=lambda: next(passed)))
    head = part("f", "", "a.json").removesuffix(b"\r\n")

    async def run() -> None:
        endless = receiver(head, *[b"x" * 400_000] * 200)
        form = await forms.open_stream(endless, PARTS, at_home=False)
        await asyncio.to_thread(lambda: [list(up.chunks) for up in form.uploads()])

    with pytest.raises(InvalidInput, match="incomplete"):
        asyncio.run(run())


def test_fields_come_in_order_and_the_first_of_a_name_counts():
    form = read(b"a=1&b=two+words&a=3&empty=")
    assert form.get("a") == "1"
    assert form.all("a") == ["1", "3"]
    assert form.get("b") == "two words"
    assert form.has("empty")
    assert not form.has("c")
    assert form.get("c", "none") == "none"


def test_a_line_is_trimmed_and_too_long_a_line_is_refused():
    form = read(b"name=++Ada++Lovelace%0A&long=" + b"x" * 300)
    assert form.text("name") == "Ada Lovelace"
    with pytest.raises(InvalidInput):
        form.text("long")


@pytest.mark.parametrize(
    "body",
    [
        b"a=%FF",
        b"a=%00",
        b"a%00=1",
        b"a=\xff",
        b"&".join(b"a=1" for _ in range(1001)),
        b"a=" + b"x" * (forms.MAX_BODY + 1),
        b"x" * 201 + b"=1",
    ],
)
def test_what_no_browser_sends_is_refused(body: bytes):
    with pytest.raises(InvalidInput):
        read(body)


def test_no_body_at_all_is_an_empty_form():
    assert read(b"", {}).pairs() == []


def test_small_multipart_gives_the_same_fields():
    form = read(part("a", "1") + part("b", "zwei ü") + b"--edge--\r\n", PARTS)
    assert form.pairs() == [("a", "1"), ("b", "zwei ü")]


@pytest.mark.parametrize(
    "body",
    [
        part("f", "x", "a.json") + b"--edge--\r\n",
        part("a", "1"),
        b"garbage",
        b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--edge--\r\n',
    ],
)
def test_broken_multipart_and_unwanted_files_are_refused(body: bytes):
    with pytest.raises(InvalidInput):
        read(body, PARTS)


def test_multipart_without_boundary_is_refused():
    with pytest.raises(InvalidInput):
        read(b"x", {"content-type": "multipart/form-data"})


def streamed(*chunks: bytes, headers: dict[str, str] = PARTS) -> Any:
    """Run a handler as the application does: in a thread, while the loop feeds it."""

    async def run() -> Any:
        form = await forms.open_stream(receiver(*chunks), headers)

        def handler() -> Any:
            fields = form.pairs()
            files = [(up.filename, b"".join(up.chunks)) for up in form.uploads()]
            return fields, files

        return await asyncio.to_thread(handler)

    return asyncio.run(run())


def test_files_stream_after_the_fields_before_them():
    body = part("csrf", "t") + part("f", "{}" * 50, "a.json") + part("f", "[]", "b.json")
    whole = body + b"--edge--\r\n"
    cut = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    fields, files = streamed(*cut)
    assert fields == [("csrf", "t")]
    assert files == [("a.json", b"{}" * 50), ("b.json", b"[]")]


def test_a_file_left_unread_is_passed_over():
    async def run() -> list[str]:
        body = part("f", "x" * 5000, "a") + part("between", "1") + part("f", "y", "b")
        form = await forms.open_stream(receiver(body, b"--edge--\r\n"), PARTS)
        return await asyncio.to_thread(lambda: [up.filename for up in form.uploads()])

    assert asyncio.run(run()) == ["a", "b"]


def test_a_stream_cut_off_in_a_file_is_an_error_not_a_short_file():
    with pytest.raises(InvalidInput):
        streamed(part("f", "x" * 100, "a.json")[:-40])


def test_a_streamed_route_takes_multipart_only():
    with pytest.raises(InvalidInput):
        streamed(b"a=1", headers=URL)


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=20)), max_size=8))
def test_whatever_is_typed_comes_back_or_is_refused(pairs: list[tuple[str, str]]):
    from urllib.parse import urlencode

    try:
        form = read(urlencode(pairs, errors="surrogatepass").encode())
    except InvalidInput:
        return
    assert form.pairs() == [(k, v.replace("\r\n", "\n")) for k, v in pairs]


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_readers(body: bytes):
    for headers in (URL, PARTS):
        try:
            read(body, headers)
        except InvalidInput:
            continue


def test_ten_thousand_fields_are_refused_quickly():
    began = time.process_time()
    with pytest.raises(InvalidInput):
        read(b"&".join(b"%d=x" % n for n in range(10_000)))
    assert time.process_time() - began < 1
