"""The nouns: metrics, services, runs, findings, comparisons, load profiles and errors; one codec writes and reads them.

It imports no other room, and writes no files but whole ones.  Begin with `records`, then `codec`.
"""
