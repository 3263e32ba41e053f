"""From runs and a policy to verdicts: comparability, coverage, evidence, fixed limits, noise profile, power, capacity.

It may import the rooms up to `runs`.  Begin with `compare`.
"""
