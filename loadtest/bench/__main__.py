"""`python -m loadtest.bench`: the program in `bench.py`."""

import sys

from loadtest.bench.bench import main

if __name__ == "__main__":
    sys.exit(main())
