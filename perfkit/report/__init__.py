"""What people look at: figures, tables, sentences, notebooks and reports.  Nothing here computes a verdict.

It may import every room below, and knows nothing of sending.  Begin with ``plot`` (the figures of ``perfkit.plot``),
``display`` (what objects show of themselves) and ``notebook`` (from a notebook to one HTML file).
"""
