"""Asking a FHIR REST server politely: pages, retries, waiting, refusals in words, parallel chains.

Not here: which kinds of records to ask for (`smart`), and what is done with the bytes.
"""

import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, Generic, TypeVar

from phr import clock, net
from phr.connectors.base import Fetched, Outcome, Remote
from phr.errors import (
    AddressRefused,
    AnswerRefused,
    InvalidInput,
    NeedsReauthorisation,
    NotOffered,
    RemoteBroken,
    TryLater,
    Unreachable,
)
from phr.fhir import document
from phr.http import DEFAULT, LARGE_FROM, Answer, Limits, TooLarge
from phr.told import Fault, Told, faults_in

ACCEPT: Final = "application/fhir+json, application/json;q=0.9, application/json+fhir;q=0.8"
ACCEPT_DSTU2: Final = "application/json+fhir, application/json;q=0.9"
XML_ONLY: Final = Told(
    "This hospital's interface answered in XML, although JSON was asked for in every way there is. "
    "Homeport reads JSON only, so nothing was taken here.",
    Fault.XML,
)
MAX_PAGES: Final = 5_000  # of one chain; more is a server that never ends
TRIES: Final = 3
PATIENCE: Final = 60.0  # seconds: a longer wait ends the run, which goes on later by itself
LONGEST: Final = 24 * 3600.0
SMALL_COUNT: Final = 10
QUEUE_PAGES: Final = 32  # what the chains bring while one group is written
QUEUE_BYTES: Final = 8 << 20
LEAVING: Final = 1.0  # seconds; a thread that still waits for the network leaves when it can
LOOKS: Final = 0.1  # seconds after which one who waits for room looks if the run has ended
IDLE: Final = 0.02  # seconds without a page before the consumer is told so
COUNT: Final = re.compile(r"([?&]_count=)\d+")
NOT_ALLOWED: Final = frozenset({"forbidden", "security", "suppressed", "login", "expired"})
NOT_THERE: Final = frozenset({"not-supported", "not-found", "unknown", "deleted", "invalid"})
BUSY: Final = frozenset({"throttled", "429"})
ERRORS: Final = frozenset({"error", "fatal"})
SLOW_DOWN: Final = Told(
    "The hospital asked us to slow down in the middle of this. The rest is asked again next time.",
    Fault.THROTTLED,
)

SENTENCES: Final = {
    400: Told(
        "This hospital's interface does not answer this kind of question.", Fault.QUESTION_REFUSED
    ),
    401: Told(
        "This hospital does not let apps read this. Your sign-in there still works.",
        Fault.NOT_FOR_APPS,
    ),
    403: Told("This hospital does not let apps read this.", Fault.NOT_FOR_APPS),
    404: Told("This hospital's interface does not have this.", Fault.NOT_THERE),
}


@dataclass(frozen=True, slots=True)
class Chain:
    """One search and its ledger name; `type` is the kind of record asked for."""

    name: str
    type: str
    url: str
    resumed: bool = False


class Stopped(Exception):
    """The run was ended; workers leave quietly."""


class Room:
    """One large answer at a time in a run: from when it shows to be large until it was taken over.

    A thread that asks again has done with what it got before, so it never waits for itself.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._large = threading.Lock()
        self._mine = threading.local()

    def enter(self, seconds: float) -> bool:
        """Wait so long at most for this thread's turn; say whether it came. Raises Stopped."""
        until = time.monotonic() + seconds
        while not self._large.acquire(timeout=max(min(until - time.monotonic(), LOOKS), 0.0)):
            if self._stop.is_set():
                raise Stopped
            if time.monotonic() >= until:
                return False
        self._mine.held = True
        return True

    def leave(self) -> None:
        """Let the next one in, if this thread has the turn."""
        if getattr(self._mine, "held", False):
            self._mine.held = False
            self._large.release()


class Pace:
    """When the next request may leave, for all chains of a run together."""

    def __init__(self, per_minute: float | None = None) -> None:
        self._lock = threading.Lock()
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self.stop = threading.Event()
        self.room = Room(self.stop)

    def turn(self) -> None:
        """Wait for this request's turn; raise Stopped when the run has ended."""
        while True:
            with self._lock:
                now = time.monotonic()
                if now >= self._next:
                    self._next = now + self._gap
                    break
                wait = self._next - now
            self.wait(wait)
        if self.stop.is_set():
            raise Stopped

    def hold(self, seconds: float) -> None:
        """Let no request leave for so many seconds."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def wait(self, seconds: float) -> None:
        """Wait; raise Stopped when the run ends meanwhile."""
        if self.stop.wait(seconds):
            raise Stopped


def retry_after(answer: Answer, now: datetime) -> float | None:
    """Return how long to wait (RFC 9110 §10.2.3, both forms), clamped to 1 s..24 h; or None."""
    text = answer.headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(int(text))
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        seconds = (at - now).total_seconds()
    return min(max(seconds, 1.0), LONGEST)


def rate_pause(answer: Answer) -> float:
    """Return how long to hold when the server says that no request is left (RateLimit fields)."""
    for prefix in ("ratelimit-", "x-ratelimit-", "x-rate-limit-"):
        remaining = answer.headers.get(prefix + "remaining", "").strip()
        reset = answer.headers.get(prefix + "reset", "").strip()
        if remaining == "0" and reset.isdecimal():
            seconds = float(reset[:12])
            if seconds > 1e9:  # some send an instant instead of a distance
                seconds -= clock.now().timestamp()
            return min(max(seconds, 1.0), PATIENCE)
    return 0.0


def backoff(attempt: int) -> float:
    """Return a jittered, growing pause in seconds for the n-th repetition (from 0)."""
    return float(2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - jitter is no secret


class Conversation:
    """One run's exchange with one server; every chain's thread uses it."""

    def __init__(self, remote: Remote, pause: Callable[[int], float] = backoff) -> None:
        self.remote = remote
        self.base = net.parse(remote.base_url.rstrip("/"))
        accept = remote.quirks.get("accept")
        own = ACCEPT_DSTU2 if remote.release.startswith(("0.", "1.")) else ACCEPT
        self.accept = accept if isinstance(accept, str) else own
        self._say_json = False  # also in the address: this server does not heed the header
        per_minute = remote.quirks.get("per_minute")
        self.pace = Pace(per_minute if isinstance(per_minute, int | float) else None)
        self._pause = pause

    def address(self, path: str) -> str:
        """Return the address of a path under the base."""
        return f"{self.base.url.rstrip('/')}/{path}"

    @property
    def patient_url(self) -> str:
        """The address of the pinned Patient: also the probe that tells if a token lives."""
        return self.address(f"Patient/{self.remote.patient}")

    def get(self, url: str, *, accept: str | None = None, limits: Limits = DEFAULT) -> Answer:
        """GET inside the connection with a living token, waiting where the server asks for it.

        Raises NotOffered for a 401 that is not about the token, NeedsReauthorisation, TryLater
        when the wait would be long, and what `phr.http` raises.
        """
        for attempt in range(TRIES):
            self.pace.turn()
            token = self.remote.tokens.current()
            answer = self._once(url, token, accept or self.accept, limits)
            self.pace.hold(rate_pause(answer))
            if answer.status == HTTPStatus.UNAUTHORIZED:
                self._after_401(url, token)
            elif answer.status == HTTPStatus.TOO_MANY_REQUESTS or (
                answer.status == HTTPStatus.SERVICE_UNAVAILABLE and "retry-after" in answer.headers
            ):
                self._after_429(answer, attempt)
            else:
                return answer
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise NeedsReauthorisation if url == self.patient_url else NotOffered(SENTENCES[401])
        raise TryLater(after=retry_after(answer, clock.now()) or 300.0)

    def ask(self, url: str) -> Answer:
        """GET a resource or a page of them; where XML comes, ask once more with `_format=json`.

        All releases have that parameter for servers that do not heed the header (DSTU2 §2.1.0.6,
        R4 §3.1.0.1.11). Raises RemoteBroken when XML comes all the same.
        """
        answer = self.get(_in_json(url) if self._say_json else url)
        if _speaks_xml(answer) and not self._say_json:
            answer = self.get(_in_json(url))
            self._say_json = not _speaks_xml(answer)
        if _speaks_xml(answer):
            raise _Final(XML_ONLY)
        return answer

    def _once(self, url: str, token: str, accept: str, limits: Limits) -> Answer:
        self.pace.room.leave()
        return self.remote.http.get(
            url,
            bearer=token,
            origin=self.base.url,
            headers={"accept": accept},
            limits=limits,
            turn=self.pace.room.enter,
        )

    def _after_401(self, url: str, token: str) -> None:
        """Find out what a 401 means: some servers say it for kinds they merely do not have."""
        if self.remote.tokens.current() != token:
            return
        if url != self.patient_url and self._lives(token):
            raise NotOffered(SENTENCES[401])
        self.remote.tokens.renewed(token)

    def _lives(self, token: str) -> bool:
        """Read the Patient: anything but another 401 means that the token is not dead."""
        self.pace.turn()
        try:
            answer = self._once(self.patient_url, token, self.accept, DEFAULT)
        except (Unreachable, AnswerRefused):
            return True
        return answer.status != HTTPStatus.UNAUTHORIZED

    def _after_429(self, answer: Answer, attempt: int) -> None:
        seconds = retry_after(answer, clock.now()) or self._pause(attempt)
        if seconds > PATIENCE:
            raise TryLater(after=seconds)
        self.pace.hold(seconds)

    def page(self, url: str) -> tuple[document.Page, Answer]:
        """Return a whole page, trying again after half ones; nothing of a broken page comes out.

        Raises NotOffered, RemoteBroken, or Unreachable when the server as a whole is still there.
        """
        for attempt in range(TRIES):
            try:
                return self._whole_page(url, at_last=attempt == TRIES - 1)
            except TooLarge:
                raise
            except (Unreachable, RemoteBroken, AnswerRefused) as problem:
                if attempt == TRIES - 1 or isinstance(problem, _Final):
                    raise
                self.pace.wait(self._pause(attempt))
        raise RemoteBroken

    def _whole_page(self, url: str, *, at_last: bool) -> tuple[document.Page, Answer]:
        answer = self.ask(url)
        refuse(answer)
        try:
            page = document.slice_bundle(answer.body)
        except document.TooMuch as problem:  # asking again would bring as much again
            raise TooLarge(problem.told) from problem
        except InvalidInput as problem:
            sentence = f"The hospital sent a page that could not be read. {problem.sentence}"
            why = faults_in(problem.told)
            raise RemoteBroken(Told(sentence, Fault.UNREADABLE, *why)) from problem
        if not (at_last and page.entries and is_busy(page)):  # else: what came of it is kept
            judge(page)
        return page, answer

    def still_there(self) -> bool:
        """Say whether the server as a whole answers, whatever it answers."""
        try:
            self.pace.turn()
            self._once(self.patient_url, self.remote.tokens.current(), self.accept, DEFAULT)
        except Unreachable:
            return False
        except AnswerRefused:
            return True
        return True

    def walk(self, chain: Chain) -> Iterator[Fetched]:
        """Yield the pages of one chain, ending with how it went. Raises only what ends the run."""
        url, seen, asked_at = chain.url, set[str](), None
        for number in range(MAX_PAGES):
            seen.add(url)
            try:
                page, answer = self.page(url)
                following = self._following(answer, page, url, seen)
            except TooLarge as problem:
                smaller = COUNT.sub(rf"\g<1>{SMALL_COUNT}", url)
                if smaller == url or smaller in seen:
                    yield _end(chain, Outcome.BROKEN, problem.told, url)
                    return
                url = smaller
                continue
            except NotOffered as problem:
                yield _end(chain, Outcome.REFUSED, problem.told)
                return
            except (RemoteBroken, AnswerRefused) as problem:
                yield _end(chain, Outcome.BROKEN, problem.told, url)
                return
            except Unreachable as problem:
                if not self.still_there():
                    raise TryLater(problem.told, after=900) from problem
                yield _end(chain, Outcome.BROKEN, problem.told, url)
                return
            if number == 0 and not chain.resumed:
                asked_at = _server_time(answer)
            fetched = _page(chain, page, following, asked_at, first=number == 0)
            del page, answer  # up to 30 MB each: not held while others work
            yield fetched
            del fetched
            if following.outcome is not Outcome.MORE or following.url is None:
                return
            url = following.url
        sentence = f"The hospital's pages did not end; stopped at {MAX_PAGES}."
        yield _end(chain, Outcome.BROKEN, Told(sentence, Fault.CIRCLE))

    def _following(
        self, answer: Answer, page: document.Page, url: str, seen: set[str]
    ) -> "_Following":
        """Judge a `next` link: inside the connection and not seen before, or the chain breaks.

        It breaks too at a page of which the server gave only a part: that one is asked for again.
        """
        if is_busy(page):
            return _Following(Outcome.BROKEN, url, SLOW_DOWN)
        link = page.next
        if link is None:
            return _Following(Outcome.DONE)
        try:
            place = net.join(answer.place, link)
        except AddressRefused as problem:
            return _Following(Outcome.BROKEN, sentence=problem.told)
        if not place.within(self.base):
            sentence = (
                f"The next page was said to be at {place.authority}, outside of this "
                "connection. Nothing was asked there."
            )
            return _Following(Outcome.BROKEN, sentence=Told(sentence, Fault.OUTSIDE))
        if place.url in seen:
            sentence = "The hospital's pages led in a circle; stopped there."
            return _Following(Outcome.BROKEN, sentence=Told(sentence, Fault.CIRCLE))
        return _Following(Outcome.MORE, place.url)


@dataclass(frozen=True, slots=True)
class _Following:
    outcome: Outcome
    url: str | None = None
    sentence: str | None = None


class _Final(RemoteBroken):
    """Broken in a way that asking again at once will not mend."""


def _page(
    chain: Chain,
    page: document.Page,
    following: _Following,
    asked_at: datetime | None,
    *,
    first: bool,
) -> Fetched:
    return Fetched(
        chain.name,
        chain.type,
        following.outcome,
        page.entries,
        following.url,
        page.total if first else None,
        following.sentence or _remark(page),
        asked_at,
        pages=1,
    )


def _end(chain: Chain, outcome: Outcome, sentence: str, url: str | None = None) -> Fetched:
    return Fetched(chain.name, chain.type, outcome, next_url=url, sentence=sentence)


def _server_time(answer: Answer) -> datetime:
    """Return the server's clock, never later than ours (a wrong one would skip changes)."""
    now = clock.now()
    date = answer.date
    return now if date is None or date <= 0 else min(now, clock.from_ms(round(date * 1000)))


def _speaks_xml(answer: Answer) -> bool:
    start = answer.body[:2048].lstrip(b"\xef\xbb\xbf \t\r\n")
    return answer.status == HTTPStatus.OK and start[:1] == b"<" and b"http://hl7.org/fhir" in start


def _in_json(url: str) -> str:
    """Return the address of a question with `_format=json`, whatever format it named."""
    where, _, query = url.partition("?")
    kept = [one for one in query.split("&") if one and not one.startswith("_format=")]
    return f"{where}?{'&'.join([*kept, '_format=json'])}"


def refuse(answer: Answer) -> None:
    """Raise for an answer that is no page: NotOffered (it said no) or RemoteBroken (it failed)."""
    if answer.status == HTTPStatus.OK and answer.body:
        start = answer.body[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
        if answer.media_type in {"text/html", "application/xhtml+xml"} or start.startswith(b"<"):
            sentence = "The hospital sent a web page where records were asked for."
            raise RemoteBroken(Told(sentence, Fault.WEB_PAGE))
        return
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        sentence = f"The hospital's server failed at this question (error {answer.status})."
        kind = _Final if answer.status == HTTPStatus.NOT_IMPLEMENTED else RemoteBroken
        raise kind(Told(sentence, Fault.SERVER_ERROR))
    if answer.status >= HTTPStatus.BAD_REQUEST:
        sentence = f"This hospital's interface refused the question (answer {answer.status})."
        raise NotOffered(SENTENCES.get(answer.status, Told(sentence, Fault.QUESTION_REFUSED)))
    raise RemoteBroken(
        "The hospital sent only a part of an answer."
        if answer.body
        else Told("The hospital sent an empty answer.", Fault.EMPTY)
    )


def is_busy(page: document.Page) -> bool:
    """Say whether the server asked to slow down inside a 200: "429" among the entries."""
    return any(one.code in BUSY and one.severity in ERRORS for one in page.outcomes)


def judge(page: document.Page) -> None:
    """Raise for errors inside a 200: refused, busy ("429" among the entries) or failed."""
    errors = [issue for issue in page.outcomes if issue.severity in ERRORS]
    codes = {issue.code for issue in errors}
    if is_busy(page):
        raise RemoteBroken(SLOW_DOWN)
    if page.entries or not errors:
        return
    if codes & NOT_ALLOWED:
        raise NotOffered(SENTENCES[403])
    if codes & NOT_THERE:
        raise NotOffered(SENTENCES[404])
    sentence = "The hospital's server reported an error instead of records."
    raise _Final(Told(sentence, Fault.SERVER_ERROR))


def _remark(page: document.Page) -> str | None:
    """Say that an error stood beside the records of a page; its own words are not shown."""
    if any(issue.severity in ERRORS for issue in page.outcomes):
        return Told("The hospital said that it could not give everything here.", Fault.PARTLY)
    return None


# ------------------------------------------------------------------------- several chains


_Thing = TypeVar("_Thing")


class Hopper(Generic[_Thing]):
    """A bounded queue between the chains' threads and the one consumer: by pages and by bytes.

    Who brings something large waits until the consumer has done with it and asks for more, so that
    nobody fetches another one beside it.
    """

    def __init__(self, pages: int = QUEUE_PAGES, size: int = QUEUE_BYTES) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[_Thing | BaseException | None, int]] = deque()
        self._bytes = 0
        self._brought = self._given = self._done = 0  # things so far
        self._pages, self._size = pages, size
        self.closed = False

    def put(self, thing: _Thing | BaseException | None, size: int = 0) -> None:
        """Wait for room, then add, and until a large one is done with; closed: raises Stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._has_room(size))
            if self.closed:
                raise Stopped
            self._waiting.append((thing, size))
            self._bytes += size
            self._brought += 1
            number = self._brought
            self._changed.notify_all()
            if size > LARGE_FROM:
                del thing
                self._changed.wait_for(lambda: self.closed or self._done >= number)

    def _has_room(self, size: int) -> bool:
        return not self._waiting or (
            len(self._waiting) < self._pages and self._bytes + size <= self._size
        )

    def take(self, timeout: float) -> tuple[_Thing | BaseException | None] | None:
        """Return the next thing in a 1-tuple, or None when none came in time."""
        with self._changed:
            self._done = self._given
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: bool(self._waiting), timeout):
                return None
            thing, size = self._waiting.popleft()
            self._bytes -= size
            self._given += 1
            self._changed.notify_all()
            return (thing,)

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


Job = Callable[[], Iterator[Fetched]]


def weight(fetched: Fetched) -> int:
    """Return the bytes of a page's records."""
    return sum(document.sizes(fetched.items))


def in_parallel(
    jobs: Sequence[Callable[[], Iterator[_Thing]]],
    workers: int,
    pace: Pace,
    size: Callable[[_Thing], int],
) -> Iterator[_Thing | None]:
    """Run jobs on a few threads and yield what they give as it comes; None when it is quiet.

    What waits to be taken is bounded by number and by `size` in bytes. The first error that ends
    the run is raised here, after the other threads were told to stop.
    """
    waiting, lock = deque(jobs), threading.Lock()
    hopper: Hopper[_Thing] = Hopper()

    def work() -> None:
        try:
            while True:
                with lock:
                    job = waiting.popleft() if waiting else None
                if job is None:
                    break
                for thing in job():
                    hopper.put(thing, size(thing))
                    del thing  # up to 30 MB: not held while the next one is fetched
                    pace.room.leave()
            hopper.put(None)
        except Stopped:
            pass
        except BaseException as problem:  # noqa: BLE001 - carried to the consumer, raised there
            _tell(hopper, problem)
        finally:
            pace.room.leave()

    pace.room.leave()  # what was asked for before, in this thread
    threads = [
        threading.Thread(target=work, name=f"chain-{number}", daemon=True)
        for number in range(min(workers, len(jobs)))
    ]
    for thread in threads:
        thread.start()
    try:
        yield from _arriving(hopper, len(threads))
    finally:
        pace.stop.set()
        hopper.close()
        for thread in threads:
            thread.join(LEAVING)
        pace.stop.clear()


def _tell(hopper: Hopper[_Thing], problem: BaseException) -> None:
    try:
        hopper.put(problem)
    except Stopped:
        return


def _arriving(hopper: Hopper[_Thing], running: int) -> Iterator[_Thing | None]:
    while running:
        taken = hopper.take(IDLE)
        if taken is None:
            yield None
            continue
        (thing,) = taken
        del taken
        if thing is None:
            running -= 1
        elif isinstance(thing, BaseException):
            raise thing
        else:
            yield thing
            del thing  # as above
