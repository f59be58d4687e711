"""A Ray cluster of several machines on this one: each node is `ray start` in a network namespace of its own.

Where a user may not make namespaces, as in some containers, all nodes are plain processes with this machine's address;
`in_namespaces` says which it is.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from small_processes import free_port, processes_named, stat

N_MACHINES = 4  # the head, two nodes, and a laptop that belongs to no cluster
TOKEN = "0" * 63 + "1"

FAST_HEALTH_CHECKS = {"RAY_health_check_period_ms": "1000"}
"""For the head: a killed node is declared dead after five refused checks, so after 5 instead of 15 seconds. A live node
may take 10 seconds to answer a check, as before."""

NAMESPACES = """
set -e
mount -t tmpfs none /run
mkdir /run/netns
ip link set lo up
ip link add bridge type bridge
ip addr add 10.77.0.254/24 dev bridge
ip link set bridge up
for i in $(seq {n}); do
  ip netns add m$i
  ip link add v$i type veth peer name eth0 netns m$i
  ip link set v$i master bridge up
  ip -n m$i addr add 10.77.0.$i/24 dev eth0
  ip -n m$i link set lo up
  ip -n m$i link set eth0 up
  ip -n m$i route add default via 10.77.0.254
done
ip netns exec m1 true
echo ready
exec cat
"""


class SmallCluster:
    """A head node without CPUs on machine 1, and nodes with two CPUs each; `start` runs programs on any machine.

    All machines share the disk, save that with namespaces `local` is another folder on each node but the head.
    """

    def __init__(self, folder):
        self.folder = folder
        self.local = folder / "local"
        self.local.mkdir()
        self.nodes = {}
        self._started = []
        self._holder = subprocess.Popen(
            ["sh", "-c", 'exec unshare -rnm bash -c "$0"', NAMESPACES.format(n=N_MACHINES)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.in_namespaces = self._holder.stdout.readline() == "ready\n"
        self.head = "10.77.0.1" if self.in_namespaces else "127.0.0.1"
        self.address = f"{self.head}:{free_port()}"
        self.dashboard = f"http://{self.head}:{free_port()}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "COLUMNS"))},
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            "MPLCONFIGDIR": str(folder / "matplotlib"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            **FAST_HEALTH_CHECKS,
        }

    def start(self, machine, *command, **environment):
        """Start a program on a machine, in its own process group; its output is in `stdout`."""
        there = []
        if self.in_namespaces:
            into = ["nsenter", "--preserve-credentials", "-U", "-n", "-m", "-t", str(self._holder.pid)]
            there = [*into, "ip", "netns", "exec", f"m{machine}"]
        process = subprocess.Popen(
            [*there, *map(str, command)],
            env={**self.environment, **environment},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, machine, *command, code=0, **environment):
        """The output of a program, after it has ended with this exit code."""
        process = self.start(machine, *command, **environment)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == code, output
        assert "Traceback" not in output, output
        return output

    def start_nodes(self, n_nodes=2):
        """Start the head node, and nodes on the other machines."""
        dashboard = ("--dashboard-host=0.0.0.0", f"--dashboard-port={self.dashboard.rpartition(':')[2]}")
        self._start_node(1, "--head", f"--port={self.address.rpartition(':')[2]}", *dashboard, "--num-cpus=0")
        self.await_node(1)
        for machine in range(2, 2 + n_nodes):
            self._start_node(machine, f"--address={self.address}", "--num-cpus=2")
        for machine in range(2, 2 + n_nodes):
            self.await_node(machine)

    def _start_node(self, machine, *options):
        ip = f"10.77.0.{machine}" if self.in_namespaces else self.head
        mine = (
            f"--node-ip-address={ip}",
            f"--temp-dir={self.folder}/n{machine}",
            f"--dashboard-agent-listen-port={free_port()}",
        )
        small = ("--object-store-memory=100000000", "--disable-usage-stats", "--block")
        own = (
            ("sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', self.local)
            if self.in_namespaces and machine > 1
            else ()
        )
        self.nodes[machine] = self.start(machine, *own, "ray", "start", *options, *mine, *small)

    def await_node(self, machine):
        """Wait until `ray start` reports that the node has joined the cluster."""
        told = []
        for line in self.nodes[machine].stdout:
            told.append(line)
            if "--block" in line:
                return
        raise AssertionError("".join(told))

    def raylets_of(self, title):
        """Process ids of the raylets that run processes with this title."""
        return list(dict.fromkeys(int(stat(pid)[1]) for pid in processes_named(title, self.folder)))

    def stop(self):
        """End everything that was started."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pid in processes_named("", self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._holder.stdin.close()
        self._holder.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
