"""The slow plain oracle: every schedule written out step by step from its definition.

Imports nothing of the package under test. Each function returns one number for each step of the run, by loops and
case distinctions that can be read beside the paper or the source that they cite. Symbols as there: N ``total_steps``,
hi the peak, lo = hi / ``div_factor`` the start, fin the end, k the optimizer step counted from zero.
"""

import math
from collections.abc import Callable

Curve = list[float]
Shape = Callable[[float, float, float], float]


# ------------------------------------------------------------------------------------------- shapes
def linear(start: float, end: float, t: float) -> float:
    """L(a, b, t) = a + (b - a) t, the straight legs of arXiv:1803.09820, section 4."""
    return start + (end - start) * t


def cosine(start: float, end: float, t: float) -> float:
    """C(a, b, t) = b + (a - b) (1 + cos(pi t)) / 2, half a wave as in torch's and fastai's cosine annealing."""
    return end + (start - end) * (1 + math.cos(math.pi * t)) / 2


def exponential(start: float, end: float, t: float) -> float:
    """E(a, b, t) = a (b / a)^t, a straight line in log lr: the exponential sweep of every LR finder."""
    return start * math.pow(end / start, t)


SHAPES: dict[str, Shape] = {"linear": linear, "cos": cosine, "cosine": cosine, "exponential": exponential}


# -------------------------------------------------------------------------------- one cycle, as promised
def phase_lengths(
    total_steps: int, pct_start: float | None, pct_plateau: float, pct_annihilation: float
) -> tuple[int, int, int, int]:
    """Steps of rise, plateau, fall and annihilation, by the rounding rule that `OneCyclePolicy` states.

    Each share is rounded to whole steps with halves up. One step at least is left to the fall: what is too much is
    taken from the plateau first, then from the annihilation, then from the rise. Without ``pct_start`` the legs share
    what is left, an odd step goes to the fall.
    """
    plateau = math.floor(pct_plateau * total_steps + 0.5)
    annihilation = math.floor(pct_annihilation * total_steps + 0.5)
    rise = 0 if pct_start is None else math.floor(pct_start * total_steps + 0.5)
    while rise + plateau + annihilation > total_steps - 1:
        if plateau > 0:
            plateau -= 1
        elif annihilation > 0:
            annihilation -= 1
        else:
            rise -= 1
    if pct_start is None:
        rise = (total_steps - plateau - annihilation) // 2
    return rise, plateau, total_steps - rise - plateau - annihilation, annihilation


def one_cycle_lr(hi: float, lo: float, fin: float, lengths: tuple[int, int, int, int], shape: Shape) -> Curve:
    """Smith's cycle in whole steps: lo up to hi, held, down to lo, then "several orders of magnitude" below to fin.

    arXiv:1803.09820, section 4 and arXiv:1708.07120, section 3. The joints are exact: hi at step a, lo at step
    a + b + c, fin at step N - 1. Without annihilation the fall itself ends in fin. Where two joints share a step, the
    peak wins over the end and the end over the start.
    """
    rise, plateau, fall, annihilation = lengths
    values = [shape(lo, hi, k / rise) for k in range(rise)]
    values += [hi] * plateau
    if annihilation > 0:
        values += [shape(hi, lo, j / fall) for j in range(fall)]
        values += [shape(lo, fin, j / (annihilation - 1)) for j in range(annihilation - 1)]
        values += [fin]
    elif fall > 1:
        values += [shape(hi, fin, j / (fall - 1)) for j in range(fall)]
    else:
        values += [hi]
    return values


def one_cycle_momentum(
    lr: Curve,
    hi: float,
    lo: float,
    fin: float,
    lengths: tuple[int, int, int, int],
    base_momentum: float,
    max_momentum: float,
) -> Curve:
    """Momentum as the mirror image of ``lr``: low where the learning rate is high, constant in the annihilation.

    arXiv:1803.09820, section 4: "decreasing cyclical momentum when the learning rate increases". The share of the way
    that lr has gone within a leg is the share that momentum has gone within its own.
    """
    rise, plateau, fall, annihilation = lengths
    values = []
    for k, value in enumerate(lr):
        if k >= rise + plateau + fall:
            values.append(max_momentum)
            continue
        low = lo if k < rise or annihilation > 0 else fin
        height = (value - low) / (hi - low)
        values.append(max_momentum - (max_momentum - base_momentum) * height)
    return values


# ----------------------------------------------------------------------------------------- the peers
def seed_linear(hi: float, total_steps: int, div_factor: float, percent: float) -> Curve:
    """The linear cycle of nachiket273/One_Cycle_Policy, ``OneCycle.py``.

    S = int(N (1 - percent/100) / 2) steps up, S down, then lo (1 - (1 - 1/div) (k - 2S) / (N - 2S)).
    """
    leg = int(total_steps * (1 - percent / 100) / 2)
    lo = hi / div_factor
    values = []
    for k in range(total_steps):
        if k <= leg:
            values.append(linear(lo, hi, k / leg))
        elif k <= 2 * leg:
            values.append(linear(hi, lo, (k - leg) / leg))
        else:
            values.append(lo * (1 - (1 - 1 / div_factor) * (k - 2 * leg) / (total_steps - 2 * leg)))
    return values


def torch_two_phase(start: float, peak: float, end: float, total_steps: int, pct_start: float, shape: Shape) -> Curve:
    """``torch.optim.lr_scheduler.OneCycleLR``: start -> peak at p N - 1, peak -> end at N - 1.

    With (start, peak, end) = (hi/25, hi, hi/25/1e4) the learning rate, with (max, base, max) the momentum.
    """
    first, last = pct_start * total_steps - 1, total_steps - 1
    return [
        shape(start, peak, k / first) if k <= first else shape(peak, end, (k - first) / (last - first))
        for k in range(total_steps)
    ]


def torch_three_phase(start: float, peak: float, end: float, total_steps: int, pct_start: float, shape: Shape) -> Curve:
    """``OneCycleLR(three_phase=True)``: up to p N - 1, back to the start at 2 p N - 2, then to the end at N - 1."""
    first, second, last = pct_start * total_steps - 1, 2 * pct_start * total_steps - 2, total_steps - 1
    values = []
    for k in range(total_steps):
        if k <= first:
            values.append(shape(start, peak, k / first))
        elif k <= second:
            values.append(shape(peak, start, (k - first) / (second - first)))
        else:
            values.append(shape(start, end, (k - second) / (last - second)))
    return values


def fastai_v2(start: float, peak: float, end: float, total_steps: int, pct_start: float) -> Curve:
    """The ``combined_cos(pct, start, middle, end)`` of fastai v2's ``callback/schedule.py``, at position k / N.

    With (hi/25, hi, hi/1e5) the learning rate, with (.95, .85, .95) the momentum of ``fit_one_cycle``.
    """
    values = []
    for k in range(total_steps):
        position = k / total_steps
        if position < pct_start:
            values.append(cosine(start, peak, position / pct_start))
        else:
            values.append(cosine(peak, end, (position - pct_start) / (1 - pct_start)))
    return values


def rampup_sustain_decay(
    start: float,
    peak: float,
    total_steps: int,
    rampup_epochs: float,
    sustain_epochs: float,
    exp_decay: float,
    steps_per_epoch: int,
) -> Curve:
    """The ``lrfn`` of the TPU recipes (Keras LearningRateScheduler notebooks), asked at epoch k / steps_per_epoch.

    Linear from start to peak, held, then start + (peak - start) exp_decay^(epoch - rampup - sustain).
    """
    values = []
    for k in range(total_steps):
        epoch = k / steps_per_epoch
        if epoch < rampup_epochs:
            values.append(start + (peak - start) / rampup_epochs * epoch)
        elif epoch < rampup_epochs + sustain_epochs:
            values.append(peak)
        else:
            values.append(start + (peak - start) * exp_decay ** (epoch - rampup_epochs - sustain_epochs))
    return values


# ------------------------------------------------------------------------------------------ range test
def sweep(min_lr: float, max_lr: float, num_steps: int, mode: str, num_stairs: int = 10) -> Curve:
    """The LR range test of arXiv:1506.01186, section 3.3, with both ends exact.

    Smith raises the learning rate linearly; every LR finder since does it exponentially; a staircase holds each of
    ``num_stairs`` exponentially spaced values, step k standing on stair floor(k num_stairs / num_steps).
    """
    if mode == "linear":
        return [linear(min_lr, max_lr, k / (num_steps - 1)) for k in range(num_steps)]
    if mode == "exponential":
        return [exponential(min_lr, max_lr, k / (num_steps - 1)) for k in range(num_steps)]
    stairs = [exponential(min_lr, max_lr, i / (num_stairs - 1)) for i in range(num_stairs)]
    return [stairs[k * num_stairs // num_steps] for k in range(num_steps)]
