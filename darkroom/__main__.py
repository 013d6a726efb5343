"""`python -m darkroom` is the `darkroom` command."""

import sys

from darkroom.service.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
