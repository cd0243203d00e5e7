"""``python -m ops`` is ``tablecast``."""

from ops.cli import main

main()
