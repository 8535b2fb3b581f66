"""Refuses every connection beyond this machine: `install()`."""

import ipaddress
import socket


class NetworkRefused(OSError):
    """A test tried to reach another machine."""


def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _check(host: object) -> None:
    if not _is_local(host):
        raise NetworkRefused(f"tests run without a network; refused: {host}")


class GuardedSocket(socket.socket):
    """A socket that connects to this machine only; UNIX sockets are free."""

    def _guard(self, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])

    def connect(self, address):
        self._guard(address)
        return super().connect(address)

    def connect_ex(self, address):
        self._guard(address)
        return super().connect_ex(address)

    def sendto(self, data, *rest):
        self._guard(rest[-1])
        return super().sendto(data, *rest)


def install() -> None:
    """Guard sockets and name look-ups; calling it again changes nothing."""
    if socket.socket is GuardedSocket:
        return
    look_up = socket.getaddrinfo

    def getaddrinfo(host, *more, **options):
        _check(host)
        return look_up(host, *more, **options)

    socket.socket, socket.getaddrinfo = GuardedSocket, getaddrinfo
