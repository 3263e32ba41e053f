"""What tests and notebooks outside the project rely on is there, under these names."""

import inspect
from dataclasses import fields
from pathlib import Path

import perfkit
from perfkit.model import errors


def test_all_is_sorted_and_every_name_can_be_had():
    public = [name for name in perfkit.__all__ if name != "__version__"]
    assert public == sorted(public)
    for name in perfkit.__all__:
        assert getattr(perfkit, name) is not None
    assert set(perfkit.__all__) <= set(dir(perfkit))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(perfkit, "no_such_name")


def test_every_public_name_is_documented():
    for name in perfkit.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(perfkit, name)), name


def test_signatures():
    assert str(inspect.signature(perfkit.compare)).startswith("(baseline: ")
    assert inspect.signature(perfkit.compare).parameters["policy"].default is None
    assert list(inspect.signature(perfkit.run_from_requests).parameters) == ["frame", "scenario", "labels"]
    for function in (perfkit.find_change_points, perfkit.watch_history):
        assert str(inspect.signature(function)).startswith("(values: ")
        assert inspect.signature(function).parameters["alpha"].default == 0.01


def test_fields_that_programs_read():
    finding = {field.name for field in fields(perfkit.Finding)}
    assert finding >= {
        *("service", "metric", "unit", "baseline", "candidate", "change_pct", "change_abs", "ci_low", "ci_high"),
        *("p_value", "verdict", "tolerance", "min_detectable", "runs_needed", "warnings"),
    }
    run = {field.name for field in fields(perfkit.Run)}
    assert run >= {"id", "scenario", "started_at", "duration_s", "profile", "validity", "services"}
    assert {verdict.value for verdict in perfkit.Verdict} == {
        *("regression", "improvement", "no_change", "inconclusive", "invalid"),
    }


def test_the_error_tree_has_one_root_and_is_public():
    tree = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, Exception)]
    assert {item.__name__ for item in tree} <= set(perfkit.__all__)
    assert all(issubclass(item, perfkit.PerfkitError) for item in tree)
    assert issubclass(perfkit.UnknownFormat, perfkit.ReadError)


def test_a_public_name_stays_what_it_is():
    """A module of the same name would replace the function at the second look, when a cell is run again."""
    for name in perfkit.__all__:
        first = getattr(perfkit, name)
        assert getattr(perfkit, name) is first, name
        assert not inspect.ismodule(first) or name == "plot", name
        assert not list(Path(perfkit.__file__).parent.glob(f"{name}*")), name
