"""How data comes in: one plug-in per kind, none of which knows the database. THE table is here.

The keys stand in `connection.kind`: never rename one, only add.
"""

from collections.abc import Callable

from phr.connectors.base import Connector, LiveConnector, Remote
from phr.connectors.smart import Smart
from phr.connectors.upload import Upload
from phr.fhir.record import UPLOAD

LIVE: dict[str, Callable[[Remote], LiveConnector]] = {"smart": Smart}
CONNECTORS: dict[str, Callable[..., Connector]] = {**LIVE, UPLOAD: Upload}
