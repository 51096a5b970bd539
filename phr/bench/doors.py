"""Figures of the FHIR API: what leaves a second, how long a search looks, how soon an end is felt.

CPU time of this process, in turn with its limit: the bare reading, unpacking and joining of the
same bodies. Only the time until a revoked token is refused is told by the clock on the wall.
"""

import gc
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from operator import or_
from pathlib import Path
from random import Random
from statistics import median, quantiles

from phr import clock, courtesy, ids, memory
from phr.bench import corpus, house, imports, peak
from phr.bench.row import Row
from phr.errors import NotFound, TokenRefused
from phr.fhir import document
from phr.fhir.labels import Label
from phr.fhir.reading import codings, moment_of
from phr.fhir.record import Item
from phr.sharing import answers, gate, grants, handles, links, package, ready, search
from phr.sharing import provision as policy
from phr.sharing.gate import Interaction, Released
from phr.sharing.grants import StepUp
from phr.sharing.handles import Token
from phr.sharing.links import Wish
from phr.sharing.parameters import PARAMETERS, Parameter
from phr.sharing.provision import Provision
from phr.store import bodies, database
from phr.store.models import RecipientKind
from phr.store.vault import Vault

BASE = "https://doors.example/fhir"
WHO = {"kind": "account", "id": "bench", "name": "Bench"}
TURNS = 7
STREAMED, SEARCHED = 10_000, 100_000
BODIES = "SELECT pk, body FROM record WHERE pk > ? ORDER BY pk LIMIT 256"
VALUES = 4  # of each parameter: the most frequent, the rarest, one between, one that nothing has
INSTANTS = ["ge2031", "le1901", "ge2020", "lt2031", "ne2020"]  # of `_lastUpdated`
READERS, REVOKES = 50, 1000
THREADS = min(32, (os.cpu_count() or 1) + 4)  # as many as the server answers from
MORE = (  # few of many: what a search by them must not look for one by one
    '{"resourceType":"Observation","id":"rare-%d","status":"entered-in-error",'
    '"category":[{"coding":[{"code":"survey"}]}],"code":{"coding":[{"system":"urn:x","code":"r"}]},'
    '"subject":{"reference":"Patient/%s"},"effectiveDateTime":"20%02d-01-01"}'
)


def leaving(quick: bool) -> list[Row]:
    """Measure Bundles and exports, as rates of the bytes that each gives.

    An entry of a Bundle is a tenth longer than its body; a Provenance of each record is in none of
    them (it comes by `_revinclude`). What leaves is kept ready (`sharing.ready`) before it is
    measured, as it is from the second time on; `package` is what it costs to make it record by
    record, as at the first time. `export` are the files, which a client fetches after the export
    was looked through; `export.new` is either of the two after something was written.
    Memory is measured first, while nothing is warm: of making all ready, and of one Bundle then.
    """
    memory.give_back_early()  # as `phr serve` does
    return [*_leaving(quick)]


def searching(quick: bool) -> list[Row]:
    """Measure each search of US Core that the record has values for."""
    return [*_searching(quick)]


def tokens(quick: bool) -> list[Row]:
    """Measure what a token costs, what time tells of hidden records, how soon an end is felt."""
    return [*_tokens(quick)]


# ------------------------------------------------------------------ a vault with a grant


@contextmanager
def _filled(count: int) -> Iterator[Vault]:
    rare = [Item((MORE % (number, corpus.PATIENT, number)).encode()) for number in range(10, 20)]
    with house.opened() as vault:
        imports.pages(vault, house.connection(vault), [*imports.items(count - len(rare)), *rare])
        gc.collect()
        gc.freeze()  # as `phr serve` does: to walk what stays for ever takes the collector 0.1 s
        try:
            yield vault
        finally:
            gc.unfreeze()


def token_for(vault: Vault, provision: Provision) -> Token:
    """Approve a grant of a provision and return a token of it."""
    now = clock.now()
    wish = Wish("Bench", "", "app", provision, now + timedelta(hours=24), None)
    with vault.write() as session:
        grant = links.draft(session, wish, RecipientKind.APP, WHO, grant_id=ids.new_id(), now=now)
        grants.approve(
            session,
            vault,
            grant,
            step_up=StepUp("bench", "password", now),
            shown="shown",
            actor=WHO,
            now=now,
        )
        route = handles.bearer_route(vault.house, vault.id, grant.id)
        return handles.make_token(session, grant.id, route, "patient/*.rs", now=now)


def unfiltered() -> Provision:
    """Return a provision that filters nothing: every kind, from ever, with every label."""
    labels = reduce(or_, (label for _, label in policy.SENSITIVE.values()))
    return replace(policy.preset("app", now=clock.now()), labels=labels)


def _some() -> Provision:
    """Return one with a period for every kind, and all labels but one."""
    since = clock.now() - timedelta(days=60 * 365)
    whole = unfiltered()
    rules = tuple(replace(rule, since=since) for rule in whole.rules)
    return replace(whole, rules=rules, labels=whole.labels & ~Label.GDIS)


def read_by(vault: Vault, token: Token) -> Released:
    """Return what the gate lets out for a token."""
    bearer = handles.bearer_of(token.text)
    if bearer is None:
        raise RuntimeError("a token that is none")
    wanted = Interaction("rs", None)
    return gate.release_to(vault, token.grant_id, bearer, wanted, "api.everything", now=clock.now())


# ------------------------------------------------------------------ what leaves a second


def _leaving(quick: bool) -> Iterator[Row]:
    count = STREAMED // 10 if quick else STREAMED
    with _filled(count) as vault:
        yield from _made_ready(vault)
        whole = read_by(vault, token_for(vault, unfiltered()))
        grown = _growth(lambda: _everything(whole))
        yield Row("doors.bundle.rss", grown, "MB", None, None, "<= 16", "<= 8")
        for name, provision, bar, goal in (
            ("bundle", unfiltered(), ">= 0.80", ">= 0.95"),
            ("bundle.filtered", _some(), ">= 0.60", ">= 0.80"),
        ):
            out = read_by(vault, token_for(vault, provision))
            yield _rate(vault, name, lambda out=out: _everything(out), bar, goal)  # type: ignore[misc]  # bound at once
        yield _rate(vault, "package", lambda: _packed(whole), "", "")
    with _filled(count * 10) as vault:
        ready.make(vault)
        out = read_by(vault, token_for(vault, unfiltered()))
        _exported(out)
        yield _rate(vault, f"export.{count * 10}", lambda: _exported(out), ">= 0.70", ">= 0.90")
        yield _rate(vault, f"export.new.{count * 10}", lambda: _exported_anew(vault, out), "", "")


def _made_ready(vault: Vault) -> Iterator[Row]:
    """Make ready what leaves; return what that costs, in time and beside the bodies in space."""
    begin = time.process_time()
    grown = _growth(lambda: ready.make(vault))
    took = time.process_time() - begin
    yield Row("doors.ready.rss", grown, "MB", None, None, "", "")
    with vault.read() as session:
        [(size,)] = database.rows(session, "SELECT sum(length(marks) + length(body)) FROM ready")
        [(count,)] = database.rows(session, "SELECT count(*) FROM record")
    each = took / count * 1e6
    yield Row("doors.ready", each, "us CPU a record", None, None, "", "")
    received = sum(len(one.body) for one in imports.items(count))
    yield Row("doors.ready.size", size / received, "of the JSON", None, None, "<= 0.06", "")


def _everything(out: Released) -> int:
    pieces = answers.everything(out, None, types=(), since=None, base=BASE)
    return sum(len(piece) for piece in pieces)


def _packed(out: Released) -> int:
    return sum(len(piece) for piece in package.bundle(out, base_url=BASE, now=clock.now()))


def _exported(out: Released) -> int:
    lines = (
        line
        for type_ in PARAMETERS
        for line in answers.lines(out, type_, since=None, until=clock.now())
    )
    return sum(len(piece) for piece in out.guarded(package.chunked(lines)))


def _exported_anew(vault: Vault, out: Released) -> int:
    """Export after something was written: nothing is remembered of which records leave."""
    with vault.write() as session:
        session.connection().exec_driver_sql("UPDATE connection SET name = name")
    return _exported(out)


def _bare(vault: Vault) -> int:
    """Read, unpack and join every body: what no server can do without."""

    def unpacked() -> Iterator[bytes]:
        after = 0
        with vault.read() as session:
            opened = bodies.unpacker(session)
            while found := database.rows(session, BODIES, (after,)):
                yield b",\n".join(opened(row[1]) for row in found)
                after = found[-1][0]

    return sum(len(piece) for piece in package.chunked(unpacked()))


def _rate(vault: Vault, name: str, work: Callable[[], int], bar: str, goal: str) -> Row:
    """Return megabytes of a CPU second, beside the bare ones; the median of turns."""
    ours, bare = [], []
    for _ in range(TURNS):
        ours.append(_megabytes(work))
        bare.append(_megabytes(lambda: _bare(vault)))
    value, limit = median(ours), median(bare)
    return Row(f"doors.{name}", value, "MB/s CPU", limit, value / limit, bar, goal)


def _megabytes(work: Callable[[], int]) -> float:
    begin = time.process_time()
    size = work()
    return size / 1e6 / (time.process_time() - begin)


def _growth(work: Callable[[], object]) -> float:
    """Return by how many MB the resident memory grows at most while something is done once.

    What lies freed of before is given back first, or it would be filled again unseen.
    """
    gc.collect()
    memory.give_back_now()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of before
    before = peak.high_water()
    work()
    return peak.high_water() - before


# ------------------------------------------------------------------ how long a search looks


def _searching(quick: bool) -> Iterator[Row]:
    count = SEARCHED // 10 if quick else SEARCHED
    with _filled(count) as vault:
        out = read_by(vault, token_for(vault, unfiltered()))
        begin = time.process_time()
        _page(out, "Observation", "status", "final")
        first = time.process_time() - begin
        yield Row(f"doors.search.first.{count}", first, "s CPU", None, None, "", "")
        ready.make(vault)  # or it would be made behind the first that asks, and be measured too
        asked = [*_asked(out)]
        plain = ((one, one.name, values) for one, values in asked)
        yield from _looked(out, plain, f"doors.search.{count}", f"doors.search.slowest.%s.{count}")
        for name, more in (
            ("not", [(one, f"{one.name}:not", v) for one, v in asked if one.kind == "token"]),
            ("missing", [(one, f"{one.name}:missing", ["true", "false"]) for one, _ in asked]),
            ("lastUpdated", [(one, "_lastUpdated", INSTANTS) for one, _ in asked]),
        ):
            yield from _looked(
                out, more, f"doors.search.{name}.{count}", f"doors.search.{name}.slowest.%s.{count}"
            )


def _looked(
    out: Released, asked: Iterable[tuple[Parameter, str, list[str]]], name: str, worst: str
) -> Iterator[Row]:
    """Return the p95 of all searches, and of the parameter that takes longest."""
    slowest, every = ("", 0.0), list[float]()
    for parameter, given, values in asked:
        took = [_page(out, parameter.type, given, value) for value in values * 5]
        every += took
        at = quantiles(took, n=20)[-1] * 1000
        if at > slowest[1]:
            slowest = (f"{parameter.type}.{parameter.name}", at)
    all_of_them = quantiles(every, n=20)[-1] * 1000
    yield Row(f"{name}.p95", all_of_them, "ms CPU", None, None, "<= 10", "<= 5")
    yield Row(f"{worst % slowest[0]}.p95", slowest[1], "ms CPU", None, None, "<= 10", "<= 5")


def _page(out: Released, type_: str, name: str, value: str) -> float:
    begin = time.process_time()
    asked = search.read(type_, [(name, value)], base=BASE, now=clock.now())
    answers.page(out, asked, base=BASE)
    return time.process_time() - begin


def _asked(out: Released) -> Iterator[tuple[Parameter, list[str]]]:
    """Yield every parameter of which the record has values, with some of them."""
    for type_, known in PARAMETERS.items():
        whole = search.Search(type_, (), count=500)
        found = [
            document.parse(body)
            for _, (_, body) in zip(range(5000), out.found(whole), strict=False)
        ]
        for parameter in known.values():
            said: dict[str, int] = {}
            for one in found:
                for value in _values(search.values_at(one, parameter), parameter):
                    said[value] = said.get(value, 0) + 1
            if said:
                ordered = sorted(said, key=lambda each: (-said[each], each))
                some = [ordered[0], ordered[-1], ordered[len(ordered) // 2]]
                nothing = "2031" if parameter.kind == "date" else "nothing"
                more = ["ge2031", "le1901"] if parameter.kind == "date" else []
                rare = ["entered-in-error"] if parameter.name == "status" else []
                yield parameter, [*dict.fromkeys([*some, nothing, *more, *rare])]


def _values(found: list[object], parameter: Parameter) -> Iterator[str]:
    for value in found:
        if parameter.kind == "reference" and isinstance(value, dict):
            yield str(value.get("reference", "")) or "nothing"
        elif parameter.kind == "date":
            told = moment_of(value)
            if told is not None and told.start is not None:
                yield clock.from_ms(told.start).date().isoformat()
        elif isinstance(value, str):
            yield value
        else:
            yield from (each.code for each in codings(value) if each.code)


# ------------------------------------------------------------------ tokens


def _tokens(quick: bool) -> Iterator[Row]:
    with _filled(STREAMED // 10 if quick else STREAMED) as vault:
        token = token_for(vault, _some())
        read_by(vault, token)
        begin, times = time.process_time(), 500
        for _ in range(times):
            read_by(vault, token)
        each = (time.process_time() - begin) / times * 1000
        yield Row("doors.token", each, "ms CPU", None, None, "<= 0.5", "<= 0.2")
        yield from _alike(vault, 200 if quick else 1000)
        yield _revoked(vault, REVOKES // 20 if quick else REVOKES)


def _alike(vault: Vault, times: int) -> Iterator[Row]:
    """Return whether time tells a hidden record from one that never was: asked in turn, by id."""
    whole = read_by(vault, token_for(vault, unfiltered()))
    ids_ = [record.local_id for record, _ in whole.found(search.Search("Condition", ()))]
    narrow = replace(unfiltered(), excluded=frozenset(ids_))
    token = token_for(vault, narrow)
    chance = Random(corpus.SEED)
    took: dict[bool, list[int]] = {True: [], False: []}
    for _ in range(times):
        for hidden in chance.sample((True, False), 2):
            name = chance.choice(ids_) if hidden else f"{chance.getrandbits(64):016x}"
            begin = time.thread_time_ns()
            if not _is_absent(vault, token, name):
                raise RuntimeError("a hidden record was read")
            took[hidden].append(time.thread_time_ns() - begin)
    yield from apart("doors.hidden", took)


def apart(name: str, took: dict[bool, list[int]]) -> Iterator[Row]:
    """Return how far the medians of two kinds of times lie apart, and how often one is told."""
    medians = median(took[True]), median(took[False])
    far = abs(medians[0] / medians[1] - 1)
    yield Row(f"{name}.medians", far, "apart", None, None, "<= 0.05", "<= 0.02")
    yield Row(f"{name}.told", _told_apart(took), "right", None, None, "<= 0.55", "<= 0.52")


def _is_absent(vault: Vault, token: Token, name: str) -> bool:
    try:
        answers.one(read_by(vault, token), "Condition", name)
    except NotFound:
        return True
    return False


def _told_apart(took: dict[bool, list[int]]) -> float:
    """Return how often the best threshold, learnt on one half, is right on the other."""
    half = len(took[True]) // 2
    learn, test = (
        {kind: given[cut] for kind, given in took.items()}
        for cut in (slice(half), slice(half, None))
    )

    def right(given: dict[bool, list[int]], at: int) -> float:
        above = sum(one > at for one in given[True]) + sum(one <= at for one in given[False])
        return above / (2 * len(given[True]))

    at = max(
        (at for given in learn.values() for at in given), key=lambda at: abs(right(learn, at) - 0.5)
    )
    score = right(test, at)
    return score if right(learn, at) >= 0.5 else 1 - score


def _revoked(vault: Vault, times: int) -> Row:
    """Return the time from the patient's tap to the first request refused, under many readers.

    The gate alone, without what stands before it over HTTP: see `phr.bench.stopping`.
    """
    courtesy.take_turns()  # as the appliance does
    over = threading.Event()
    reading = token_for(vault, _some())

    def read() -> None:
        while not over.is_set():
            _page(read_by(vault, reading), "Observation", "status", "final")

    given = [token_for(vault, _some()) for _ in range(times)]
    took = []
    _page(read_by(vault, reading), "Observation", "status", "final")
    gc.collect()
    gc.freeze()  # the grants, too: a patient does not make a thousand of them a minute before
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(READERS):
            pool.submit(read)
        try:
            for token in given:
                read_by(vault, token)
                begin = time.perf_counter()
                gate.end(vault, token.grant_id, "patient", WHO, now=clock.now())
                if not _is_refused(vault, token):
                    raise RuntimeError("a revoked token was let in")
                took.append((time.perf_counter() - begin) * 1000)
        finally:
            over.set()
    return Row("doors.revoke.p99", quantiles(took, n=100)[-1], "ms", None, None, "<= 100", "<= 20")


def _is_refused(vault: Vault, token: Token) -> bool:
    try:
        read_by(vault, token)
    except TokenRefused:
        return True
    return False
