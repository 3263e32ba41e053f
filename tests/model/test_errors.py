"""The tree of errors in the docstring is the tree of classes."""

import re

from perfkit.model import errors


def test_the_docstring_draws_every_error_below_its_parent():
    drawn = {"PerfkitError": ""}
    branch = ["PerfkitError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r" {4}([│ ]*)[├└]── (\w+)", line):
            depth = len(match[1]) // 4 + 1
            branch[depth:] = [match[2]]
            drawn[match[2]] = branch[depth - 1]
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert drawn == {
        kind.__name__: kind.__base__.__name__ if kind.__base__ is not Exception else "" for kind in classes
    }
