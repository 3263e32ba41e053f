"""A notebook that is run unedited: which runs it shows, and what is said of a parameter that is wrong."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from histories import nights, stored
from samples import REPOSITORY

import perfkit
from perfkit.model.records import LoadProfile
from perfkit.report.notebook import check_injected


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sides(comparison):
    return [[run.id for run in side.runs] for side in (comparison.baseline, comparison.candidate)]


def test_the_newest_run_is_compared_with_those_before_it(here, rng, capsys):
    (here / "notebooks").mkdir()
    _, ids = stored(here / "data" / "runs", nights(rng, 5))
    assert sides(perfkit.compare()) == [ids[:4], ids[4:]]
    assert capsys.readouterr().out == "No runs were named. Baseline: api@rolling. Candidate: api@last:1.\n"
    assert sides(perfkit.compare(candidate=ids[3])) == [ids[:3], [ids[3]]]
    assert [run.id for run in perfkit.baseline().runs] == ids
    assert perfkit.open_history().scenario == "api"


def test_the_newest_scenario_is_the_one_that_is_shown(here, rng):
    _, ids = stored(here / "data" / "runs", nights(rng, 3), nights(rng, 2, first=3, scenario="shop"))
    assert sides(perfkit.compare()) == [ids[3:4], ids[4:]]
    assert perfkit.open_history().scenario == "shop"


def test_the_newest_ab_test_is_compared_side_by_side(here, rng):
    runs = nights(rng, 10)
    pairs = [(side, f"1.{pair}") for _ in range(2) for pair in (1, 2) for side in ("baseline", "candidate")]
    labelled = [replace(run, labels={"side": s, "pair": p}) for run, (s, p) in zip(runs[2:], pairs, strict=True)]
    _, ids = stored(here / "data" / "runs", runs[:2], labelled)
    assert sides(perfkit.compare()) == [[ids[6], ids[8]], [ids[7], ids[9]]]


def test_runs_whose_load_changes_are_chosen_for_capacity(here, rng, capsys):
    ramps = [replace(run, profile=LoadProfile("ramp", 50)) for run in nights(rng, 2, scenario="ramp")]
    stored(here / "data" / "runs", ramps, nights(rng, 2, first=2))
    with pytest.raises(perfkit.ReadError):  # these keep no requests
        perfkit.capacity()
    assert "-ramp-" in capsys.readouterr().out


def test_with_no_runs_there_is_one_sentence_and_the_next_command(here, rng):
    (here / "perfkit.toml").write_text('[scenario.checkout]\nlocustfile = "l.py"\nhost = "http://127.0.0.1:1"\n')
    for show in (perfkit.compare, perfkit.baseline, perfkit.capacity, perfkit.open_history):
        with pytest.raises(perfkit.NotStored, match=r"data/runs: has no runs yet; next: perfkit run checkout\Z") as e:
            show()
        assert e.value._render_traceback_() == [f"NotStored: {e.value}"]
    stored(here / "data" / "runs", nights(rng, 1))
    with pytest.raises(perfkit.NotStored, match="api has one valid run, and a comparison needs two; next: perfkit run"):
        perfkit.compare()


def test_the_samples_are_shown_only_where_there_is_no_store(here, rng, capsys):
    assert perfkit.compare().verdict.value == "regression"
    assert perfkit.open_history().scenario == "nightly"
    assert "There is no store of runs here: these are perfkit's own samples" in capsys.readouterr().out
    stored(here / "data" / "runs", nights(rng, 2))
    assert perfkit.open_history().scenario == "api"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: perfkit.compare("x", 5), "candidate: expected what names runs .*, got 5"),
        (lambda: perfkit.compare("nothing/*", "data/samples/candidate/*"), "baseline: nothing"),
        (lambda: perfkit.compare("data/samples/baseline/*"), "candidate: name the runs to judge"),
        (lambda: perfkit.compare(candidate=""), "candidate: has no runs"),
        (lambda: perfkit.compare(rule="evidnce"), r"rule: .*did you mean 'evidence'"),
        (lambda: perfkit.compare(policy="no.toml"), "policy: no.toml: there is no such file"),
        (lambda: perfkit.compare(warnings=5), "warnings .*: expected a text, or a list of texts, got 5"),
        (lambda: perfkit.open_history(last="abc"), "last: expected a number of runs from 1 on, got 'abc'"),
        (lambda: perfkit.open_history(scenario=5), "scenario: expected a text or None, got 5"),
        (lambda: perfkit.capacity(objective=5), "objective .*: expected a text or None, got 5"),
        (lambda: perfkit.write_result({}, 5), "result: expected the path of a file, got 5"),
        (lambda: perfkit.read_comparison(5), "judged: expected the path of a result file, got 5"),
    ],
)
def test_a_wrong_parameter_is_named_first(monkeypatch, call, text):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(perfkit.PerfkitError, match=rf"\A{text}"):
        call()


def test_a_misspelt_parameter_of_papermill_stops_the_notebook(monkeypatch):
    import IPython

    cells = ["", 'baseline = None  # runs\nresult = "r.json"', "# Parameters\nbaselin = 'x'\n", "perfkit.compare()"]
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(user_ns={"In": cells}))
    with pytest.raises(
        perfkit.SettingsError, match=r"\Abaselin: this notebook has no such parameter \(did you mean 'b"
    ):
        perfkit.compare("data/samples/baseline/*", "data/samples/candidate/*")
    check_injected(cells[1], "# Parameters\nbaseline = 'x'\n")
    check_injected("import perfkit", "# Parameters\nx = 1\n")
