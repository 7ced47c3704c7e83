"""`python -m motley_runtime.gateway`: the same as `motley gateway`."""

from __future__ import annotations

import argparse
import sys

from motley_runtime.gateway.options import DESCRIPTION, add_arguments, settings_of
from motley_runtime.gateway.server import serve


def main() -> int:
    """Exit status of the gateway started from this process's arguments."""
    parser = argparse.ArgumentParser(prog="motley_runtime.gateway", description=DESCRIPTION)
    add_arguments(parser)
    return serve(settings_of(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
