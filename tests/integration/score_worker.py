"""One of the processes of a distributed `bequest score`; started by torchrun."""

from __future__ import annotations

import sys

from bequest.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
