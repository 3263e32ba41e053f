"""What users set: `perfkit.toml` as settings and scenarios, the policy of a comparison, and load as people write it.

It may import `model`.  Settings are read by the command line and by ``perfkit/__init__``, and handed down to the other
rooms.  Begin with `settings` and `policy`.
"""
