"""Apache Kafka in KRaft mode as a single node, run from jars that Maven fetched once into a cache."""

import base64
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ops.broker.process import HOST, Broker, BrokerError, claim, free_ports, launch
from ops.terminal import Terminal

OLDEST_JAVA = 17  # Kafka 4 runs on 17 and newer
RESOURCES = Path(__file__).parent
POM = RESOURCES / "pom.xml"
MANIFEST_NAME = "manifest.json"
DATA_NAME = "kafka"  # within the data folder
_PROGRESS = Terminal(stderr=True)

PROPERTIES: Mapping[str, str] = {
    # one node keeps the only copy of everything
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # few internal partitions: each is files to open at start
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    # topics are created with their settings or not at all
    "auto.create.topics.enable": "false",
    # a batch of the largest records that the schemas allow
    "message.max.bytes": str(4 * 1024 * 1024),
    "replica.fetch.max.bytes": str(4 * 1024 * 1024),
    # a lone worker starts at once, and a crashed one is noticed after a second if it asks for that
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # a killed broker's registration holds its successor off for this long; both live in one process, so heartbeats are
    # late only when the machine stands still
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # readers of committed records wait behind a crashed producer's transaction: abort it soon after its timeout
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # the default of 128 MiB is a quarter of the heap; 16 MiB still compacts 600,000 keys in one pass
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    "num.network.threads": "2",
    "num.io.threads": "4",
}

# The serial collector starts sooner and costs no throughput that clients in Python could use.
JVM_OPTIONS = [
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    f"-Dlog4j2.configurationFile={RESOURCES / 'log4j2.properties'}",
]


def version() -> str:
    """Return the Kafka version that pom.xml pins."""
    found = re.search(r"<kafka\.version>(.+?)</kafka\.version>", POM.read_text())
    assert found is not None
    return found[1]


def missing_tools() -> str:
    """Return what Apache Kafka lacks on this machine ("Java", "Maven"), or "" when it can run."""
    if _java() is None:
        return "Java"
    if shutil.which("mvn") is None and not _is_complete(_cache()):
        return "Maven (which fetches Apache Kafka once)"
    return ""


def start(
    data_dir: Path,
    lock: int,
    *,
    port: int | None,
    properties: Mapping[str, str],
    users: Mapping[str, str],
    client: Mapping[str, Any],
) -> Broker:
    """Start Kafka on `data_dir`, whose lock is held. The first start on a machine fetches the jars (43 MB)."""
    jars, archive = _prepare()
    options = [f"-XX:SharedArchiveFile={archive}"]
    return _run(data_dir, lock, jars, options, port=port, properties=properties, users=users, client=client)


def _run(
    data_dir: Path,
    lock: int,
    jars: Path,
    options: Sequence[str],
    *,
    port: int | None,
    properties: Mapping[str, str],
    users: Mapping[str, str],
    client: Mapping[str, Any],
) -> Broker:
    broker_port, controller_port = free_ports(2)
    port = port or broker_port
    config = data_dir / "server.properties"
    settings = {**PROPERTIES, **_node(data_dir, port, controller_port), **properties}
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    java = [_require_java(), *JVM_OPTIONS]
    # listed, not a wildcard: a wildcard's order is the file system's, and the class archive needs the same order again
    classes = ["-cp", ":".join(str(jar) for jar in sorted(jars.glob("*.jar")))]
    if not (data_dir / DATA_NAME / "meta.properties").exists():
        _format([*java, *classes], config, users)
    command = [*java, *options, *classes, "kafka.Kafka", str(config)]
    return launch(command, data_dir, lock, port=port, kind=f"Apache Kafka {version()}", client=client)


def _node(data_dir: Path, port: int, controller_port: int) -> dict[str, str]:
    """Return the properties that make this one node both broker and controller, on loopback only."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
        "listeners": f"BROKER://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"BROKER://{HOST}:{port}",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "BROKER",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data_dir / DATA_NAME),
    }


def _format(java: Sequence[str], config: Path, users: Mapping[str, str]) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    done = subprocess.run(
        [
            *java,
            "kafka.tools.StorageTool",
            "format",
            f"--cluster-id={cluster}",
            "--config",
            str(config),
            *(f"--add-scram=SCRAM-SHA-512=[name={name},password={password}]" for name, password in users.items()),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BrokerError(
            f"Apache Kafka can't format {config.parent / DATA_NAME}. Check the properties in {config}; if they are "
            "right, remove the first folder when nothing in it is needed, or choose another. Kafka says:\n"
            + (done.stdout + done.stderr)[-2000:]
        )


def _java() -> str | None:
    """Return the program `java` of JAVA_HOME, else of PATH."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")


def _require_java() -> str:
    java = _java()
    assert java is not None
    return java


def _java_version() -> str:
    """Return Java's own version string, such as "17.0.15". Raises `BrokerError` for one that is too old."""
    said = subprocess.run([_require_java(), "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "((\d+)[^"]*)"', said)
    if found is None or int(found[2]) < OLDEST_JAVA:
        raise BrokerError(
            f"Apache Kafka {version()} needs Java {OLDEST_JAVA} or newer; {_java()} is {said.splitlines()[:1]}. "
            "Install a newer one, or set JAVA_HOME to it."
        )
    return found[1]


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tablecast" / f"kafka-{version()}"


def _manifest(jars: Path) -> str:
    """Return the checksums of pom.xml and of every jar there is (43 MB are read in 0.1 s)."""
    files = [POM, *sorted(jars.glob("*.jar"))]
    return json.dumps({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}, indent=1)


def _is_complete(cache: Path) -> bool:
    """Whether the cache holds exactly what was fetched for the present pom.xml."""
    manifest = cache / MANIFEST_NAME
    return manifest.exists() and manifest.read_text() == _manifest(cache / "jars")


def _prepare() -> tuple[Path, Path]:
    """Return the folder of Kafka's jars and the archive of its classes, made first where the cache lacks them."""
    java_version = _java_version()
    cache = _cache()
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_name(f"{cache.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two first starts at once, the second waits for what the first makes
        _fetch_if_incomplete(cache)
        archive = cache / f"classes-{java_version}.jsa"
        if not archive.exists():
            _archive_classes(cache / "jars", archive)
    return cache / "jars", archive


def _fetch_if_incomplete(cache: Path) -> None:
    """Replace a cache that lacks a jar or holds a damaged one; an interrupted fetch changes nothing."""
    if _is_complete(cache):
        return
    with (
        tempfile.TemporaryDirectory(dir=cache.parent, prefix=f"{cache.name}-") as scratch,
        _PROGRESS.status(f"Fetching Apache Kafka {version()} from Maven Central, once (43 MB)"),
    ):
        fetched = Path(scratch, "fetched")
        fetched.mkdir()
        shutil.copy(POM, fetched)
        done = subprocess.run(
            ["mvn", "--batch-mode", "--quiet", "--strict-checksums", "dependency:copy-dependencies"],
            cwd=fetched,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BrokerError(
                f"Maven could not fetch Apache Kafka {version()}. Check the network and Maven's settings.xml (a mirror "
                f"or proxy), then start again. Maven says:\n{(done.stdout + done.stderr)[-2000:]}"
            )
        (fetched / MANIFEST_NAME).write_text(_manifest(fetched / "jars"))
        if cache.exists():
            cache.rename(Path(scratch, "replaced"))
        fetched.rename(cache)


def _archive_classes(jars: Path, archive: Path) -> None:
    """Run Kafka once and keep its parsed classes for Java to map: later starts take half the time."""
    with (
        tempfile.TemporaryDirectory(dir=archive.parent, prefix="archive-") as scratch,
        claim(Path(scratch)) as lock,
        _PROGRESS.status(f"Preparing Apache Kafka {version()} for fast starts, once"),
    ):
        made = Path(scratch, archive.name)
        made.touch()  # stays empty, and is ignored by Java, where Java can't make one
        options = [f"-XX:ArchiveClassesAtExit={made}"]
        _run(Path(scratch), lock, jars, options, port=None, properties={}, users={}, client={}).stop()
        made.rename(archive)
