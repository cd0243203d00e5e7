"""The dashboard's picture asks a Prometheus every query of the dashboard and draws what it says."""

import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import typer
from typer.testing import CliRunner

from ops.dashboard_picture import DASHBOARD, UNITS, draw

PANELS = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
app = typer.Typer()
app.command()(draw)


@pytest.fixture
def prometheus():
    """Yield the address of a server that answers any query with one rising line, and what it was asked."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            asked.append(query["query"])
            end = float(query["end"])
            values = [[end - 60, "1"], [end, "2"]]
            body = json.dumps({"data": {"result": [{"metric": {"topic": "t"}, "values": values}]}}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_every_query_is_asked_and_a_picture_is_there(prometheus, tmp_path):
    address, asked = prometheus
    done = CliRunner().invoke(app, [str(tmp_path / "picture.svg"), "--prometheus", address, "--minutes", "5"])
    assert done.exit_code == 0, done.output
    assert asked == [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
    assert (tmp_path / "picture.svg").read_text("utf-8").count('id="axes_') == sum("targets" in p for p in PANELS)


def test_without_a_prometheus_it_ends_with_a_sentence(tmp_path):
    done = CliRunner().invoke(app, [str(tmp_path / "picture.png"), "--prometheus", "http://127.0.0.1:1"])
    assert done.exit_code == 2
    assert "no Prometheus answers on http://127.0.0.1:1" in done.output


def test_every_unit_of_the_dashboard_can_be_written():
    assert {panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS if "targets" in panel} <= UNITS.keys()
    assert UNITS["s"](0.25) == "250 ms"
    assert UNITS["bytes"](3 * 2**30) == "3.0 GiB"
