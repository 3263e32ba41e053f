"""What people look at: figures, tables, sentences, notebooks and reports.  Nothing here computes a verdict.

It may import every room below, and knows nothing of sending.  ``findings`` has the table and the sentences that every
outlet draws: ``display`` as HTML, ``text`` for terminals, Markdown and JUnit, ``message`` for people.  ``plot`` has the
figures of ``perfkit.plot``, ``notebook`` makes one report of a notebook, ``batch`` all of a store.
"""
