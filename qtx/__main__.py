"""`python -m qtx`: the same as `qtx`."""

import sys

from qtx.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
