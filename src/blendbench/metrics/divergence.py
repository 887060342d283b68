"""Kullback-Leibler divergence between a classifier's opinions of paired clips.

Input is logits [N, C]: row i of the references and row i of the generated clips make a pair. Results are in nats
(natural logarithm), a value a pair. The formula is audioldm_eval's: epsilon
stands inside the logarithm of the second distribution alone. So identical clips give not 0 but a little less, down to
-C * epsilon (-0.0005 for 527 classes and 1e-6); with epsilon 0 the divergence is exact, and never negative. Sums are
taken in float64.
"""

from typing import Literal

import torch
from torch import Tensor

from blendbench.errors import BlendbenchError

Direction = Literal["ref||gen", "gen||ref"]


def validate(reference_logits: Tensor, generated_logits: Tensor, direction: str, epsilon: float) -> None:
    """Check logits, direction and epsilon.

    Raises
    ------
    BlendbenchError
        The logits are not two finite tensors [N, C] of one shape with N >= 1 and C >= 2, or a setting is unknown.
    """
    shapes = tuple(reference_logits.shape), tuple(generated_logits.shape)
    if shapes[0] != shapes[1]:
        raise BlendbenchError(
            f"KL logits differ in shape, {shapes[0]} and {shapes[1]}: pair every clip with a reference"
        )
    if len(shapes[0]) != 2 or shapes[0][0] < 1 or shapes[0][1] < 2:
        raise BlendbenchError(
            f"KL logits have shape {shapes[0]}: give [pairs, classes], at least one pair, two classes"
        )
    for name, logits in (("reference", reference_logits), ("generated", generated_logits)):
        if not bool(torch.isfinite(logits).all()):
            raise BlendbenchError(f"KL {name} logits are not finite: leave the clips out that the classifier fails on")
    if direction not in ("ref||gen", "gen||ref"):
        raise BlendbenchError(f"KL direction is {direction!r}: choose 'ref||gen' or 'gen||ref'")
    if not 0 <= epsilon < 1:
        raise BlendbenchError(f"KL epsilon is {epsilon}: give a small number that is not negative, such as 1e-6")


def softmax_kl(
    reference_logits: Tensor, generated_logits: Tensor, direction: Direction = "ref||gen", epsilon: float = 1e-6
) -> Tensor:
    """KL divergence between softmax distributions, pair by pair: sum_c p (log p - log(q + epsilon)).

    Parameters
    ----------
    reference_logits, generated_logits : Tensor [N, C]
        Class logits; rows are pairs.
    direction : {"ref||gen", "gen||ref"}
        p||q: which distribution weights the sum (p), and which is compared with it (q).
    epsilon : float
        Added to q inside its logarithm.

    Returns
    -------
    Tensor [N], float64
        In nats; may be as low as -log(1 + C * epsilon), and not negative with epsilon 0.

    Raises
    ------
    BlendbenchError
        As `validate`.

    Source: see `SOURCE`, `kullback_leibler_divergence_softmax`.
    """
    first, second = _ordered(reference_logits, generated_logits, direction, epsilon)
    log_p, log_q = first.log_softmax(-1), second.log_softmax(-1)
    return (log_p.exp() * (log_p - _log_plus(log_q, epsilon))).sum(-1)


def sigmoid_kl(
    reference_logits: Tensor, generated_logits: Tensor, direction: Direction = "ref||gen", epsilon: float = 1e-6
) -> Tensor:
    """The same sum over independent class probabilities (sigmoid), pair by pair.

    It leaves out the terms of a class's absence, so it is no divergence proper: it can be negative where the generated
    clip is given higher probabilities. Kept because audioldm_eval reports it.

    Parameters
    ----------
    reference_logits, generated_logits, direction, epsilon
        As for `softmax_kl`.

    Returns
    -------
    Tensor [N], float64
        In nats.

    Raises
    ------
    BlendbenchError
        As `validate`.

    Source: see `SOURCE`, `kullback_leibler_divergence_sigmoid`.
    """
    first, second = _ordered(reference_logits, generated_logits, direction, epsilon)
    log_p, log_q = torch.nn.functional.logsigmoid(first), torch.nn.functional.logsigmoid(second)
    return (log_p.exp() * (log_p - _log_plus(log_q, epsilon))).sum(-1)


def _ordered(reference: Tensor, generated: Tensor, direction: str, epsilon: float) -> tuple[Tensor, Tensor]:
    validate(reference, generated, direction, epsilon)
    reference, generated = reference.detach().double().cpu(), generated.detach().double().cpu()
    return (reference, generated) if direction == "ref||gen" else (generated, reference)


def _log_plus(log_values: Tensor, epsilon: float) -> Tensor:
    # Without epsilon the logarithm must not pass through exp: a probability that underflows would give infinity.
    return (log_values.exp() + epsilon).log() if epsilon else log_values
