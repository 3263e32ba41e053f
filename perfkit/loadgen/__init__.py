"""Load: Locust as a process, the recorder inside it, open arrivals, A/B tests, bisection, simulator, container.

It may import the rooms up to `history`.  Begin with `run`; what runs inside Locust is `recorder`.
"""
