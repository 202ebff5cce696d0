"""`python -m seatctl` and the console script."""

from __future__ import annotations

from seatctl.cli.app import main

if __name__ == "__main__":
    main()
