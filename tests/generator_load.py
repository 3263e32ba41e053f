"""What a load test says of itself where other programs took its machine away.

A test of a verdict about load holds for what the run says: that it is valid, or that its generator was not free to make
the load.  In the second case what follows from that is no fault of what is tested.
"""

STARVED = {"event_loop_lag", "generator_cpu", "generator_stalled"}  # checks by which a run says so
_SO = {"load_reached", "load_held", "missed_arrivals", "late_arrivals", "silence", "drift"}  # what comes of it


def was_starved(run):
    """Whether the run itself says that its generator had too little of the machine."""
    return bool(STARVED & {check.name for check in run.validity.problems})


def own_problems(run):
    """Why a run is invalid, by the names of its checks, without what a busy machine made of it."""
    bad = {check.name for check in run.validity.problems if check.severity == "invalid"}
    return bad - STARVED - _SO if was_starved(run) else bad
