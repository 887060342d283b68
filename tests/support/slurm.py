"""A real Slurm on this one machine, for the tests that need one: started and stopped by root, without systemd.

As a script, `python tests/support/slurm.py start FOLDER` leaves a cluster running and prints what a shell must
export to talk to it; `python tests/support/slurm.py stop FOLDER` ends it. Times are in seconds.
"""

import argparse
import hashlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PACKAGES = {
    "munge": ["munged"],
    "slurmctld": ["slurmctld"],
    "slurmd": ["slurmd"],
    "slurm-client": ["sacct", "sacctmgr", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun"],
    "slurmdbd": ["slurmdbd"],
    "mariadb-server": ["mariadbd", "mariadb-install-db"],
}
"""Debian packages, and the programs needed of each."""

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
MARK = "SLURM_TEST_CLUSTER"
"""A variable in the environment of the daemons, by which they are found again."""
PATIENCE = 60
"""How long a busy machine may take for any one step."""
LONGEST_ROOT = 70
"""Characters of a root that leave room for the sockets' names below it; Linux allows a socket's path 107."""

# KillWait is what a job has between SIGTERM and SIGKILL. A GraceTime would be looked at only every 30 seconds.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CommunicationParameters=NoInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
SlurmctldLogFile={logs}/slurmctld.log
SlurmdLogFile={logs}/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=2
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=2
MessageTimeout=10
SlurmctldTimeout=30
SlurmdTimeout=30
MinJobAge=3600
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database_port}
AccountingStoragePass={root}/munge.socket
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=0
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

SLURMDBD_CONF = """\
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={database_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CommunicationParameters=NoInAddrAny
PidFile={root}/slurmdbd.pid
LogFile={logs}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""


def missing() -> str:
    """Why no cluster can be started here, in one line; empty where one can."""
    lacking = {
        program: package
        for package, programs in PACKAGES.items()
        for program in programs
        if not shutil.which(program, path=SEARCH_PATH)
    }
    if lacking:
        packages = " ".join(dict.fromkeys(lacking.values()))
        return f"no {', '.join(lacking)}; apt-get install --no-install-recommends {packages}"
    if os.geteuid() != 0:
        return "only root can start Slurm and make its devices"
    return ""


def wait(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Return as soon as the condition holds; `TimeoutError` names what was waited for."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)


class Cluster:
    """Controller, nodes and accounting, with everything that they write below `folder` (or a short name in /tmp).

    A node has four CPUs, whatever the machine has, and `gpus` devices that stand for GPUs. Jobs of the partition
    `urgent` preempt those of `main`, the default, which are requeued: a job gets the signal of its `--signal`, SIGCONT
    and SIGTERM at once, and SIGKILL seconds later. `stop` leaves the logs in `folder` and nothing else.
    """

    def __init__(self, folder: Path, gpus: int = 2, nodes: int = 1) -> None:
        self.folder = folder.resolve()
        self.logs = self.folder / "logs"
        self.root = self.folder / "slurm"
        if len(str(self.root)) > LONGEST_ROOT:
            # The same for the same folder, so that another process finds what it is to stop.
            self.root = Path("/tmp") / f"slurm-{hashlib.sha256(bytes(self.folder)).hexdigest()[:16]}"
        self.gpus = gpus
        self.nodes = [f"node{index}" for index in range(nodes)]
        self.environment = {"SLURM_CONF": str(self.root / "slurm.conf")}
        """What Slurm's commands, and programs that call them, need in their environment."""
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until jobs can run; if that fails, stop what runs and tell the logs' last lines."""
        if self.root.exists():
            raise FileExistsError(f"{self.root} is there; stop that cluster first")
        try:
            self._configure()
            self._start_database()
            self._start_daemons()
            self._stopping.clear()
            self._keeper = threading.Thread(target=self._keep_controller, daemon=True)
            self._keeper.start()
        except BaseException as error:
            error.add_note(self._last_lines())
            self.stop()
            raise

    def stop(self) -> None:
        """Kill every daemon and every process of a job; may be called at any time, and again."""
        self._stopping.set()
        if self._keeper is not None:
            self._keeper.join()
        wait(self._kill, PATIENCE, "killed processes to end")
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons.clear()
        shutil.rmtree(self.root, ignore_errors=True)

    def command(self, *words: str, check: bool = True) -> str:
        """What a command of Slurm prints; `RuntimeError` with its message if it fails."""
        again = ("Unable to contact slurm controller", "Zero Bytes were transmitted", "Socket timed out")
        for _ in range(60):
            done = subprocess.run(
                words, env=os.environ | self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            if not any(text in done.stderr for text in again) or self._keeper is None:
                break
            time.sleep(0.5)
        if done.returncode:
            message = f"{shlex.join(words)}: {done.stderr.strip()}"
            if check:
                raise RuntimeError(message)
            with (self.logs / "commands.out").open("a") as log:
                log.write(f"{message}\n")
        return done.stdout

    def lose_node(self, node: str = "node0") -> None:
        """Lose a node as a broken network does: its jobs are requeued, while their processes run on."""
        daemon = self._daemons.pop(f"slurmd-{node}")
        daemon.kill()
        daemon.wait()
        self.command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def return_node(self, node: str = "node0") -> None:
        """Bring a lost node back; Slurm then kills what still runs there of jobs that were requeued."""
        self._start_node(node)
        # ReturnToService=2 makes it usable when it registers. To ask for State=RESUME after that is an error.
        wait(lambda: self._usable(node), PATIENCE, f"{node} to return")

    def hurry(self, job_id: str | int) -> None:
        """End the two minutes that a requeued job, or a task of an array, waits."""
        jobs = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={job_id}"]
        # What is being requeued becomes pending only when its processes are gone.
        wait(lambda: not self.command(*jobs, "--states=COMPLETING"), PATIENCE, f"job {job_id} to end")
        for _ in range(5):
            refused = False
            for job in self.command(*jobs, "--states=PENDING").split():
                # A node does not take a job again in the very second in which it killed its first run.
                try:
                    self.command("scontrol", "update", f"JobId={job}", "StartTime=now+2")
                except RuntimeError:
                    refused = True  # it is on its way to another state, or has started meanwhile
            if not refused:
                return
            time.sleep(1)

    def processes(self) -> Iterator[int]:
        """Ids of the daemons, of the jobs' processes, and of all that these started; without those that have ended."""
        children: dict[int, list[int]] = {}
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                # It may end while it is looked at.
                with suppress(OSError):
                    state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                    if state in "ZX":
                        continue
                    children.setdefault(int(parent), []).append(int(folder.name))
                    if self._ours(folder):
                        found.append(int(folder.name))
        seen = set()
        while found:
            process = found.pop()
            if process not in seen:
                seen.add(process)
                found += children.get(process, [])
                yield process

    def _configure(self) -> None:
        for folder in [self.logs, self.root, self.root / "state", *(self.root / node for node in self.nodes)]:
            folder.mkdir(parents=True, exist_ok=True)
        controller_port, database_port, *node_ports = _free_ports(2 + len(self.nodes))
        host = socket.gethostname().partition(".")[0]
        nodes, devices = [], []
        for node, port in zip(self.nodes, node_ports, strict=True):
            gres = f" Gres=gpu:{self.gpus}" if self.gpus else ""
            nodes.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=8000{gres}\n"
            )
            for index in range(self.gpus):
                device = self.root / f"{node}-gpu{index}"
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
                devices.append(f"NodeName={node} Name=gpu File={device} Flags=nvidia_gpu_env\n")
        values = {
            "root": self.root,
            "logs": self.logs,
            "host": host,
            "controller_port": controller_port,
            "database_port": database_port,
        }
        self._write("munge.key", secrets.token_bytes(128))
        self._write("slurm.conf", (SLURM_CONF.format(**values) + "".join(nodes)).encode())
        self._write("slurmdbd.conf", SLURMDBD_CONF.format(**values).encode())
        self._write("gres.conf", "".join(devices).encode())
        # Nothing here uses control groups, but slurmd loads a plugin for them, and the one for version 2 needs systemd.
        self._write("cgroup.conf", b"CgroupPlugin=cgroup/v1\n")

    def _write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.touch(mode=0o600)
        path.write_bytes(content)

    def _start_database(self) -> None:
        data, sock = self.root / "database", self.root / "database.socket"
        # It lives for minutes, so it may forget all in a power cut. That makes it several times as fast on a busy disk.
        careless = ["--debug-no-sync", "--innodb-flush-method=nosync", "--innodb-doublewrite=0"]
        options = ["--no-defaults", "--user=root", f"--datadir={data}", "--innodb-log-file-size=4M", *careless]
        with (self.logs / "mariadb-install-db.out").open("wb") as log:
            subprocess.run(
                ["mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db"],
                check=True,
                stdout=log,
                stderr=log,
            )
        self._spawn(
            "mariadbd",
            *options,
            f"--socket={sock}",
            f"--pid-file={self.root}/mariadbd.pid",
            "--skip-networking",
            "--innodb-buffer-pool-size=16M",
        )
        wait(lambda: self._running("mariadbd") and sock.exists(), PATIENCE, "the database")

    def _start_daemons(self) -> None:
        munge = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        self._spawn(
            "munged",
            "--foreground",
            "--force",
            *(f"--{option}={self.root / name}" for option, name in munge.items()),
        )
        wait(lambda: self._running("munged") and (self.root / "munge.socket").exists(), PATIENCE, "munged")
        # Slurm has no setting for the socket of its database; the library of MariaDB has this variable.
        self._spawn("slurmdbd", "-D", MYSQL_UNIX_PORT=str(self.root / "database.socket"))
        wait(lambda: self._running("slurmdbd") and self._registered(), PATIENCE, "the accounting")
        self._spawn("slurmctld", "-D")
        for node in self.nodes:
            self._start_node(node)
        wait(lambda: self._running("slurmctld") and all(map(self._usable, self.nodes)), PATIENCE, "the nodes")

    def _keep_controller(self) -> None:
        """Start the controller again when it has crashed; that of Slurm 22.05 may when a node is lost."""
        while not self._stopping.wait(0.5):
            if self._daemons["slurmctld"].poll() is not None:
                self._spawn("slurmctld", "-D")

    def _registered(self) -> bool:
        """Whether the accounting answers and, at the latest now, knows the cluster."""
        self.command("sacctmgr", "--immediate", "add", "cluster", "test", check=False)
        clusters = ["sacctmgr", "--noheader", "--parsable2", "list", "cluster", "format=cluster"]
        return self.command(*clusters, check=False).split() == ["test"]

    def _start_node(self, node: str) -> None:
        self._spawn("slurmd", "-D", "-N", node, name=f"slurmd-{node}")

    def _usable(self, node: str) -> bool:
        self._running(f"slurmd-{node}")
        state = ["sinfo", "--noheader", "--partition=main", f"--nodes={node}", "--format=%T"]
        return self.command(*state, check=False).strip() in {"idle", "mixed", "allocated"}

    def _spawn(self, program: str, *options: str, name: str = "", **environment: str) -> None:
        path = shutil.which(program, path=SEARCH_PATH)
        if path is None:
            raise FileNotFoundError(missing())
        name = name or program
        with (self.logs / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [path, *options],
                cwd=self.root,
                env=os.environ | self.environment | {MARK: str(self.root)} | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _running(self, name: str) -> bool:
        """True; a daemon that ended raises, since nothing it should do will happen."""
        if (code := self._daemons[name].poll()) is not None:
            raise RuntimeError(f"{name} ended with {code}")
        return True

    def _last_lines(self) -> str:
        logs = {path: path.read_text(errors="replace").splitlines()[-10:] for path in sorted(self.logs.glob("*.out"))}
        return "\n".join("\n".join([f"{path}:", *lines]) for path, lines in logs.items())

    def _kill(self) -> bool:
        """Send SIGKILL to what is left; True if nothing was."""
        left = list(self.processes())
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for daemon in self._daemons.values():
            daemon.poll()
        return not left

    def _ours(self, folder: Path) -> bool:
        variables = (folder / "environ").read_bytes().split(b"\0")
        if f"{MARK}={self.root}".encode() in variables:
            return True
        if f"SLURM_CONF={self.environment['SLURM_CONF']}".encode() in variables:
            # A shell that was told to talk to the cluster has only the first of the two.
            return any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
        # A job's manager writes its title over its environment.
        return (folder / "comm").read_text().startswith("slurm") and (folder / "cwd").readlink() == self.root


def _free_ports(count: int) -> list[int]:
    """TCP ports below those that the system gives to outgoing connections, which come and go."""
    ports: list[int] = []
    while len(ports) < count:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            if port not in ports:
                ports.append(port)
    return ports


def main() -> None:
    parser = argparse.ArgumentParser(description="Start or stop a Slurm on this machine.")
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    cluster = Cluster(options.folder)
    if options.action == "stop":
        return cluster.stop()
    if reason := missing():
        parser.exit(1, f"{reason}\n")
    cluster.start()
    for name, value in cluster.environment.items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
