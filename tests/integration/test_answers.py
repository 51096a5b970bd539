"""How a visit answers: pieces for htmx, redirects, flash sentences, form targets, streams."""

from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import errors
from phr.errors import PhrError
from phr.web import app as web
from phr.web import application as parts
from phr.web import faults
from phr.web.routing import Access, Form, Visit, action, live_page, page
from phr.web.sessions import CrossSite, SetupFirst
from tests.cast import HOME, Browser, Cast, csrf_in, sign_in


@page("/t/piece", access=Access.ACCOUNT)
def piece(visit: Visit) -> Response[Any]:
    return visit.render("pages/join_wait.html", block="content", words="AAAA", status=200)


@page("/t/target", access=Access.ACCOUNT)
def target(visit: Visit) -> Response[Any]:
    places = ("https://hospital.example",)
    return visit.render("pages/join_wait.html", words="AAAA", form_targets=places)


@page("/t/delicate", access=Access.ACCOUNT)
def delicate(visit: Visit) -> Response[Any]:
    visit.session.stepped_up_at and visit.require_step_up()  # type: ignore[union-attr]
    raise errors.StepUpNeeded


@page("/t/number/{number:str}", access=Access.ACCOUNT)
def number(visit: Visit, number: int, after: int = 7, word: str = "-") -> Response[Any]:
    return Response(f"{number} {after} {word}", media_type="text/plain")


@action("/t/upload", access=Access.ACCOUNT, uploads=True)
def upload(visit: Visit, form: Form) -> Response[Any]:
    sizes = [(up.name, up.filename, sum(map(len, up.chunks))) for up in form.uploads()]
    return Response(f"{form.get('who')} {sizes}", media_type="text/plain")


@action("/t/machine", access=Access.BEARER, csrf=False)
def machine(visit: Visit) -> Response[Any]:
    return Response("no form needed", media_type="text/plain")


@live_page("/t/live", access=Access.ACCOUNT)
async def live(visit: Visit) -> Response[Any]:
    return Response(visit.account_name, media_type="text/plain")


@page("/t/error/{name:str}", access=Access.ANYONE)
def error(visit: Visit, name: str) -> Response[Any]:
    raise getattr(errors, name)


HANDLERS: list[HTTPRouteHandler] = [
    piece, target, delicate, number, upload, machine, live, error,
]  # fmt: skip


@pytest.fixture
def browser(cast: Cast) -> Iterator[Browser]:
    app = parts.application([*web.HOME, *HANDLERS], cast.home.state.doorkeeper, address=HOME)
    with Browser(app, HOME) as made:
        sign_in(made, "Ada")
        yield made


def test_htmx_gets_the_piece_and_a_person_the_page(browser: Browser):
    whole, part = browser.get("/t/piece"), browser.get("/t/piece", headers={"hx-request": "true"})
    assert whole.text.lstrip().startswith("<!doctype html>")
    assert "<!doctype" not in part.text
    assert "AAAA" in part.text


def test_a_foreign_place_a_form_may_lead_to_is_named_in_the_policy(browser: Browser):
    policy = browser.get("/t/target").headers["content-security-policy"]
    assert "form-action 'self' https://hospital.example;" in policy


def test_a_page_that_needs_the_password_comes_back_after_it(browser: Browser):
    asked = browser.get("/t/delicate?x=1")
    assert asked.status_code == 403
    assert 'name="next" value="/t/delicate?x=1"' in asked.text
    form = {"csrf": csrf_in(asked.text), "next": "/t/delicate?x=1"}
    answer = browser.post("/account/confirm", data=form | {"confirm.password": "wrong"})
    assert answer.status_code == 403
    form |= {"csrf": csrf_in(answer.text), "confirm.password": "correct horse battery"}
    answer = browser.post("/account/confirm", data=form)
    assert answer.headers["location"] == "/t/delicate?x=1"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("/t/number/12", "12 7 -"),
        ("/t/number/12?after=3&after=9&word=a", "12 3 a"),
        ("/t/number/007", "7 7 -"),
    ],
)
def test_path_and_query_fill_in_a_handler(browser: Browser, address: str, text: str):
    assert browser.get(address).text == text


@pytest.mark.parametrize("what", ["x", "-1", "1e3", "9" * 30, "%D9%A1"])
def test_what_is_no_number_is_not_found(browser: Browser, what: str):
    assert browser.get(f"/t/number/{what}").status_code == 404
    assert browser.get(f"/t/number/1?after={what}").status_code == 404


def test_ten_thousand_query_fields_are_refused(browser: Browser):
    assert browser.get("/t/number/1?" + "&".join(["a=1"] * 10_000)).status_code == 400


def test_files_arrive_as_a_stream_after_the_token(browser: Browser):
    data = {"csrf": browser.csrf(), "who": "Ada"}
    files = [("file", ("a.json", b"x" * 3_000_000)), ("file", ("b.json", b"y"))]
    answer = browser.post("/t/upload", data=data, files=files)
    assert answer.text == "Ada [('file', 'a.json', 3000000), ('file', 'b.json', 1)]"


def test_files_without_token_are_refused_before_they_are_read(browser: Browser):
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        yield b'--e\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'
        while len(sent) < 1000:
            sent.append(1)
            yield b"x" * 65536

    headers = {"content-type": "multipart/form-data; boundary=e"}
    answer = browser.post("/t/upload", content=endless(), headers=headers)
    assert answer.status_code == 403
    assert len(sent) < 10


def test_a_route_for_machines_needs_no_token(browser: Browser):
    assert browser.post("/t/machine", headers={"origin": ""}).text == "no form needed"


def test_an_async_route_knows_the_visit(browser: Browser):
    assert browser.get("/t/live").text == "Ada"


def test_a_sentence_left_behind_is_said_once(browser: Browser):
    browser.submit("/household/add", {"name": "Zoe"})
    assert "The record of Zoe is ready." in browser.get("/account").text
    assert "The record of Zoe is ready." not in browser.get("/account").text


def test_htmx_is_led_on_by_its_own_header(browser: Browser):
    answer = browser.submit("/household/add", {"name": "Zoe"}, headers={"hx-request": "true"})
    assert answer.status_code == 200
    assert answer.headers["hx-redirect"].startswith("/p/")


def _every_error(kind: type[PhrError] = PhrError) -> Iterator[type[PhrError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _every_error(below)


OURS = sorted({kind.__name__ for kind in _every_error() if kind.__module__ == "phr.errors"})


@pytest.mark.parametrize("name", OURS)
def test_every_error_has_a_status_and_its_sentence_reaches_the_page(browser: Browser, name: str):
    kind = getattr(errors, name)
    answer = browser.get(f"/t/error/{name}")
    if name in {"NotSignedIn", "Sealed"}:
        assert answer.status_code == 303
    else:
        assert answer.status_code == faults.STATUS.get(kind, answer.status_code)
        assert answer.status_code >= 400
        shown = answer.text.replace("&#39;", "'").replace("&#34;", '"')
        assert name == "StepUpNeeded" or kind.sentence in shown


def test_every_class_of_error_is_in_the_table_or_below_one_that_is():
    for kind in (*_every_error(), CrossSite, SetupFirst):
        assert faults.status_of(kind.__new__(kind)) in faults.TITLES


def test_ordinary_pages_are_small(cast: Cast, browser: Browser):
    for path in ("/account", "/household", "/admin", f"/p/{cast.patients['Ada']}/person"):
        assert len(browser.get(path).content) < 20_000, path
