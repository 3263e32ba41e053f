"""The nouns: metrics, services, runs, findings, comparisons, load profiles and errors, each with its codec beside it.

It imports no other room, and does no input or output but whole files.  Begin with `records`.
"""
