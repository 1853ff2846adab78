"""Ranks started by hand, by their variables alone: what makes no sense, who is missing, who stops, who says so."""

import os
import signal
import socket
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import group
import pytest

from liveact_app.cli import answer, main
from liveact_app.generate.ranks import joined
from liveact_app.launch import place

GENERATE = ["generate", "--image", "face.png", "--audio", "talk.wav", "--out", "v.mp4"]
WELL = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"}
HANGS_S = 300.0
"""What takes longer hangs, on however busy a machine."""
SILENCE_S = 6.0
"""After which a stopped rank counts as dead: no rank of a busy machine is silent so long."""
SILENT = {"LIVEACT_DEAD_AFTER": str(SILENCE_S)}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and stops processes")


# ---- variables -------------------------------------------------------------------------------------------------------

GARBAGE = [
    *(({name: None}, name) for name in WELL if name != "WORLD_SIZE"),
    *(({name: text}, name) for name in WELL if name != "MASTER_ADDR" for text in ("two", "²", "-1", "1.0", "9" * 5000)),
    *(({name: " "}, name) for name in WELL if name != "WORLD_SIZE"),
    ({"RANK": "2"}, "RANK"),
    ({"LOCAL_RANK": "2"}, "LOCAL_RANK"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "1000000000"}, "WORLD_SIZE"),
    ({"WORLD_SIZE": None, "RANK": "1"}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK"),
    ({"MASTER_PORT": "0"}, "MASTER_PORT"),
    ({"MASTER_PORT": "65536"}, "MASTER_PORT"),
    ({"MASTER_ADDR": "no.such.machine.invalid"}, "MASTER_ADDR"),
    ({"MASTER_ADDR": "a" * 300}, "MASTER_ADDR"),
    ({"MASTER_ADDR": "::1::"}, "MASTER_ADDR"),
    ({"LOCAL_WORLD_SIZE": "many"}, "LOCAL_WORLD_SIZE"),
    ({"LIVEACT_DEAD_AFTER": "0"}, "LIVEACT_DEAD_AFTER"),
    ({"LIVEACT_JOIN_WITHIN": "nan"}, "LIVEACT_JOIN_WITHIN"),
]


@pytest.mark.parametrize("change,name", GARBAGE, ids=[str(c)[:40] for c, _ in GARBAGE])
def test_a_variable_that_makes_no_sense_is_one_sentence(change, name, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for key, value in (WELL | change).items():
        if value is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, value)
    assert main([*GENERATE, "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"liveact: error: {name}: expected ") and said.count("\n") == 1, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", [{}, {"RANK": "", "WORLD_SIZE": ""}, {"WORLD_SIZE": "1"}, {"MASTER_PORT": "x"}])
def test_without_a_launch_there_is_one_process(where, monkeypatch):
    for name in WELL:
        monkeypatch.delenv(name, raising=False)
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    assert place()[:3] == (0, 1, 0)


# ---- processes -------------------------------------------------------------------------------------------------------


def _process(where, path, work, args):
    os.environ.update(where)
    os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), 2)
    sys.exit(answer(lambda: work(*args) or 0))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Launch:
    """Processes with the variables of a launch by hand; `changes` are those of each."""

    def __init__(self, folder: Path, changes: list[dict], work, *args):
        context = get_context("forkserver")
        context.set_forkserver_preload(group.PRELOAD)
        size = {"WORLD_SIZE": str(len(changes)), "MASTER_PORT": str(free_port())}
        patient = {"LIVEACT_DEAD_AFTER": str(HANGS_S), "LIVEACT_JOIN_WITHIN": str(HANGS_S), "OMP_NUM_THREADS": "1"}
        self.paths = [folder / f"{i}.txt" for i in range(len(changes))]
        self.processes = [
            context.Process(target=_process, args=(WELL | patient | size | change, path, work, args), daemon=True)
            for change, path in zip(changes, self.paths)
        ]
        for p in self.processes:
            p.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for p in self.processes:
            p.kill()
            p.join()

    def code(self, i):
        self.processes[i].join(HANGS_S)
        return self.processes[i].exitcode

    def said(self, i):
        return self.paths[i].read_text()

    def stopped(self, i):
        """Wait until process i does not run."""
        deadline = time.monotonic() + HANGS_S
        while Path(f"/proc/{self.processes[i].pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "TZ":
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def signal(self, i, number):
        os.kill(self.processes[i].pid, number)


def ranks_by_hand(size, **more):
    return [{"RANK": str(r), "LOCAL_RANK": str(r)} | more for r in range(size)]


def turns(number, who, last):
    """Collectives; after a few, ranks `who` are sent a signal. They end after `last` turns."""
    with joined("cpu", "gather") as ranks:
        pids = [ranks.wire.broadcast(os.getpid(), r) for r in range(ranks.size)]
        for i in range(last):
            if i == 10 and who and ranks.rank == max(who):  # one sends them all, its own last: none fails before
                for r in who:
                    os.kill(pids[r], number)
            ranks.share(lambda: 0)
            time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("who", [(0,), (1,), (0, 1)])
def test_ranks_that_stop_or_die_are_named_once_by_the_lowest_that_lives(number, who, tmp_path):
    limit = SILENT if number == signal.SIGSTOP else {}
    with Launch(tmp_path, ranks_by_hand(3, **limit), turns, number, who, 10**6) as launch:
        lives = [r for r in range(3) if r not in who]
        assert [launch.code(r) for r in lives] == [1] * len(lives)
        said = launch.said(lives[0])
        assert said.startswith("liveact: error: rank ") and said.count("\n") == 1, said
        assert int(said.split()[3]) in who and " of 3 has died" in said, said
        assert [launch.said(r) for r in lives[1:]] == [""] * (len(lives) - 1)
        if number == signal.SIGSTOP and len(who) == 1:  # it learns what the others made of it, and leaves
            launch.signal(who[0], signal.SIGCONT)
            assert launch.code(who[0]) == 1 and launch.said(who[0]) == ""


def test_a_launch_that_is_stopped_as_a_whole_goes_on_afterwards(tmp_path):
    """Ctrl-Z and fg, or a machine that sleeps: nobody was dead."""
    with Launch(tmp_path, ranks_by_hand(2, **SILENT), turns, signal.SIGSTOP, (0, 1), 20) as launch:
        launch.stopped(0), launch.stopped(1)
        time.sleep(SILENCE_S + 1)
        launch.signal(0, signal.SIGCONT), launch.signal(1, signal.SIGCONT)
        assert [launch.code(0), launch.code(1)] == [0, 0], (launch.said(0), launch.said(1))


def listens(path):
    """Write the addresses (hexadecimal) of all sockets of this process while its group is together."""
    with joined("cpu", "gather") as ranks:
        mine = {os.readlink(f) for f in Path("/proc/self/fd").iterdir() if f.is_symlink() and os.path.lexists(f)}
        found = []
        for table in ("tcp", "tcp6", "udp", "udp6"):
            for row in (line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]):
                if f"socket:[{row[9]}]" in mine:
                    found.append(row[1].split(":")[0])
        Path(f"{path}-{ranks.rank}").write_text(" ".join(found))
        ranks.wire.barrier()


@pytest.mark.parametrize("address", ["127.0.0.1", " localhost ", "::1"])
def test_a_launch_on_one_machine_listens_on_loopback_alone(address, tmp_path):
    if address == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with Launch(tmp_path, ranks_by_hand(2, MASTER_ADDR=address), listens, str(tmp_path / "at")) as launch:
        assert [launch.code(0), launch.code(1)] == [0, 0], (launch.said(0), launch.said(1))
    loopback = {"0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F"}
    for r in (0, 1):
        found = (tmp_path / f"at-{r}").read_text().split()
        assert found and set(found) <= loopback, found


def test_ranks_meet_at_an_address_of_the_network(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("no network here")
        own = s.getsockname()[0]
    with Launch(tmp_path, ranks_by_hand(2, MASTER_ADDR=own), turns, 0, (), 20) as launch:
        assert [launch.code(0), launch.code(1)] == [0, 0], (launch.said(0), launch.said(1))


SOON = {"LIVEACT_JOIN_WITHIN": "6"}
LONELY = [
    ([{"RANK": "0", "WORLD_SIZE": "4"}, {"RANK": "2", "WORLD_SIZE": "4"}], [1, 1], "these ranks of 4 did not come", 1),
    ([{"RANK": "1"}], [1], "nobody answered at 127.0.0.1 port", 1),
    ([{"WORLD_SIZE": "3", "RANK": r} for r in "011"], [2, 2, 2], "RANK: expected a number of its own", 1),
    ([{"RANK": "0"}, {"RANK": "1", "WORLD_SIZE": "3"}], [2, 2], "WORLD_SIZE: expected the same number", 1),
]


@pytest.mark.parametrize("changes,codes,words,times", LONELY)
def test_ranks_that_do_not_fit_or_do_not_come_are_one_sentence(changes, codes, words, times, tmp_path):
    soon = SOON if codes[0] == 1 else {}
    size = {"WORLD_SIZE": "2"}
    with Launch(tmp_path, [size | soon | c for c in changes], turns, 0, (), 10**6) as launch:
        assert [launch.code(i) for i in range(len(changes))] == codes, [launch.said(i) for i in range(len(changes))]
        said = "".join(launch.said(i) for i in range(len(changes)))
    assert said.count("liveact: error: ") == said.count("\n") == times and words in said, said


def test_a_port_that_somebody_else_has_is_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = {"MASTER_PORT": str(other.getsockname()[1])}
        with Launch(tmp_path, ranks_by_hand(2, **SOON, **port), turns, 0, (), 1) as launch:
            assert [launch.code(0), launch.code(1)] == [2, 1], (launch.said(0), launch.said(1))
            assert launch.said(0).startswith("liveact: error: MASTER_PORT: expected a port that rank 0 can listen on")
            assert "(in use)" in launch.said(0) and launch.said(0).count("\n") == 1
            assert "is not rank 0 of a launch" in launch.said(1) and launch.said(1).count("\n") == 1, launch.said(1)
