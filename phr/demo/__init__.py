"""The demo hospital: a small honest SMART on FHIR provider with made-up people, labelled as such.

It listens on this machine only. Its two pages for people (who are you, may this app read) are
served by the home listener under `/demo-hospital/`, where a browser can reach them.
"""

import threading
from dataclasses import dataclass, field

import uvicorn

from phr.demo.hospital import CLIENT_ID, NAME, Asgi, Hospital
from phr.settings import Settings

START_SECONDS = 10.0


@dataclass(slots=True)
class Demo:
    """A running demo hospital. `app` is its ASGI application, `address` its "host:port"."""

    app: Asgi
    address: str
    authorize_url: str  # where a browser signs in
    _server: uvicorn.Server = field(repr=False)
    _thread: threading.Thread = field(repr=False)
    name: str = NAME
    client_id: str = CLIENT_ID

    @property
    def url(self) -> str:
        """The address of the hospital."""
        return f"http://{self.address}"

    @property
    def base_url(self) -> str:
        """The FHIR base URL."""
        return f"{self.url}/fhir"

    def close(self) -> None:
        """Stop listening; what it handed out is void."""
        self._server.should_exit = True
        self._thread.join(START_SECONDS)


def start(settings: Settings, *, standalone: bool = False) -> Demo:
    """Start the demo hospital on 127.0.0.1:`demo_port` (0: any free port).

    `standalone`: no appliance serves its pages, so a browser signs in at its own address. Raises
    OSError when the port is taken.
    """
    config = uvicorn.Config(_nothing, host="127.0.0.1", port=settings.demo_port, log_config=None)
    listener = config.bind_socket()
    listener.listen()  # from here on requests wait instead of being refused
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    pages = f"http://{address}" if standalone else f"{settings.home_url}/demo-hospital"
    hospital = Hospital(f"http://{address}", pages)
    config.app = hospital
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), name="demo", daemon=True)
    thread.start()
    return Demo(hospital, address, f"{pages}/authorize", server, thread)


async def _nothing(*_: object) -> None:
    """Stand in until the port, and with it the hospital's own address, is known."""
