"""The progress bar of commands that take more than a few seconds; none where nobody looks."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ops.terminal import Terminal


def progress_bar() -> Progress:
    """Return a bar on standard error: what is done, how much of it, how long it will take."""
    console = Terminal(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
