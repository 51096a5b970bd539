"""`phr serve`: two listeners, the jobs and the control socket in one process, until a signal.

What the appliance consists of is in `phr.appliance`; what it answers, in `phr.web`.
"""

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

from phr import courtesy, memory
from phr.appliance import Appliance
from phr.cli.control import Control, Dialogue
from phr.cli.protocol import Protocol
from phr.errors import Conflict, PhrError
from phr.settings import Settings
from phr.web import early
from phr.web.application import (
    Application,
    home_application,
    home_keeper,
    public_application,
    public_keeper,
)

if TYPE_CHECKING:
    from phr.tls import Tls

log = logging.getLogger(__name__)

HTTP_GRACE = 3  # seconds that open answers get at a stop
HARD_STOP = 7.5  # a stop takes at most 8 s: `docker stop` kills after 10 (security.md J8)
_FIRST_PAGE = 0.3  # seconds left to whoever waits for it
_RENEWAL_LOOK = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Running:
    """What is known once both listeners answer; handed to `announce`."""

    appliance: Appliance
    setup_code: str | None
    stop: Callable[[], None]

    def facts(self) -> dict[str, Any]:
        """Return what the person at the terminal, or a test, needs to know."""
        settings = self.appliance.settings
        return {
            "event": "ready",
            "home_url": settings.home_url,
            "public_url": settings.public_url,
            "demo_url": self.appliance.demo.url if self.appliance.demo else None,
            "setup_code": self.setup_code,
            "ca_fingerprint": self._ca_fingerprint(),
        }

    def _ca_fingerprint(self) -> str | None:
        if self.appliance.tls is None:
            return None
        from phr import tls  # noqa: PLC0415 - only where this box ends TLS

        authority = tls.authority(self.appliance.settings)
        return authority.fingerprint if authority else None


class _Listener(uvicorn.Server):
    """One of our two servers. Signals are handled once, for both."""

    ready = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready = True


def serve(settings: Settings, announce: Callable[[Running], None]) -> None:
    """Run the appliance until SIGTERM, SIGINT or `Running.stop`; then stop within 8 seconds.

    Raises DataLocked when another process holds the data, Conflict when an address is taken.
    """
    home, public = _bind(settings.host, settings.port), None
    try:
        public = _bind(settings.public_host, settings.public_port)
        appliance = Appliance.open(_with_real_ports(settings, home, public))
    except BaseException:
        home.close()
        if public is not None:
            public.close()
        raise
    try:
        _run(appliance, home, public, announce)
    finally:
        with _hard_stop():
            appliance.close()
    log.info("serve.stopped")


def serve_demo(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run only the demo hospital until SIGTERM or SIGINT."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    from phr import demo  # noqa: PLC0415 - who never tries the demo never loads it

    hospital = demo.start(settings, standalone=True)
    try:
        announce(hospital.base_url)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    finally:
        hospital.close()


def _run(
    appliance: Appliance,
    home: socket.socket,
    public: socket.socket,
    announce: Callable[[Running], None],
) -> None:
    pages, doors = _pages(appliance), _doors(appliance)
    listeners = [(_listener(pages, appliance), home), (_listener(doors, appliance), public)]
    control = Control(appliance.settings.control_path, partial(_command, appliance), _exit_code)
    try:
        if appliance.settings.demo:
            appliance.start_demo()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_listen(appliance, listeners, announce, [pages, doors]))
    finally:
        control.close()


def _pages(appliance: Appliance) -> early.Early:
    doorkeeper = home_keeper(appliance)

    def load() -> Application:
        from phr.web.app import create_home_app  # noqa: PLC0415 - behind the first page

        appliance.make_jobs()  # pages ask them to fetch
        return create_home_app(appliance, doorkeeper)

    return early.Early(home_application(early.FIRST_PAGES, doorkeeper), load)


def _doors(appliance: Appliance) -> early.Early:
    doorkeeper = public_keeper(appliance)

    def load() -> Application:
        from phr.web.app import create_public_app  # noqa: PLC0415 - behind the first page

        return create_public_app(appliance, doorkeeper)

    return early.Early(public_application(early.FIRST_DOORS, doorkeeper), load)


def _command(appliance: Appliance, name: str, arguments: Mapping[str, Any]) -> Dialogue:
    from phr.cli import commands  # noqa: PLC0415 - behind the first page

    return commands.run(appliance, name, arguments)


def _exit_code(error: PhrError) -> int:
    from phr.cli import commands  # noqa: PLC0415 - behind the first page

    return commands.exit_code(error)


async def _listen(
    appliance: Appliance,
    listeners: list[tuple[_Listener, socket.socket]],
    announce: Callable[[Running], None],
    applications: list[early.Early],
) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for listener, _ in listeners:
            listener.should_exit = True

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
    beside = [asyncio.create_task(_renew(appliance.tls))]
    tasks = [asyncio.create_task(one.serve(sockets=[bound])) for one, bound in listeners]
    try:
        while not all(listener.ready for listener, _ in listeners):
            if any(task.done() for task in tasks):
                break
            await asyncio.sleep(0.01)
        else:
            announce(Running(appliance, appliance.new_setup_code(), stop))
            beside.append(asyncio.create_task(_settle(appliance, applications)))
            beside[-1].add_done_callback(lambda task: stop() if _failed(task) else None)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        stop()  # one listener never runs alone
        await asyncio.gather(*tasks, *filter(_failed, beside))
    finally:
        for task in beside:
            task.cancel()


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


async def _settle(appliance: Appliance, applications: list[early.Early]) -> None:
    """Do what the first page need not wait for: load the rest, begin the jobs, keep answers quick.

    The collector need not walk what stays for ever.
    """
    courtesy.take_turns()
    await asyncio.sleep(_FIRST_PAGE)
    for each in applications:
        await asyncio.to_thread(each.whole)
    await asyncio.to_thread(importlib.import_module, "phr.cli.commands")
    if appliance.jobs is not None:
        await asyncio.to_thread(appliance.jobs.start)
    gc.collect()
    gc.freeze()
    gc.enable()
    memory.give_back_now()


async def _renew(certificate: "Tls | None") -> None:
    while certificate is not None:
        await asyncio.sleep(_RENEWAL_LOOK)
        if await asyncio.to_thread(certificate.renew):
            log.info("tls.renewed")


def _listener(app: Any, appliance: Appliance) -> _Listener:
    proxies = appliance.settings.trusted_proxies
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",  # nothing of ours begins or ends with it
        log_config=None,  # phr.logs decides
        access_log=False,  # paths name patients
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_graceful_shutdown=HTTP_GRACE,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it greets at length
    config.load()
    config.ssl = appliance.tls.context if appliance.tls else None
    return _Listener(config)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # with the protocol named: asyncio switches Nagle off only then, and an answer in two pieces
    # would wait 40 ms for the browser's delayed acknowledgement
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise Conflict(
            f"Cannot listen on {host} port {port} ({error.strerror}). Is Homeport running already?"
        ) from error
    bound.set_inheritable(False)
    return bound


def _with_real_ports(settings: Settings, home: socket.socket, public: socket.socket) -> Settings:
    """Put the ports the system chose (PHR_PORT=0) into the settings and the two addresses."""
    ports = home.getsockname()[1], public.getsockname()[1]
    return replace(
        settings,
        port=ports[0],
        public_port=ports[1],
        home_url=_real(settings.home_url, ports[0]),
        public_url=_real(settings.public_url, ports[1]),
    )


def _real(url: str, port: int) -> str:
    head, _, path = url.removeprefix("http://").removeprefix("https://").partition("/")
    if not head.endswith(":0"):
        return url
    scheme = url.split("://", 1)[0]
    return f"{scheme}://{head[:-1]}{port}" + (f"/{path}" if path else "")


@contextlib.contextmanager
def _hard_stop() -> Iterator[None]:
    """End the process if closing hangs: everything acknowledged is on disk already."""
    timer = threading.Timer(HARD_STOP - HTTP_GRACE, os._exit, args=(1,))
    timer.daemon = True
    if threading.current_thread() is threading.main_thread():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
