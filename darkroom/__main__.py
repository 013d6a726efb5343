"""`python -m darkroom` is the `darkroom` command."""

import sys

from darkroom.service.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
