"""``python -m ops`` is ``tablecast``."""

from ops.cli import main

if __name__ == "__main__":  # a worker process imports this module, too
    main()
