"""A page of ours as PDF/UA by WeasyPrint (extra `pdf`), in a process of its own that then ends.

The library needs 60 MB and reads fonts; the house does without both as long as nobody asks. It is
given the text of the page and no way to fetch anything.
"""

import subprocess
import sys
from importlib.util import find_spec
from typing import Final

from phr.errors import PhrError

SECONDS: Final = 60  # for one document; 40 pages take about 3
SORRY: Final = "The PDF could not be made. Please use “Print” and save as PDF there."

_CHILD: Final = """
import sys
from weasyprint import HTML

def refuse(url, *rest, **more):
    raise ValueError("nothing is fetched")

page = HTML(string=sys.stdin.buffer.read().decode(), url_fetcher=refuse)
sys.stdout.buffer.write(page.write_pdf(pdf_variant="pdf/ua-1"))
"""


def possible() -> bool:
    """Say whether the extra is installed."""
    return find_spec("weasyprint") is not None


def pdf(html: str) -> bytes:
    """Return an HTML document as PDF/UA-1. Raises PhrError with a sentence when that fails."""
    command = [sys.executable, "-I", "-c", _CHILD]
    try:
        made = subprocess.run(  # noqa: S603 - this interpreter, our text
            command, input=html.encode(), capture_output=True, check=True, timeout=SECONDS
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise PhrError(SORRY) from error
    return made.stdout
