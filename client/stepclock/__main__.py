"""`python -m stepclock` is the command `stepclock`."""

import sys

from stepclock.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
