"""What commands for one sound share, such as `blend`, `live` and `accompany`: task, method and prompt, checked."""

import json
from pathlib import Path
from typing import Any

from blendbench import config, telling
from blendbench.errors import BlendbenchError
from blendbench.methods import Context, check
from blendbench.runs.folder import Run
from blendbench.runs.plan import context_of
from blendbench.store.write import write_text
from blendbench.tasks import Music
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


def loaded(run: Run, method: Any, channels: int | None = None) -> Context:
    """What the run lends, once the method has loaded what it needs; raises BlendbenchError if it cannot run.

    `channels` are those of its sounds, where they are not the task's.
    """
    context = context_of(run, keep=False)
    if channels is not None:
        context.channels = channels
    with telling.stage("load", bar=False):
        method.prepare(context.only(method.uses))
    return context


def made(method: Any, given: Any) -> Music:
    """A method's music of one thing that is given."""
    with telling.stage("generate", bar=False):
        music: Music = method.generate([given.only(method.takes)])[0]
    return music


def generator_of(settings: dict[str, Any], context: Context) -> dict[str, Any]:
    """The generator, for a recipe."""
    return {"name": settings["generator"]["name"]} | context.borrow("generator").signature()


def tell(file: Path, facts: dict[str, Any]) -> None:
    """Write facts as JSON."""
    write_text(file, json.dumps(facts, indent=1, ensure_ascii=False, default=str) + "\n")
