"""``python -m hardrun``: the command line."""

import sys

from hardrun.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
