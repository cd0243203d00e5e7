"""Telling whoever started this process that it is ready: systemd's notification protocol, where one is listening."""

import os
import socket


def notify_ready() -> None:
    """Send READY=1 to ``NOTIFY_SOCKET``; without that variable nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(b"READY=1")
