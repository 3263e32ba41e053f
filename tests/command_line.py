"""The command line as tests call it: in this process, with its output."""

import io

from perfkit.cli import main


def invoke(*words):
    """Exit code, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    return main([str(word) for word in words], out, err), out.getvalue(), err.getvalue()
