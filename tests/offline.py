"""Forbid connections to other machines, and keep what asked for one.

A library may catch the error of a connection and go on, so the attempts are kept, too. Sockets of this machine (loopback, Unix) are
allowed. A program that opens sockets without Python is not seen; a process without a network has none.
"""

import ipaddress
import os
import sys
from pathlib import Path

EVENTS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}
attempts: list[str] = []


class OtherMachineError(ConnectionError):
    """Something asked for another machine."""


def is_here(address: object) -> bool:
    """Whether an address, or the name of a host, is of this machine."""
    host = address[0] if isinstance(address, tuple) else address
    host = host.decode() if isinstance(host, bytes) else host
    if not isinstance(host, str) or host in ("", "localhost") or (not isinstance(address, tuple) and "/" in host):
        return True  # None, a Unix socket, or any address of this machine
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def forbid(log: str | None = None) -> None:
    """From now on, every attempt of this process raises `OtherMachineError` and is kept, in the file `log` as well."""

    def watch(event: str, arguments: tuple) -> None:
        if event in EVENTS and len(arguments) > EVENTS[event] and not is_here(arguments[EVENTS[event]]):
            attempts.append(f"{event} {arguments[EVENTS[event]]}")
            if log:
                with open(log, "a") as file:
                    print(attempts[-1], file=file)
            raise OtherMachineError(attempts[-1])

    sys.addaudithook(watch)


def offline_environment(folder: Path) -> tuple[dict[str, str], Path]:
    """Environment variables with which every Python process forbids connections, and the file that names the attempts."""
    log = folder / "attempts.txt"
    program = (
        f"import sys\nsys.path.append({str(Path(__file__).parent)!r})\nimport offline\noffline.forbid({str(log)!r})\n"
    )
    (folder / "sitecustomize.py").write_text(program)
    paths = [str(folder), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}, log
