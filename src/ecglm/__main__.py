"""``python -m ecglm`` is the command line."""

from ecglm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
