"""``tablecast state`` and ``tablecast inference``: one process of a stage."""

from ops.cluster import connected
from ops.errors import explained


def state() -> None:
    """Run the state stage: joins requests with what is known and attributes feedback.

    Example: TABLECAST_KAFKA__BOOTSTRAP=127.0.0.1:9092 tablecast state
    """
    from streams.logs import configure_logs
    from streams.process import run_until_signalled
    from streams.settings import load_settings
    from streams.state.app import StateApp

    with explained():
        settings = connected(load_settings())
        configure_logs("state", settings.log_level)
        run_until_signalled(lambda stop: StateApp(settings).run(stop))


def inference() -> None:
    """Run the inference stage: answers joined requests with ranked lists.

    Example: TABLECAST_KAFKA__BOOTSTRAP=127.0.0.1:9092 tablecast inference
    """
    from streams.inference.app import InferenceApp
    from streams.logs import configure_logs
    from streams.process import run_until_signalled
    from streams.settings import load_settings

    with explained():
        settings = connected(load_settings())
        configure_logs("inference", settings.log_level)
        run_until_signalled(lambda stop: InferenceApp(settings).run(stop))
