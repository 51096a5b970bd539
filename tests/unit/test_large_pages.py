"""A large page is held once: its records are cut out when they are asked for."""

import pytest

from phr.errors import InvalidInput
from phr.fhir import document


def page(*bodies: bytes) -> bytes:
    inside = b",".join(b'{"resource":' + body + b"}" for body in bodies)
    return b'{"resourceType":"Bundle","entry":[' + inside + b"]}"


def records(count: int, size: int) -> list[bytes]:
    return [b'{"id":"%d","a":"%s"}' % (number, b"x" * size) for number in range(count)]


def test_the_records_of_a_large_page_are_cut_out_as_they_came():
    bodies = records(20, 100_000)
    found = document.slice_bundle(page(*bodies)).entries
    assert isinstance(found, document.Entries)
    assert [item.body for item in found] == bodies
    assert (len(found), found[3].body, found[3].place) == (20, bodies[3], "entry 4")
    assert [item.body for item in found[5:7]] == bodies[5:7]
    assert document.sizes(found) == [len(body) for body in bodies]


@pytest.mark.parametrize("bodies", [records(20, 10), records(3, 500_000)], ids=["small", "few"])
def test_of_a_small_page_and_of_a_few_large_records_the_page_itself_can_go(bodies):
    found = document.slice_bundle(page(*bodies)).entries
    assert isinstance(found, tuple)
    assert [item.body for item in found] == bodies
    assert document.sizes(found) == [len(body) for body in bodies]


@pytest.mark.parametrize("end", [b"\xff", b"\xc3"], ids=["no character", "half a character"])
def test_what_is_large_and_no_utf8_is_refused_like_what_is_small(end):
    for size in (10, document.LARGE):
        good = "ä".encode() * size
        assert document.text_bytes(good) == good
        with pytest.raises(InvalidInput, match="not UTF-8"):
            document.text_bytes(good + end)
