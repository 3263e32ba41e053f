"""What users set: `perfkit.toml` as settings and scenarios, the policy of a comparison, and what people say of load.

It may import `model`.  Begin with `settings` and `policy`.
"""
