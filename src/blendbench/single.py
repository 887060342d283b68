"""What commands for one sound share, such as `blend`, `live` and `accompany`: task, method and prompt, checked."""

from typing import Any

from blendbench import config
from blendbench.errors import BlendbenchError
from blendbench.methods import check
from blendbench.runs.folder import Run
from blendbench.tasks.blend.task import Blend


def check_prompt(prompt: str) -> None:
    """Refuse an empty prompt, with a BlendbenchError."""
    if not prompt.strip():
        raise BlendbenchError("--prompt: is empty; say what music to make, such as 'calm jazz piano trio'")


def blend_task(run: Run) -> Blend:
    """The run's task, keeping nothing; raises BlendbenchError where it makes no blends."""
    task = run.build_task(store=None)
    if not isinstance(task, Blend):
        raise BlendbenchError(f"task: {task.name} makes no blends; leave it out, or `blendbench run` an experiment")
    return task


def method_of(run: Run, task: Any) -> Any:
    """The method of the key `method`, not prepared; raises BlendbenchError where it is none for the task."""
    method = config.build(run.given.method, "method", run.allowed)
    check(method, "method", task.gives)
    return method
