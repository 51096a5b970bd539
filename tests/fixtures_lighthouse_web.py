"""A lighthouse that listens on a loopback port of its own, for clients that are real programs."""

import threading
from contextlib import contextmanager

import uvicorn


@contextmanager
def running(app):
    """Serve an ASGI application on 127.0.0.1 and give its base address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", access_log=False)
    server = uvicorn.Server(config)
    listening = threading.Event()
    startup = server.startup

    async def started(sockets=None):
        await startup(sockets=sockets)
        listening.set()

    server.startup = started
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert listening.wait(20)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
