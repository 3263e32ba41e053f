"""The runs of a scenario in time order: events, the sequential monitor, baselines, acknowledgements, incidents.

It may import the rooms up to `analysis`.  Begin with `timeline` and `monitor`.
"""
