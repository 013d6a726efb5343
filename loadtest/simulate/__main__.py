"""Runs `python -m loadtest.simulate`: the program in simulate.py."""

import sys

from loadtest.simulate.simulate import main

if __name__ == "__main__":
    sys.exit(main())
