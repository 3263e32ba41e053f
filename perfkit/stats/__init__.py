"""Pure functions on arrays: summaries, noise, effects, power, change points, the sequential monitor, load curves.

It may import `model` and `config`, opens no file and reads no clock.  Begin with `effect` and `changepoints`.
"""
