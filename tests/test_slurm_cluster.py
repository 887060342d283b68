"""The Slurm that other tests run on does what a Slurm does: GPUs, arrays, accounting, requeueing after a lost node."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import slurm


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    _need_slurm()
    with slurm.Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: slurm.Cluster) -> Iterator[slurm.Cluster]:
    yield running
    running.command("scancel", "--user=root")
    slurm.wait(lambda: not running.command("squeue", "--noheader"), slurm.PATIENCE, "an empty queue")


def _need_slurm() -> None:
    if reason := slurm.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def _submit(cluster: slurm.Cluster, folder: Path, script: str, *options: str) -> str:
    """Submit lines of a shell; what they print goes to JOB.txt, or JOB_TASK.txt for an array."""
    output = "%A_%a.txt" if any(option.startswith("--array") for option in options) else "%j.txt"
    path = folder / "job.sh"
    path.write_text(f"#!/bin/bash\n{script}\n")
    words = ["sbatch", "--parsable", "--open-mode=append", f"--chdir={folder}", f"--output={folder}/{output}"]
    return cluster.command(*words, *options, str(path)).strip()


def _states(cluster: slurm.Cluster, *jobs: str) -> list[str]:
    words = ["squeue", "--noheader", "--array", "--states=all", "--format=%T"]
    return cluster.command(*words, f"--jobs={','.join(jobs)}").split()


def _reach(cluster: slurm.Cluster, state: str, *jobs: str) -> None:
    slurm.wait(lambda: set(_states(cluster, *jobs)) == {state}, slurm.PATIENCE, f"jobs {jobs} to be {state}")


def _printed(output: Path) -> list[str]:
    """Lines of a job's output, once there are any; without what Slurm adds to them."""
    slurm.wait(lambda: output.exists() and output.read_text(), slurm.PATIENCE, f"{output.name}")
    return [line for line in output.read_text().splitlines() if not line.startswith(("slurmstepd", "srun"))]


def _accounted(cluster: slurm.Cluster, job: str) -> list[str]:
    """The state of each run of a job, from the accounting."""
    words = ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", "--format=state"]
    # "CANCELLED by 0" names the user.
    return [line.partition(" ")[0] for line in cluster.command(*words, f"--jobs={job}").splitlines()]


def _restarts(cluster: slurm.Cluster, job: str) -> str:
    return cluster.command("scontrol", "show", "job", job).partition("Restarts=")[2].split()[0]


def _mentioning(text: str) -> list[str]:
    """Command lines of processes that have the text in it or in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in command + environment:
            found.append(command.decode(errors="replace"))
    return found


@pytest.mark.soak
def test_a_job_and_its_steps_see_the_gpus_they_asked_for(cluster, tmp_path):
    job = _submit(
        cluster, tmp_path, "echo $CUDA_VISIBLE_DEVICES; srun bash -c 'echo $CUDA_VISIBLE_DEVICES'", "--gpus=2"
    )
    _reach(cluster, "COMPLETED", job)
    assert _printed(tmp_path / f"{job}.txt") == ["0,1", "0,1"]


@pytest.mark.soak
def test_two_jobs_have_a_gpu_each_and_a_third_waits(cluster, tmp_path):
    jobs = [_submit(cluster, tmp_path, "echo $CUDA_VISIBLE_DEVICES; sleep 60", "--gres=gpu:1") for _ in range(3)]
    _reach(cluster, "RUNNING", *jobs[:2])
    assert sorted(_printed(tmp_path / f"{job}.txt") for job in jobs[:2]) == [["0"], ["1"]]
    assert _states(cluster, jobs[2]) == ["PENDING"]
    cluster.command("scancel", jobs[0])
    _reach(cluster, "RUNNING", jobs[2])


@pytest.mark.soak
def test_accounting_tells_how_jobs_ended(cluster, tmp_path):
    ends = {"exit 0": "COMPLETED", "exit 3": "FAILED", "kill -KILL $$": "FAILED", "sleep 60": "CANCELLED"}
    jobs = {_submit(cluster, tmp_path, script): state for script, state in ends.items()}
    cancelled = list(jobs)[-1]
    _reach(cluster, "RUNNING", cancelled)
    cluster.command("scancel", cancelled)
    slurm.wait(
        lambda: all(_accounted(cluster, job) == [state] for job, state in jobs.items()), slurm.PATIENCE, f"{jobs}"
    )


@pytest.mark.soak
def test_tasks_of_an_array_know_their_number(cluster, tmp_path):
    job = _submit(cluster, tmp_path, "echo $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID", "--array=0-2")
    _reach(cluster, "COMPLETED", job)
    for task in range(3):
        assert _printed(tmp_path / f"{job}_{task}.txt") == [f"{job} {task}"]


@pytest.mark.soak
def test_jobs_of_a_lost_node_run_again(cluster, tmp_path):
    script = "echo ${SLURM_RESTART_COUNT:-0}; [ ${SLURM_RESTART_COUNT:-0} = 1 ] || exec sleep 60.5"
    job, array = _submit(cluster, tmp_path, script), _submit(cluster, tmp_path, script, "--array=0-1")
    outputs = [tmp_path / f"{name}.txt" for name in (job, f"{array}_0", f"{array}_1")]
    _reach(cluster, "RUNNING", job, array)
    assert [_printed(output) for output in outputs] == [["0"]] * 3

    cluster.lose_node()
    assert set(_states(cluster, job, array)) == {"PENDING"}
    slurm.wait(lambda: len(_mentioning("sleep\x0060.5")) == 3, slurm.PATIENCE, "the processes, which must run on")
    cluster.return_node()
    cluster.hurry(job)
    cluster.hurry(array)

    _reach(cluster, "COMPLETED", job, array)
    assert [_printed(output) for output in outputs] == [["0", "1"]] * 3
    assert _restarts(cluster, job) == "1"
    slurm.wait(lambda: _accounted(cluster, job) == ["NODE_FAIL", "COMPLETED"], slurm.PATIENCE, "the accounting")


@pytest.mark.soak
def test_an_urgent_job_has_another_signalled_and_requeued(cluster, tmp_path):
    # SIGTERM follows so soon that it may come first.
    script = """
        trap 'echo signal' USR2
        trap 'sleep 1' TERM
        echo ${SLURM_RESTART_COUNT:-0}
        [ ${SLURM_RESTART_COUNT:-0} = 1 ] && exit
        sleep 60 & wait; wait
    """
    job = _submit(cluster, tmp_path, script, "--gres=gpu:2", "--signal=B:USR2@60")
    output = tmp_path / f"{job}.txt"
    assert _printed(output) == ["0"]

    urgent = _submit(cluster, tmp_path, "exit", "--gres=gpu:1", "--partition=urgent")
    _reach(cluster, "COMPLETED", urgent)
    cluster.hurry(job)

    _reach(cluster, "COMPLETED", job)
    assert _printed(output) == ["0", "signal", "1"]
    slurm.wait(lambda: _accounted(cluster, job) == ["PREEMPTED", "COMPLETED"], slurm.PATIENCE, "the accounting")


@pytest.mark.soak
def test_nothing_is_left_of_a_stopped_cluster(tmp_path):
    _need_slurm()
    # So long that the sockets' paths would not fit.
    folder = tmp_path / ("long" * 20)
    with slurm.Cluster(folder, gpus=0, nodes=2) as cluster:
        script = "setsid nohup sleep 60.25 & srun --nodes=2 --ntasks=2 bash -c 'exec sleep 60.25'"
        _submit(cluster, tmp_path, script, "--nodes=2")
        slurm.wait(lambda: len(_mentioning("sleep\x0060.25")) == 3, slurm.PATIENCE, "the job's processes")
        assert list(cluster.processes())
    cluster.stop()
    assert _mentioning("sleep\x0060.25") == _mentioning(str(cluster.root)) == list(cluster.processes()) == []
    assert not cluster.root.exists()


@pytest.mark.soak
def test_nothing_is_left_of_a_cluster_that_did_not_start(tmp_path, monkeypatch):
    _need_slurm()
    monkeypatch.setattr(slurm, "SLURM_CONF", slurm.SLURM_CONF.replace("task/none", "task/none_such"))
    cluster = slurm.Cluster(tmp_path)
    with pytest.raises(RuntimeError, match="slurmd-node0 ended") as caught:
        cluster.start()
    assert "none_such" in "".join(caught.value.__notes__)
    assert list(cluster.processes()) == []
    assert not cluster.root.exists()
