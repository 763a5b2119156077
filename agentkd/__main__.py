"""``python -m agentkd``, and the console script's entry point."""

from agentkd.cli import main

if __name__ == "__main__":
    main()
