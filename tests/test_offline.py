"""The tests' own promise: nothing beyond this machine is reached."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest


def test_names_and_addresses_of_others_are_refused() -> None:
    with pytest.raises(OSError, match="without a network; refused: example.org"):
        socket.create_connection(("example.org", 80), timeout=1)
    with socket.socket() as plain, pytest.raises(OSError, match="refused: 192.0.2.1"):
        plain.connect(("192.0.2.1", 80))


def test_this_machine_is_reached() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname(), timeout=5) as client:
            assert client.getpeername() == server.getsockname()


def test_processes_started_by_tests_are_guarded() -> None:
    code = "import socket; socket.create_connection(('example.org', 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "NetworkRefused" in done.stderr
