"""Runs as they are read, checked and kept: one module per format, validity, the store, its index and back ends.

It may import `model`, `config` and `stats`.  Begin with `read` and `store`.
"""
