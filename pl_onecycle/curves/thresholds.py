"""Every threshold by which curves are judged, with its reason.

Where two rules use a like quantity in different amounts, both stand next to each other here. They stay different
because each was chosen on curves of its own kind, and a change would move suggestions:

- the *start* of a curve, before the sweep has an effect, is the median of its first losses: of at most five on a sweep
  that is read, which may be short, of seven on a coarse sweep, whose steps are large, and of the first tenth on a
  smoothed curve, whose points are not independent;
- the *scatter* of losses is `noise_of`, about their trend, except on a coarse sweep, whose disorder at a large lr is
  not about any trend: there it is the standard deviation;
- a loss has *exploded* by the same rule everywhere, `rebound_unit`; the user sets the multiple for a sweep that is
  read, and a coarse one ends earlier, as that costs nothing;
- a difference is *sure* at 2.5 standard deviations of single losses on a coarse sweep, and at 4 standard errors between
  candidates, which drift apart by chance.
"""

# ---------------------------------------------------------------------------------------- all curves
# Differences below this share of a loss may come from rounding.
ROUNDING = 1e-7
# Start of a sweep: the median of this many first losses (a tenth of a short curve).
START_POINTS = 5
# A fall smaller than this many standard deviations of the noise is measured as that much, see `rebound_unit`.
NOISE_OF_FALL = 4.0
# Few losses underestimate their noise: that of n losses counts 1 + FEW_LOSSES / n times in the explosion rule.
FEW_LOSSES = 10
# Standard deviation of the smoothing kernel in decades of lr. It averages ten points of a dense sweep, and four to five
# of a sweep over eight decades in 100 steps. A wider kernel moves the minimum away from the explosion.
BANDWIDTH = 0.1

# ---------------------------------------------------------------------------- a suggestion from a curve
# A curve with fewer points has no usable shape, and one of a candidate no usable level.
MIN_POINTS = 5
# A fall counts if, on a curve smoothed over this many decades, it exceeds MIN_FALL standard deviations of a fall by
# chance. About one in twenty flat curves with noise falls as far.
WIDE_BANDWIDTH = 0.3
MIN_FALL = 5.0
# Less is enough against a control, as only one end of the fall is uncertain; of 23 sweeps of small batches with
# shuffled labels the largest was 2.9.
MIN_CONTROLLED_FALL = 3.0
# The trough of a curve: where this share of the fall has happened, at most this many decades wide, as a loss that
# cannot fall further stays low at any lr. Shares from 0.75 to 0.9 and widths from 1 to 1.5 work about as well.
TROUGH_SHARE, TROUGH_DECADES = 0.8, 1.25
# The suggestion stays this many decades below the upper end of the trough, as one that is too high costs more than one
# that is too low; 0.3 to 0.5 work about as well, and with more of it fewer are too high.
TROUGH_MARGIN = 0.5
# The trough is read from a curve smoothed over this many decades, twenty points of a dense sweep; half as many work as
# well but leave more noise. Its start is the median of the first tenth, at least this many points.
TROUGH_BANDWIDTH = 0.2
TROUGH_START_POINTS = 3
# A suggestion is refused where the smoothed loss lies this share of its fall above the start: there it has exploded.
EXPLODED_SHARE = 0.5
# fastai's `slide`: distance of its pair of points, and the difference of slopes, as a share of the fall, that ends it.
SLIDE_GAP, SLIDE_SLOPES = 15, 0.005
# Number of noise draws for the interval, and the width in decades above which it counts as wide.
NOISE_DRAWS, WIDE_INTERVAL = 40, 0.5

# -------------------------------------------------------------------------------- the sweeps to run
# Optimizer steps of all sweeps, including the steps that only show the effect of the step before.
BUDGET = 150
# The same where noise hides the fall and the sweeps get controls, or where the dense sweep ends too low.
LARGER_BUDGET = 300
# Steps per decade. Over eight decades a coarse sweep leaves two thirds of the budget for the dense one, which then
# spans three and a half decades.
COARSE_STEPS, DENSE_STEPS = 6, 28
# Bounds on the steps of a coarse sweep: enough to distinguish a rise from noise, and a limit for wide ranges.
MIN_COARSE, MAX_COARSE = 24, 72
# The dense sweep begins this many decades below the lr at which a coarse one has risen. On the tasks of
# benchmarks/suggestion.py used in development, the trough began 0.7 to 2.9 decades below it.
BELOW_RISE = 3.7
# If the loss does not rise, it begins this many decades below the lr at which this share of the fall is reached.
BELOW_FALL, FALL_SHARE = 2.0, 0.7
# Where a dense sweep ends in a trough narrower than this many decades, another one goes higher; of 66 dense sweeps of
# the tasks used in development none did. A deep net tolerates a far higher lr in the small steps of a dense sweep than
# in the large ones of a coarse one.
NARROW = 0.5
# If nothing happens up to the highest lr, a second coarse sweep covers this many more decades.
BEYOND = 4.0

# ---------------------------------------------------------------------------- what a coarse sweep shows
# Fewer losses show neither noise nor an explosion reliably: one of forty flat curves explodes within a handful.
MIN_LOSSES = 12
# Start of a coarse sweep: the median of this many first losses.
COARSE_START_POINTS = 7
# The loss has surely fallen if the median of this many losses in a row lies this many standard deviations of one loss
# below the start; with many windows, a smaller fall would occur by chance.
FALL_WINDOW, SURE_FALL = 5, 2.5
# A rise counts if it is this many standard deviations high and lasts for this many steps.
RISE, LASTING_STEPS = 2.0, 5
# The last losses of a sweep that went too far scatter at least this many times as much as its first.
DISORDER = 2.0
# A coarse sweep ends when the loss has risen again by this multiple of its fall so far.
COARSE_REBOUND = 1.25

# ------------------------------------------------------------------------- a choice between candidates
# Checkups of a candidate's curve.
CHECKUPS = 10
# The level of a curve is the mean of its end: of this share of its points, and at least this many.
END_SHARE, MIN_END_POINTS = 0.2, 3
# A margin above this many standard errors is more than chance; it matters above this share of what training changed.
SURE_MARGIN, MATTERS = 4.0, 0.03
# A candidate is hopeless if at this many checkups in a row it is worse than the best one by this share of the progress
# of the best one.
HOPELESS_CHECKUPS, HOPELESS_SHARE = 3, 0.5

# ------------------------------------------------------------------------ the search for a weight decay
# Share of the fall of a loss that a weight decay may cost in a short cycle: so much for each epoch of the run, within
# these bounds. On the development half of benchmarks/weight_decay.py, 0.002 to 0.004 for each epoch and at most 0.05 to
# 0.1 work about as well.
HARM_OF_EPOCH, LEAST_HARM, MOST_HARM = 0.003, 0.006, 0.05
# A validation loss that ends this share of its fall, or of its level if that is less, above the training loss shows
# overfitting; without it, this share of the epochs counts.
GAP, UNSEEN = 0.1, 0.25
# The candidate below the edge is aimed at this share of what is tolerated.
AIM = 2 / 3
HALF_DECADE = 10**0.5

# -------------------------------------------------------------------------- verification by short cycles
# Default number of cycles, and the decades between neighbours: most suggestions are off by at most half a decade to
# either side, see benchmarks/suggestion.py.
CYCLES, SPACING = 5, 0.25
# A candidate that is worse than the best one by this multiple of the median excess weighs e times less. On the tasks of
# that benchmark used in development, 0.6 to 1.2 worked about as well, and more of it avoided the largest misses.
SOFTNESS = 1.2
# A candidate whose excess is at most this multiple of the median one counts as nearly as good as the best.
NEARLY = 0.8
