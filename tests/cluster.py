"""A real SLURM on this machine, for the tests: munged, slurmctld, two slurmd and, if asked, sacct.

Accounting takes two more daemons, slurmdbd and a database.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

BINARIES = (
    *("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel"),
    *("slurmdbd", "mariadbd", "mariadb-install-db", "sacct", "sacctmgr"),
)
NODES = ("n1", "n2")


class Cluster:
    """Two nodes of one core each.

    Args:
        folder: for configuration, state and logs.
        accounting: whether sacct works, as on some clusters but not on all.
    """

    def __init__(self, folder: Path, *, accounting: bool = False) -> None:
        self.folder = folder
        self.accounting = accounting
        self.configuration = folder / "slurm.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the daemons and wait until both nodes are idle."""
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir(parents=True)
        munge = shutil.which("munged") or "/usr/sbin/munged"
        for path in ("/run/munge", "/var/lib/munge", "/var/log/munge", "/etc/munge"):
            os.makedirs(path, exist_ok=True)
            shutil.chown(path, "munge", "munge")
        if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode != 0:
            subprocess.run(["runuser", "-u", "munge", "--", munge, "--force"], check=True)
        self.configuration.write_text(self._text())
        if self.accounting:
            self._start_accounting()
        self._daemon("slurmctld", "slurmctld", "-D", "-f", str(self.configuration))
        for node in NODES:
            self.start_node(node)
        self._await(lambda: self.states() == dict.fromkeys(NODES, "idle"))

    def _start_accounting(self) -> None:
        """Start the database and slurmdbd, and make this cluster known to it."""
        ports = _free_port(), _free_port()
        data, folder = self.folder / "database", self.folder
        install = ["mariadb-install-db", f"--datadir={data}", "--user=root", "--skip-test-db"]
        install += ["--auth-root-authentication-method=normal"]
        subprocess.run(install, check=True, capture_output=True)
        self._daemon(
            "mariadbd",
            *("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}"),
            *(f"--socket={folder}/sql.sock", f"--pid-file={folder}/sql.pid"),
            *(f"--port={ports[0]}", "--bind-address=127.0.0.1", "--skip-name-resolve"),
        )
        self._await(lambda: _answers(ports[0]))
        accounts = folder / "slurmdbd.conf"
        accounts.touch(mode=0o600)
        accounts.write_text(f"""
AuthType=auth/munge
DbdHost=localhost
DbdPort={ports[1]}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[0]}
StorageUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
""")
        with self.configuration.open("a") as configuration:
            configuration.write(f"""
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={ports[1]}
AccountingStorageEnforce=limits
""")
        self._daemon("slurmdbd", "slurmdbd", "-D", SLURM_CONF=str(self.configuration))
        self._await(lambda: _answers(ports[1]))
        for what in (["cluster", "test"], ["account", "lab"], ["user", "root", "account=lab"]):
            self.ask("sacctmgr", "--immediate", "add", *what)

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._daemon(node, "slurmd", "-D", "-N", node, "-f", str(self.configuration))

    def kill_node(self, node: str) -> None:
        """The node dies: its daemon and everything that it started."""
        process = self._processes.pop(node)
        children = _descendants(process.pid)
        process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.wait()

    def states(self) -> dict[str, str]:
        """How each node stands."""
        text = self.ask("sinfo", "--noheader", "--Node", "--format=%N %T", check=False)
        return dict(line.split() for line in text.splitlines())

    def ask(self, *command: str, check: bool = True) -> str:
        """What one of SLURM's commands prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """For commands that are to talk to this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.configuration)}

    def stop(self) -> None:
        """End every job and daemon."""
        with contextlib.suppress(Exception):
            self.ask("scancel", "--user=root", "--signal=KILL", check=False)
            self.ask("scancel", "--user=root", check=False)
        for name in list(self._processes):
            process = self._processes.pop(name)
            for child in _descendants(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()

    def _daemon(self, name: str, *command: str, **environment: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [shutil.which(command[0]) or f"/usr/sbin/{command[0]}", *command[1:]],
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _text(self) -> str:
        ports = [_free_port() for _ in range(3)]
        folder = self.folder
        nodes = "\n".join(
            f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=1 "
            f"RealMemory=8000"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        return f"""
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
ReturnToService=2
JobRequeue=1
MpiDefault=none
MaxArraySize=6
AuthInfo=cred_expire=5
KillWait=5
SlurmdTimeout=10
MessageTimeout=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=5
PartitionName=low Nodes=n1,n2 State=UP PriorityTier=1 GraceTime=60
PartitionName=cut Nodes=n1,n2 State=UP PriorityTier=1 GraceTime=60 PreemptMode=CANCEL
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
PartitionName=short Nodes=n1,n2 MaxTime=1 State=UP
"""

    def _await(self, condition: object, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():  # type: ignore[operator]
            if time.monotonic() > deadline:
                logs = {
                    path.name: path.read_text()[-2000:]
                    for path in (*self.folder.glob("*.log"), *self.folder.glob("*.out"))
                }
                raise AssertionError(f"SLURM did not come up: {logs}")
            time.sleep(0.2)


def missing() -> str:
    """Why SLURM cannot be started here; empty where it can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    absent = [name for name in BINARIES if shutil.which(name, path=path) is None]
    if absent:
        return f"SLURM is not installed: no {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "starting SLURM takes root"


@contextlib.contextmanager
def running(folder: Path, *, accounting: bool = False) -> Iterator[Cluster]:
    """A cluster that is stopped at the end, whatever happens."""
    cluster = Cluster(folder, accounting=accounting)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = path.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, open_ = [], [pid]
    while open_:
        for child in parents.get(open_.pop(), []):
            found.append(child)
            open_.append(child)
    return found
