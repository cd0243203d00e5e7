"""The stand-in broker `noida-db`, a pip-installed program, for a look at Tablecast without Java."""

import importlib.metadata
import importlib.util
from pathlib import Path

from ops.broker.process import HOST, Broker, free_ports, launch

PACKAGE = "noida_db"


def installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


def start(data_dir: Path, lock: int, *, port: int | None, missing: str) -> Broker:
    """Start the stand-in on `data_dir`, whose lock is held; `missing` is what Apache Kafka lacks here."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).with_name("noida-db")
    program.chmod(0o755)  # a wheel does not carry the bit
    port = port or free_ports(1)[0]
    return launch(
        [str(program), "start", "--only", "kafka", "--host", HOST, "--kafka-port", str(port), "--data-dir", "standin"],
        data_dir,
        lock,
        port=port,
        kind=f"noida-db {importlib.metadata.version(PACKAGE)} (stand-in)",
        limits=f"This is a stand-in broker because {missing} was not found: a worker that crashes blocks its consumer "
        "group, and a broker that is killed can lose acknowledged records.",
    )
