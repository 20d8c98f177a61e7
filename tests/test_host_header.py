"""Host headers that name this machine, as sent by browsers and by attackers."""

import pytest

from agentdistill.host_header import is_loopback, names_this_machine

OURS = [
    *("localhost", "localhost:8000", "LOCALHOST", "localhost.", "app.localhost:1", "127.0.0.1", "127.9.9.9:80"),
    *("[::1]", "[::1]:8000", "[::ffff:127.0.0.1]:1"),
]
OTHERS = [
    *("x{y.evil.com", "evil.com", "evil.com:8000", "127.0.0.1.evil.com", "localhost.evil.com", "evil-localhost"),
    *(
        "localhost:80@evil.com",
        "evil.com#localhost",
        "localhost/.evil.com",
        "localhost\\.evil.com",
        "localhost evil.com",
    ),
    *(
        "[::1].evil.com",
        "[::1]evil.com",
        "[::1",
        "::1",
        "0.0.0.0",
        "10.0.0.1",
        "[::]",
        "127.1",
        "0x7f.0.0.1",
        "2130706433",
    ),
    *(
        "",
        " localhost",
        "localhost ",
        "localhost,evil.com",
        "localhost:x",
        "localhost:80:80",
        "local\u0131host",
        "\x00localhost",
    ),
]


@pytest.mark.parametrize("host", OURS)
def test_names_of_this_machine(host: str) -> None:
    assert names_this_machine([host])
    assert not names_this_machine([host, host])


@pytest.mark.parametrize("host", OTHERS)
def test_other_names(host: str) -> None:
    assert not names_this_machine([host])


def test_before_http_1_1_there_was_no_host() -> None:
    assert names_this_machine([])


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.1", "fe80::1%eth0", "localhost", ""])
def test_addresses_that_others_reach(address: str) -> None:
    assert not is_loopback(address)
