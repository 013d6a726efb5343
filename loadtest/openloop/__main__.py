"""Runs `python -m loadtest.openloop`: the program in generator.py."""

import sys

from loadtest.openloop.generator import main

if __name__ == "__main__":
    sys.exit(main())
