"""`python -m phr`: the same as the command `phr`."""

from phr.cli import main

main()
