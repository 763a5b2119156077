"""``python -m agentkd_predict``, and the console script's entry point."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The command line. Ctrl-C while it is imported ends it as quietly as later."""
    try:
        from agentkd_predict.cli import main as command_line
    except KeyboardInterrupt:
        sys.exit(130)
    command_line()


if __name__ == "__main__":
    main()
