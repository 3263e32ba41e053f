"""Runs: read from files, checked for validity, kept in a store, selected from it.

It may import `model`, `config` and `stats`.  Begin with `read` (from a file to a `Run`; one module per format),
`validity` (may a run be judged?), `store` (`RunStore`) and `collection` (`Runs`).
"""
