"""Where a process listens, by what a user says of it (``--bind``), and which of a peer's endpoints is the nearest. IPv4.

Loopback is where a process listens if nothing is said. Anything else is one of this host's addresses, or an interface that has
one; no wildcard, for an endpoint is also what others are told to dial.
"""

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

from agentkd.errors import ConfigError
from agentkd.exchange.doors import is_listened_at
from agentkd.exchange.transports import TCP, Transport

LOOPBACK, AUTO = "127.0.0.1", "auto"
TCP_SCHEME = "tcp://"
SIOCGIFADDR = 0x8915  # Linux: the address of an interface


def listening(transport: Transport, bind: str, *, port: int = 0, towards: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The addresses of a transport, with those over TCP at the places that are said.

    Args:
        transport: that is meant.
        bind: addresses or interfaces of this host, with commas between; ``auto`` for the address by which this host reaches what
            is dialed; empty for loopback.
        port: of TCP; 0 for any.
        towards: endpoints that are dialed from here.

    Raises:
        ConfigError: there is no such address or interface.
    """
    hosts = [_resolved(one.strip(), towards) for one in bind.split(",")] if bind else [LOOPBACK]
    found: list[str] = []
    for address in transport.bind:
        found += [f"{TCP_SCHEME}{host}:{port or '*'}" for host in hosts] if address == TCP else [address]
    return tuple(dict.fromkeys(found))


def is_local(endpoint: str) -> bool:
    """Whether nobody on another host can dial it."""
    return not endpoint.startswith(TCP_SCHEME) or _host(endpoint).startswith("127.")


def reach_hint(endpoints: tuple[str, ...]) -> str:
    """What to do where agents on other hosts cannot come, for nobody there can dial these; empty if somebody can."""
    if not all(map(is_local, endpoints)):
        return ""
    return f"; nothing listens but {LOOPBACK}, which no other host reaches: --bind names an address that other hosts reach"


def nearest(endpoints: tuple[str, ...]) -> str:
    """The endpoint with the shortest way: memory, then a socket file that is here, then TCP. Empty if there is none.

    Of several over TCP it is the one whose address has most in common with that by which it is reached.
    """
    for endpoint in endpoints:
        scheme, _, place = endpoint.partition("://")
        if scheme == "memory" or (scheme == "ipc" and is_listened_at(Path(place))):
            return endpoint
    over_tcp = [endpoint for endpoint in endpoints if endpoint.startswith(TCP_SCHEME)]
    distant = [endpoint for endpoint in over_tcp if not is_local(endpoint)]
    return max(distant or over_tcp, key=_num_common_bits, default="")


def same_way(dialed: str, endpoints: tuple[str, ...]) -> str:
    """The endpoint of a peer's other lane that is reached as one of its endpoints was; empty if there is none."""
    scheme = dialed.partition("://")[0]
    same = [endpoint for endpoint in endpoints if endpoint.partition("://")[0] == scheme]
    return next((endpoint for endpoint in same if _host(endpoint) == _host(dialed)), same[0] if same else "")


def _resolved(bind: str, towards: tuple[str, ...]) -> str:
    if bind == AUTO:
        distant = [endpoint for endpoint in towards if not is_local(endpoint)]
        return _source(nearest(tuple(distant))) or LOOPBACK if distant else LOOPBACK
    try:
        address = ipaddress.IPv4Address(bind)
    except ValueError:
        return _address_of(bind)
    if address.is_unspecified:
        raise ConfigError(f"bind {bind!r}: others must know where to dial; name an address of this host or {_interfaces()}")
    _check_is_here(str(address))
    return str(address)


def _check_is_here(address: str) -> None:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            any_socket.bind((address, 0))
    except OSError as error:
        raise ConfigError(
            f"bind {address!r}: no address of this host ({error.strerror}); expected one of its own or {_interfaces()}"
        ) from None


def _address_of(interface: str) -> str:
    asked = struct.pack("256s", interface.encode()[:15])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            return socket.inet_ntoa(fcntl.ioctl(any_socket.fileno(), SIOCGIFADDR, asked)[20:24])
    except OSError as error:
        raise ConfigError(
            f"bind {interface[:80]!r}: no interface here with an IPv4 address ({error.strerror}); expected an address of this "
            f"host or {_interfaces()}"
        ) from None


def _interfaces() -> str:
    try:
        return f"one of {', '.join(name for _, name in socket.if_nameindex())}"
    except OSError:
        return "an interface of it"


def _source(endpoint: str) -> str:
    """The address by which this host reaches an endpoint; empty if it does not. Nothing is sent."""
    host, _, port = endpoint.removeprefix(TCP_SCHEME).rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unsent:
            unsent.connect((host, int(port)))
            return str(unsent.getsockname()[0])
    except (OSError, ValueError):
        return ""


def _num_common_bits(endpoint: str) -> int:
    """Leading bits that an endpoint's address has in common with that by which it is reached; -1 if it is not."""
    try:
        here, there = ipaddress.IPv4Address(_source(endpoint)), ipaddress.IPv4Address(_host(endpoint))
    except ValueError:
        return 0 if _source(endpoint) else -1
    return 32 - (int(here) ^ int(there)).bit_length()


def _host(endpoint: str) -> str:
    return endpoint.removeprefix(TCP_SCHEME).rpartition(":")[0] if endpoint.startswith(TCP_SCHEME) else ""
