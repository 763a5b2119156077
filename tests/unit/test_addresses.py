"""Where a process listens, by what is said of it, and which of a peer's endpoints it dials."""

import socket
import sys

import pytest

from agentkd.errors import ConfigError
from agentkd.exchange.addresses import AUTO, is_local, listening, nearest, reach_hint, same_way
from agentkd.exchange.transports import find_transport

EVERYDAY, TCP = find_transport("auto"), find_transport("tcp")
LOOPBACK_INTERFACE = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "")


def test_loopback_is_where_it_listens_if_nothing_is_said() -> None:
    assert listening(EVERYDAY, "") == ("ipc://*", "tcp://127.0.0.1:*")
    assert listening(TCP, "", port=5555) == ("tcp://127.0.0.1:5555",)


def test_addresses_that_are_said_take_its_place() -> None:
    assert listening(EVERYDAY, "127.0.0.2, 127.0.0.3", port=7) == ("ipc://*", "tcp://127.0.0.2:7", "tcp://127.0.0.3:7")


def test_it_is_said_where_nobody_on_another_host_can_dial() -> None:
    assert "--bind names an address that other hosts reach" in reach_hint(("ipc:///a", "tcp://127.0.0.1:5"))
    assert reach_hint(("tcp://127.0.0.1:5", "tcp://10.0.0.1:5")) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="the address of an interface is asked as Linux has it")
def test_an_interface_stands_for_its_address() -> None:
    assert listening(TCP, LOOPBACK_INTERFACE) == ("tcp://127.0.0.1:*",)


@pytest.mark.parametrize(
    ("bind", "text"),
    [
        ("no-such", "no interface here"),
        ("0.0.0.0", "others must know"),
        (",", "no interface here"),
        ("*", "no interface here"),
        ("192.0.2.1", "no address of this host"),
    ],
)
def test_what_is_no_place_is_refused(bind: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        listening(TCP, bind)


def test_auto_is_the_address_by_which_the_other_is_reached() -> None:
    assert listening(TCP, AUTO, towards=("ipc:///there", "tcp://127.0.0.1:5555")) == ("tcp://127.0.0.1:*",)
    assert listening(TCP, AUTO) == ("tcp://127.0.0.1:*",)


def test_the_nearest_is_a_socket_file_that_is_here_and_loopback_only_if_there_is_nothing_else(tmp_path) -> None:
    file = tmp_path / "s"
    told = (f"ipc://{file}", "tcp://127.0.0.1:1", "tcp://192.0.2.1:2")
    assert nearest(told) == "tcp://192.0.2.1:2" and nearest(told[:2]) == "tcp://127.0.0.1:1"
    file.touch()
    assert nearest(told) == told[0] and nearest(()) == ""


def test_of_several_addresses_that_on_a_network_of_this_host_is_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    reached_by = {"tcp://10.9.0.1:1": "192.168.0.5", "tcp://10.77.0.1:1": "10.77.0.2", "tcp://172.16.0.1:1": ""}
    monkeypatch.setattr("agentkd.exchange.addresses._source", reached_by.__getitem__)
    assert nearest(tuple(reached_by)) == "tcp://10.77.0.1:1"
    assert nearest(("tcp://172.16.0.1:1", "tcp://10.9.0.1:1")) == "tcp://10.9.0.1:1"


def test_the_other_lane_goes_the_same_way() -> None:
    bulk = ("ipc:///b", "tcp://10.0.0.1:8", "tcp://10.0.0.2:9")
    assert same_way("tcp://10.0.0.2:1", bulk) == "tcp://10.0.0.2:9" and same_way("ipc:///a", bulk) == "ipc:///b"
    assert same_way("tcp://10.0.0.3:1", bulk) == "tcp://10.0.0.1:8" and same_way("memory://a", bulk) == ""


def test_what_others_can_dial_is_not_local() -> None:
    assert is_local("ipc:///a") and is_local("tcp://127.0.0.1:5") and not is_local("tcp://10.0.0.1:5")
