"""Starts `jax.distributed` and the team, and ends them together."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from bstar_jax.config import UserError
from bstar_jax.config.errors import FAILED, PREEMPTED, outcome
from bstar_jax.processes import cluster as clusters
from bstar_jax.processes.cluster import Cluster
from bstar_jax.processes.messages import Closed, Connection
from bstar_jax.processes.team import ALONE, BEAT, Member, Team, end_process

_START_SECONDS = 300
_CARD_BYTES = 1024  # of the message by which process 0 tells the others how to reach it


@contextlib.contextmanager
def join(values: flags.FlagValues) -> Iterator[Team]:
    """Joins the team that the flags or the environment name. Enter it before devices are used.

    If one process fails, all end: the others with one line that names it.

    Args:
      values: The flags that `config.door.define_process_flags` defined.

    Raises:
      UserError: If flags or environment make no sense, or the other processes do not come.
    """
    found = clusters.find_cluster(
        values.distributed, values.coordinator, values.processes, values.process, os.environ
    )
    if found is None:
        yield ALONE
        return
    _initialize(found)
    if jax.process_count() == 1:
        yield ALONE
        return
    team = _connect(found)
    try:
        yield team
    except BaseException as error:
        _end(team, error)
    team.leave(0, "is done")


def _initialize(found: Cluster) -> None:
    """Joins the devices of all processes."""
    settings: dict[str, Any] = {}
    if found.coordinator:
        settings = {
            "coordinator_address": found.coordinator,
            "num_processes": found.count,
            "process_id": found.index,
            "cluster_detection_method": "deactivate",
        }
    where = f" at {found.coordinator}" if found.coordinator else ""
    line = (
        f"the processes of this run did not find each other{where} within {_START_SECONDS} "
        "seconds; start all of them, with the same --coordinator and --processes, on hosts that "
        "can reach each other"
    )
    # When its own wait is over, JAX ends the process in a way that cannot be caught.
    alarm = threading.Timer(_START_SECONDS, end_process, (line, FAILED))
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            **settings, initialization_timeout=2 * _START_SECONDS, shutdown_timeout_seconds=60
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:300]
        raise UserError(f"the processes of this run cannot be joined{where}: {reason}") from error
    finally:
        alarm.cancel()


def _connect(found: Cluster) -> Member:
    """Connects every process to process 0, which broadcasts its addresses and a password."""
    index, count = jax.process_index(), jax.process_count()
    name = f"{socket.gethostname()}, pid {os.getpid()}"
    server, card = None, b""
    if index == 0:
        server = socket.create_server(("", 0), backlog=count)
        hosts = [found.coordinator.rpartition(":")[0], _own_address(), socket.gethostname()]
        card = "\n".join([secrets.token_hex(16), str(server.getsockname()[1]), *hosts]).encode()
    filled = np.frombuffer(card.ljust(_CARD_BYTES, b"\n"), np.uint8)
    card = multihost_utils.broadcast_one_to_all(filled).astype(np.uint8).tobytes()
    token, port, *hosts = card.decode().split("\n")
    if server is None:
        connection = _call([host for host in hosts if host], int(port))
        connection.send({"kind": "hello", "token": token, "index": index, "name": name})
        header, _ = connection.receive(_START_SECONDS)
        return Member(index, count, {0: connection}, {0: header["name"]})
    connections, names = {}, {}
    with server:
        server.settimeout(_START_SECONDS)
        while len(connections) < count - 1:
            connection = Connection(server.accept()[0])
            try:
                header, _ = connection.receive(BEAT)
            except (Closed, ValueError):
                header = {}  # a connection from elsewhere
            if header.get("token") != token:
                connection.close()
                continue
            connections[header["index"]], names[header["index"]] = connection, header["name"]
    for connection in connections.values():
        connection.send({"kind": "welcome", "name": name})
    return Member(0, count, connections, names)


def _call(hosts: list[str], port: int) -> Connection:
    """Connects to the first of these addresses of process 0 that answers."""
    errors = []
    for host in hosts:
        try:
            return Connection(socket.create_connection((host, port), timeout=30))
        except OSError as error:
            errors.append(f"{host}:{port} ({error.strerror or error})")
    raise UserError(
        f"process 0 cannot be reached at {', '.join(errors)}; allow the hosts of a run to reach "
        "each other at all TCP ports"
    )


def _own_address() -> str:
    """The address of this host as others see it; "" without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; the system picks the interface
        except OSError:
            return ""
        return probe.getsockname()[0]


def _end(team: Team, error: BaseException) -> NoReturn:
    """Ends this process after an error, with the exit code that a door alone would have.

    Python's other ways out would wait for processes that are no longer there.
    """
    code, line = outcome(error)
    if line is None:
        # If another process is gone, the news arrives in a moment, and ends this one by its name.
        time.sleep(3.0)
        traceback.print_exception(error)
        line = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if line and (team.is_first or code != PREEMPTED):
        print(line, file=sys.stderr, flush=True)
    team.leave(code, f"failed: {line}")
    sys.stdout.flush()
    os._exit(code)
