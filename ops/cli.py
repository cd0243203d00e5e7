"""The command line. Each command's code is imported when it runs, so that ``--help`` answers at once."""

import sys

import typer

from ops.backfill_command import backfill
from ops.bench.campaign_command import alerts, campaign, catalogue, dead_letters, race, replays
from ops.bench.learning_command import learning
from ops.bench.statistics_command import canary, off_policy
from ops.bench.strategies_command import strategies
from ops.bench_command import app as bench_app
from ops.cluster import connected
from ops.dead_letters.command import app as deadletters_app
from ops.doctor_command import doctor
from ops.errors import explained
from ops.evaluate_command import evaluate
from ops.export_command import export
from ops.forget_command import forget
from ops.import_command import HELP as IMPORT_HELP
from ops.import_command import import_dataset
from ops.model_command import app as model_app
from ops.replay.command import replay
from ops.request_command import request
from ops.simulate_command import simulate
from ops.topics_command import app as topics_app
from ops.trace_command import trace
from ops.train_command import report, train
from ops.trainer_command import trainer
from ops.up_command import up

app = typer.Typer(
    help="Tablecast: a streaming real-time recommender driven by a fine-tuned language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(topics_app, name="topics")
app.add_typer(bench_app, name="bench")
app.add_typer(model_app, name="model")
app.add_typer(deadletters_app, name="deadletters")
for command in (campaign, race, catalogue, alerts, strategies, off_policy, canary, learning):
    bench_app.command()(command)
bench_app.command("deadletters")(dead_letters)
bench_app.command("replay")(replays)
app.command("import", help=IMPORT_HELP)(import_dataset)
app.command()(up)
app.command()(request)
app.command()(replay)
app.command()(backfill)
app.command()(simulate)
app.command()(evaluate)
app.command()(train)
app.command()(export)
app.command()(report)
app.command()(trainer)
app.command()(forget)
app.command()(doctor)
app.command()(trace)


@app.command()
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


@app.command()
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


def main() -> None:
    """Run the command line."""
    sys.exit(app())
