"""Runs `python -m loadtest.bench`: the program in comparison.py."""

import sys

from loadtest.bench.comparison import main

if __name__ == "__main__":
    sys.exit(main())
