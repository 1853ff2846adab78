"""Time of a kernel from its machine code: a model of one SM of sm_90 replays the instructions of every launch.

    rates       what instructions, memories and chips cost, and where each number comes from
    code        nvdisasm's text as instructions with their control bits
    flow        basic blocks, cold paths, loops
    paths       the hot path through a kernel, what it costs per pipe
    simulate    one sub-partition cycle by cycle: issue, scoreboards, pipes, barriers, warpgroup products, copies
    copies      which mbarrier wait belongs to which bulk copy
    work        trips, tiles, multiply-adds and traffic of each known kernel, from the arguments of a launch
    estimate    one launch: limits, simulated time, bound
    launches    the launches of a steady block, compiled for a chip without one
    library     the kernels of the built CUDA extension
    frame       sums in ms per video frame
    tuning      launch configurations ranked

Nothing here has been compared with a run on a chip at hand: whatever prints a number of these says LABEL with it.
"""

LABEL = "predicted, not measured"


class Unpredictable(ValueError):
    """A kernel, chip or file that the model has no numbers for; the message is one sentence."""
