"""Methods: from what a task gives to music.

A method is a class named by `_target_` in `conf/method`. What it takes of a task's offer, and what it borrows of the
run, it declares: `takes` is printed in tables, and `uses` enters the signature of its music. What is not declared
cannot be had, so that a forgotten word is an error and not stale music.

Waveforms are float tensors [samples], or [channels, samples] where the task has several, at `context.sample_rate`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from blendbench.errors import BlendbenchError
from blendbench.tasks import Lent, Music


class Context:
    """What a run lends its methods.

    Parameters
    ----------
    sample_rate : int
        Of every waveform, in Hz.
    device : str
        Torch device that models run on.
    seed : int
        The run's seed.
    lenders : dict of str to callable
        What may be borrowed, by name: each makes its thing when it is first asked for.
    uses : sequence of str, optional
        Names that may be borrowed; all where it is left out.
    channels : int
        Of every waveform.
    keep : callable, optional
        From a method and the context to what stands for the method and keeps its music; see `kept`.
    variant : str
        Tells the music of items that were changed on their way to a method apart from that of the items as they are.
    """

    def __init__(
        self,
        sample_rate: int,
        device: str,
        seed: int,
        lenders: Mapping[str, Callable[[], Lent]],
        uses: Sequence[str] | None = None,
        channels: int = 1,
        keep: "Callable[[Method, Context], Method] | None" = None,
        variant: str = "",
    ) -> None:
        self.sample_rate, self.channels, self.device, self.seed = sample_rate, channels, device, seed
        self.variant = variant
        self._lenders, self._uses, self._keep = lenders, uses, keep
        self._lent: dict[str, Lent] = {}

    def borrow(self, name: str) -> Any:
        """What is lent by a name, such as "generator" or "music".

        Raises
        ------
        BlendbenchError
            If the method's `uses` does not name it, or there is no such thing in the run.
        """
        if self._uses is not None and name not in self._uses:
            raise BlendbenchError(f"the method borrows {name}, which its `uses` does not name; add it there")
        if name not in self._lenders:
            known = ", ".join(self._lenders) or "nothing"
            raise BlendbenchError(f"there is no {name} to borrow in this run; there is {known}")
        if name not in self._lent:
            self._lent[name] = self._lenders[name]()
        return self._lent[name]

    def only(self, uses: Sequence[str]) -> "Context":
        """The context as a method gets it that uses so much; what is lent is shared."""
        return self._again(uses, self.variant)

    def _again(self, uses: Sequence[str] | None, variant: str) -> "Context":
        again = Context(
            self.sample_rate, self.device, self.seed, self._lenders, uses, self.channels, self._keep, variant
        )
        again._lent = self._lent
        return again

    def kept(self, method: "Method", variant: str = "") -> "Method":
        """A method that another builds on, ready to generate: what it has made in any run is not made again.

        Parameters
        ----------
        method : Method
        variant : str
            Tells its music apart from what it makes of the same items as they are, where it is handed changed ones.
            What the method itself builds on is told apart by it, too.
        """
        if self._keep is not None:
            return self._keep(method, self._again(self._uses, "; ".join(filter(None, (self.variant, variant)))))
        method.prepare(self.only(method.uses))
        return method


class Method(Protocol):
    """The interface of a method.

    Attributes
    ----------
    label : str
        Its row's name, where the experiment gives none.
    takes : tuple of str
        Of `Task.gives`.
    uses : tuple of str
        What it borrows.
    """

    label: str
    takes: tuple[str, ...]
    uses: tuple[str, ...]

    def signature(self) -> dict[str, Any]:
        """The settings that change its output, as plain data; the checkpoint's hash among them, never its path."""
        ...

    def prepare(self, context: Context) -> None:
        """Load what it needs, once a process; raises BlendbenchError if it cannot run."""
        ...

    def generate(self, given: list[Any]) -> list[Music]:
        """Music of every item, in order; raises ClipError where one item alone cannot be done."""
        ...


class Wrapper:
    """A method that builds on another: it takes the noise and what that one takes, and uses what that one uses.

    Parameters
    ----------
    label : str
        Row name.
    of : Method

    Raises
    ------
    BlendbenchError
        If it is no method, as of an arm left out.
    """

    def __init__(self, label: str, of: Any) -> None:
        if of is None or not callable(getattr(of, "generate", None)):
            raise BlendbenchError(
                f"arm {label!r}: `of` is no method (was the arm that it names left out?); choose one as "
                "method@arms.NAME.of"
            )
        self.label, self.of = label, of
        self.takes: tuple[str, ...] = tuple(dict.fromkeys(("noise", *of.takes)))
        self.uses: tuple[str, ...] = of.uses
        self.adaptive: bool = getattr(of, "adaptive", False)

    def signature(self) -> dict[str, Any]:
        """What it builds on; a wrapper adds its settings."""
        kind = type(self.of)
        return {"of": f"{kind.__module__}.{kind.__qualname__}", "its": self.of.signature()}


def check(method: Any, key: str, gives: Sequence[str]) -> None:
    """Refuse a method that lacks a member of the interface, or takes what a task does not give.

    Raises
    ------
    BlendbenchError
        Naming the entry and what to do.
    """
    for name in ("takes", "uses"):
        declared = getattr(method, name, None)
        if not isinstance(declared, tuple) or not all(isinstance(one, str) for one in declared):
            raise BlendbenchError(
                f"{key}: {type(method).__name__} does not say what it {name}; give it a tuple of names, such as "
                f"{name} = {tuple(gives)!r}"
            )
    for name in ("signature", "prepare", "generate"):
        if not callable(getattr(method, name, None)):
            raise BlendbenchError(f"{key}: {type(method).__name__} has no method {name}(); see docs/extending.md")
    if lacking := [name for name in method.takes if name not in gives]:
        there = ", ".join(gives) or "nothing"
        raise BlendbenchError(f"{key}: takes {', '.join(lacking)}, which this task does not give; it gives {there}")
