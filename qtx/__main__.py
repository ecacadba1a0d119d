"""`python -m qtx` runs the same program as the command `qtx`."""

import sys

from qtx.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
