"""Small pure parts of the idiom: safe paths, form tokens, browsers in words, limits' networks."""

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phr.web.look import Look
from phr.web.routing import (
    Access,
    Desk,
    action,
    coarse_agent,
    csrf_tag,
    mask,
    page,
    removal,
    replacement,
    safe_path,
    unmask,
)
from phr.web.sessions import network_of

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1"


@pytest.mark.parametrize("path", ["/", "/p/1/results?code=1%202", "/a/b/", "/x#y"])
def test_own_paths_stay_as_they_are(path: str):
    assert safe_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "x",
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/x\r\nset-cookie: a=b",
        "/x\x00",
        "\t//evil.example",
        "/ü",
        "/" + "x" * 3000,
        "/a\\..\\b",
        "http:/x",
    ],
)
def test_what_could_lead_elsewhere_gives_the_default(path: str):
    assert safe_path(path) == "/"


@given(st.binary(min_size=32, max_size=32))
def test_a_masked_tag_comes_back_and_looks_different_each_time(tag: bytes):
    assert unmask(mask(tag)) == tag
    assert mask(tag) != mask(tag)


@given(st.text(max_size=100))
def test_nonsense_never_fits_a_tag(token: str):
    assert unmask(token) != csrf_tag(b"k" * 32, "session x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FIREFOX, "Firefox on Linux"),
        (SAFARI, "Safari on iPhone"),
        ("curl/8", "A browser"),
        ("", "A browser"),
        ("<script>Firefox/1 Windows", "Firefox on Windows"),
    ],
)
def test_browsers_are_named_in_coarse_words(text: str, words: str):
    assert coarse_agent(text) == words


@pytest.mark.parametrize(
    ("client", "network"),
    [
        (("203.0.113.9", 1), "203.0.113.9"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("::ffff:203.0.113.9", 1), "203.0.113.9"),
        (None, "unknown"),
        (("not an address", 1), "unknown"),
    ],
)
def test_limits_count_ipv6_by_the_network_of_a_home(client: object, network: str):
    assert network_of(client) == network


def test_an_unknown_route_option_is_a_programming_error():
    with pytest.raises(TypeError, match="colour"):
        page("/x", access=Access.ANYONE, colour=1)


@pytest.mark.parametrize("access", [Access.ACCOUNT, Access.MEMBER, Access.LINK, Access.ANYONE])
@pytest.mark.parametrize("declare", [replacement, removal, partial(action, csrf=False)])
def test_only_programs_are_asked_for_no_form_token(declare: Any, access: Access):
    declare("/x", access=Access.BEARER)
    with pytest.raises(TypeError, match="no cookie counts"):
        declare("/x", access=access)


def test_the_desk_keeps_little_and_not_for_long():
    desk = Desk()
    desk.put("me", "kit", "thing")
    assert desk.look("me", "kit") == "thing"
    assert desk.look("you", "kit") is None
    for number in range(600):
        desk.put("you", str(number), number)
    assert desk.look("me", "kit") is None
    desk.clear("you", "599")
    assert desk.look("you", "599") is None


def test_every_template_compiles():
    look = Look("")
    names = look.environment.list_templates(extensions=["html"])
    assert len(names) > 10
    for name in names:
        look.environment.get_template(name)
