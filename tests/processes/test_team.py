"""Processes find each other, exchange small values, and learn at once that one is gone."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bstar_jax.config import UserError
from bstar_jax.processes import ALONE, Cluster, find_cluster
from bstar_jax.processes.cluster import first_node
from bstar_jax.processes.messages import Closed, Connection
from bstar_jax.processes.team import Member

SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NODELIST": "gpu[07-10],login1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
}


# Who belongs to the run.


@pytest.mark.parametrize(
    ("kind", "environ", "found"),
    [
        ("auto", {}, None),
        ("none", SLURM, None),
        ("auto", SLURM, Cluster("gpu07:61444", 4, 2)),
        ("slurm", SLURM, Cluster("gpu07:61444", 4, 2)),
        ("auto", SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ("slurm", SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        # A batch script, or a shell of salloc: a job of many tasks, but no step of them.
        ("auto", {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),
        ("auto", {"TPU_WORKER_HOSTNAMES": "a,b"}, Cluster()),
        ("auto", {"TPU_WORKER_HOSTNAMES": "a"}, None),
        ("auto", {"MEGASCALE_COORDINATOR_ADDRESS": "a:1"}, Cluster()),
        ("tpu", {}, Cluster()),
    ],
)
def test_the_environment_says_who_belongs_to_the_run(kind, environ, found):
    assert find_cluster(kind, "", None, None, environ) == found


def test_flags_come_before_the_environment():
    assert find_cluster("auto", "host:81", 3, 1, SLURM) == Cluster("host:81", 3, 1)
    assert find_cluster("auto", "[::1]:81", 1, 0, {}) == Cluster("[::1]:81", 1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("auto", "host:81", None, 1, {}), "without --processes; give --coordinator"),
        (("auto", "", 2, None, {}), "without --coordinator and --process;"),
        (("slurm", "host:81", 2, 0, {}), "with --distributed=slurm;"),
        (("auto", "host", 2, 0, {}), "--coordinator is 'host'; it takes the address"),
        (("auto", "host:99999", 2, 0, {}), "--coordinator is 'host:99999'"),
        (("auto", "host:81", 2, 2, {}), "--process is 2 of --processes=2; processes count from 0"),
        (("slurm", "", None, None, {"SLURM_JOB_ID": "1"}), "SLURM_STEP_NODELIST, SLURM_STEP_NUM"),
    ],
)
def test_flags_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        find_cluster(*arguments)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("a,b", "a"),
        ("node[001-015],x", "node001"),
        ("node[001,007-015]", "node001"),
        ("rack[3-4]-gpu,x", "rack3-gpu"),
    ],
)
def test_the_first_node_of_a_list(nodes, first):
    assert first_node(nodes) == first


# What they tell each other.


def connected():
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


class Room:
    """A team within one process, and what each member was told to end with."""

    def __init__(self, count, silence=30.0, beat=5.0):
        self.ends = [[] for _ in range(count)]
        self.pairs = {index: connected() for index in range(1, count)}
        names = {index: f"host{index}" for index in range(count)}
        hub = {index: Connection(pair[0]) for index, pair in self.pairs.items()}
        links = [hub, *({0: Connection(pair[1])} for pair in self.pairs.values())]
        self.members = [
            Member(
                index, count, link, names, silence=silence, beat=beat,
                end=lambda line, code, index=index: self.ends[index].append((line, code)),
            )
            for index, link in enumerate(links)
        ]  # fmt: skip

    def all(self, act):
        with ThreadPoolExecutor(len(self.members)) as pool:
            return list(pool.map(act, self.members))

    def close(self):
        for member in self.members:
            member._over.set()
            for connection in member._connections.values():
                connection.close()

    def told(self, index):
        """What a member was told first, waited for."""
        for _ in range(200):
            if self.ends[index]:
                return self.ends[index][0]
            time.sleep(0.05)
        raise AssertionError(f"member {index} was told nothing")


@pytest.fixture
def room_of():
    """Makes rooms, and ends their members' threads."""
    rooms = []
    yield lambda *sizes, **times: rooms.append(Room(*sizes, **times)) or rooms[-1]
    for room in rooms:
        room.close()


def test_one_process_is_a_team_of_its_own():
    assert ALONE.is_first and ALONE.gather(b"x") == [b"x"]
    assert ALONE.agree({"a": [1, None]}) == {"a": [1, None]}
    ALONE.barrier()


def test_values_of_all_processes_reach_all_in_their_order(room_of):
    room = room_of(3)
    large = b"x" * 3_000_000
    for number in range(5):
        values = [b"%d-%d" % (number, index) for index in range(2)] + [large]
        got = room.all(lambda member, values=values: member.gather(values[member.index]))
        assert got == [values] * 3
    assert room.all(lambda member: member.agree([member.index, "a"])) == [[0, "a"]] * 3
    assert room.all(lambda member: member.gather_json(member.index)) == [[0, 1, 2]] * 3
    room.all(lambda member: member.leave(0, "is done"))
    time.sleep(0.2)
    assert room.ends == [[], [], []]


def test_nobody_passes_a_barrier_before_all_have_come(room_of):
    room, passed = room_of(2), []
    early = threading.Thread(target=lambda: passed.append(room.members[1].barrier()))
    early.start()
    time.sleep(0.2)
    assert not passed
    room.members[0].barrier()
    early.join(5)
    assert passed == [None]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_is_named_to_all_others_at_once(room_of, victim):
    room = room_of(3)
    room.members[victim]._over.set()  # whoever is dead says nothing
    for pair in [room.pairs[victim][1]] if victim else [pair[0] for pair in room.pairs.values()]:
        pair.shutdown(socket.SHUT_RDWR)
    for index in {0, 1, 2} - {victim}:
        line, code = room.told(index)
        assert line.startswith(f"process {victim} of 3 (host{victim}) is lost: its connection")
        assert line.endswith(f"process {index} stops too") and code == 1


@pytest.mark.slow
def test_a_silent_process_is_lost(room_of):
    room = room_of(2, silence=0.6, beat=0.2)
    room.all(lambda member: member.barrier())
    time.sleep(1.0)
    assert room.ends == [[], []]  # signs of life keep it
    room.members[1]._beat = 1e9
    line, _ = room.told(0)
    assert "nothing was heard of it for" in line


@pytest.mark.slow
def test_a_process_that_fails_takes_all_with_it_and_says_why(room_of):
    room = room_of(3)
    room.members[1].leave(2, "failed: error: no such file")
    for index in (0, 2):
        line, code = room.told(index)
        assert "process 1 of 3 (host1) failed: error: no such file" in line and code == 2


def test_a_broken_connection_says_so():
    left, right = map(Connection, connected())
    left.send({"kind": "a"}, b"body")
    assert right.receive(1) == ({"kind": "a"}, b"body")
    with pytest.raises(Closed, match="nothing was heard"):
        right.receive(0.05)
    left.close()
    with pytest.raises(Closed, match="broke off"):
        right.receive(1)
    with pytest.raises(Closed, match="broke off"):
        right.send({"kind": "a"}, b"x" * 10_000_000)
