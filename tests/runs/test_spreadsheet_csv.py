"""Locust's CSV under any name, cut off, with rows twice, or saved by a spreadsheet: read right, or refused by cell."""

from __future__ import annotations

import csv
import io

import pytest
from samples import requests, write_locust

from perfkit import read_run
from perfkit.model.errors import ReadError
from perfkit.runs.locust_csv import decoded, header_of


@pytest.fixture
def main(rng, tmp_path):
    return write_locust(tmp_path / "night", requests(rng, errors=0.01))


@pytest.fixture
def rows(main):
    return list(csv.reader(io.StringIO(main.read_text())))


def save(main, rows, *, separator=",", first="", encoding="utf-8", line_end="\n", change=lambda cell: cell):
    """As a spreadsheet saves the same table: quoted where needed."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerows([rows[0], *([*row[:2], *map(change, row[2:])] for row in rows[1:])])
    main.write_bytes((first + out.getvalue()).replace("\n", line_end).encode(encoding))
    return main


def with_comma(cell):
    return cell.replace(".", ",")


SAVED = {
    "sep line": {"first": "sep=,\n"},
    "sep semicolon": {"separator": ";", "first": "sep=;\n"},
    "quoted sep": {"separator": ";", "first": '"sep=;"\n'},
    "semicolons": {"separator": ";"},
    "tabs": {"separator": "\t"},
    "bars": {"separator": "|"},
    "utf-16": {"encoding": "utf-16", "separator": "\t"},
    "utf-16-le, no mark": {"encoding": "utf-16-le"},
    "utf-16-be, no mark": {"encoding": "utf-16-be"},
    "utf-8 with mark": {"encoding": "utf-8-sig", "separator": ";"},
    "carriage returns": {"line_end": "\r"},
    "carriage returns, semicolons": {"line_end": "\r", "separator": ";", "encoding": "utf-16"},
    "decimal commas": {"separator": ";", "change": with_comma},
    "decimal commas in quotes": {"change": with_comma},
    "sep line, decimal commas, utf-16": {
        "first": "sep=;\r\n",
        "line_end": "\r\n",
        "separator": ";",
        "encoding": "utf-16",
        "change": with_comma,
    },
}


@pytest.mark.parametrize("how", SAVED.values(), ids=SAVED.keys())
def test_what_a_spreadsheet_saves_has_the_same_numbers(main, rows, how):
    expected = read_run(main)
    again = read_run(save(main, rows, **how))
    assert dict(again.services) == dict(expected.services)
    assert again.duration_s == expected.duration_s


def test_separators_of_thousands_and_empty_columns(main, rows):
    expected = read_run(main)
    wide = [[*row, "", ""] for row in rows]
    assert dict(read_run(save(main, wide, separator=";")).services) == dict(expected.services)
    rows[1][2], rows[1][5] = "1,234", "1,234.5"
    rows[1][rows[0].index("Max Response Time")] = "1300"
    rows[-1][2] = str(int(rows[2][2]) + int(rows[3][2]) + 1234)
    first = read_run(save(main, rows, separator=";")).services[rows[1][1]]
    assert (first.count, first.avg_latency_ms) == (1234, 1234.5)
    german = [[*row[:2], *map(with_comma, row[2:])] for row in rows]
    german[1][2], german[1][5] = "1.234", "1.234,5"
    first = read_run(save(main, german, separator=";")).services[rows[1][1]]
    assert (first.count, first.avg_latency_ms) == (1234, 1234.5)


def test_a_comma_in_a_name_is_no_decimal_comma(main, rows):
    rows[1][1] = "/v1,5"
    assert "/v1,5" in read_run(save(main, rows, separator=";", change=with_comma)).services


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("23. Apr", "expected a number >= 0, got '23. Apr'; a spreadsheet takes such numbers for dates"),
        ("Apr 23", "takes such numbers for dates"),
        ("23.04.2026", "takes such numbers for dates"),
        ("########", "a spreadsheet writes this for what it could not show"),
        ("12,5", "'12,5' has a decimal comma, "),
    ],
)
def test_a_spoilt_cell_is_named_with_its_cause(main, rows, cell, says):
    rows[1][5] = cell
    with pytest.raises(ReadError, match="line 2") as caught:
        read_run(save(main, rows))
    assert says in str(caught.value)


def test_a_comma_of_two_meanings_is_refused(main, rows):
    whole = [[*row[:2], *(cell.split(".")[0] for cell in row[2:])] for row in rows]
    whole[0] = rows[0]
    whole[1][5] = "1,234"
    with pytest.raises(ReadError, match="'1,234' may have a decimal comma or a separator of thousands"):
        read_run(save(main, whole, separator=";"))


# The same row twice, and files that are cut off -----------------------------------------------------------------------


def test_a_row_that_stands_there_twice_is_refused(main, rows):
    with pytest.raises(ReadError, match="line 3: 'GET api_gateway' stands in line 2 already"):
        read_run(save(main, [*rows[:2], rows[1], *rows[2:]]))
    with pytest.raises(ReadError, match="'Aggregated' stands in line 5 already"):
        read_run(save(main, [*rows, rows[-1]]))
    with pytest.raises(ReadError, match="line 6: the header again; these are several files in one"):
        read_run(save(main, [*rows, *rows]))
    other = [["POST", *rows[1][1:]], *rows[1:]]
    total = [*rows[-1][:2], str(int(rows[-1][2]) + int(rows[1][2])), *rows[-1][3:]]
    both = read_run(save(main, [rows[0], *other[:-1], total]))
    assert {"GET api_gateway", "POST api_gateway"} <= set(both.services)


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_file_that_is_cut_at_the_end_of_a_line_is_recognised(main, rows, left):
    with pytest.raises(ReadError, match=f"is cut off after line {left + 1}: the row Aggregated"):
        read_run(save(main, rows[: left + 1]))


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"95%": "nan"}, r"line 3: 95% is nan and 90% is \d+: percentiles rise; is the file damaged\?"),
        ({"66%": "-1"}, r"line 3: 66% is -1 and 50% is \d+: percentiles rise"),
        ({"75%": "1e999"}, r"line 3: 80% is \d+ and 75% is inf: percentiles rise"),
        ({"99%": "1"}, r"line 3: 99% is 1 and 98% is \d+: percentiles rise"),
        ({"Median Response Time": "nan"}, r"line 3: the median is nan and 50% is \d+: they are one number"),
        ({"50%": "-1"}, r"line 3: the median is \d+ and 50% is -1: they are one number"),
        ({"95%": ""}, r"line 3: 95% is empty, and other percentiles are not; is the file damaged\?"),
        (
            {"Average Response Time": "-1"},
            r"line 3: the average is -1, the fastest request [\d.]+, the slowest [\d.]+: no",
        ),
        ({"Average Response Time": "999999"}, r"line 3: the average is 999999, the fastest request"),
    ],
    ids=lambda value: next(iter(value.items())) if isinstance(value, dict) else "",
)
def test_times_that_no_requests_have_are_refused(main, rows, cells, says):
    spoilt = [list(row) for row in rows]
    for title, text in cells.items():
        spoilt[2][rows[0].index(title)] = text
    with pytest.raises(ReadError, match=says):
        read_run(save(main, spoilt))


def test_more_requests_in_the_rows_than_in_all_are_invalid(main, rows):
    spoilt = [list(row) for row in rows]
    spoilt[1][2] = str(int(rows[1][2]) * 2)
    run = read_run(save(main, spoilt))
    (check,) = [check for check in run.validity.problems if check.name == "counts"]
    assert (run.validity.ok, "Copy the file again." in check.advice) == (False, True)


def test_a_file_that_lacks_rows_is_invalid(main, rows):
    run = read_run(save(main, [rows[0], *rows[2:]]))
    (check,) = [check for check in run.validity.problems if check.name == "counts"]
    assert not run.validity.ok
    assert "Rows are missing; copy the whole file." in check.advice


# Names of files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scenario"),
    [
        ("_stats.csv", "of a night"),
        ("results_stats.csv", "of a night"),
        ("shop_stats.csv", "shop"),
        ("stats.csv", "stats"),
        ("requests_1760711404.csv", "requests_1760711404"),
        ("SHOP.CSV", "SHOP"),
        ("shop.txt", "shop"),
        ("shop", "shop"),
        ("my_failures.csv", "my_failures"),
        (".csv", ".csv"),
        ("a.b_stats.csv", "a.b"),
        ("ü ☃_stats.csv", "ü ☃"),
    ],
)
def test_any_name_is_read(main, tmp_path, monkeypatch, name, scenario):
    folder = tmp_path / "of a night"
    folder.mkdir()
    file = main.rename(folder / name)
    run = read_run(file)
    assert (run.scenario, len(run.services)) == (scenario, 3)
    monkeypatch.chdir(folder)
    assert read_run(name).services == run.services


def test_the_companions_of_an_empty_prefix_are_found(rng, tmp_path, monkeypatch):
    write_locust(tmp_path / "x", requests(rng), users=7)
    for file in list(tmp_path.iterdir()):
        file.rename(file.with_name(file.name[1:]))
    for path in (tmp_path, tmp_path / "_stats.csv", tmp_path / "_stats_history.csv"):
        assert read_run(path).profile.users == 7
    monkeypatch.chdir(tmp_path)
    assert read_run("_stats.csv").profile.users == 7


def test_encodings_and_headers():
    assert decoded("a\r\nb".encode("utf-16")) == "a\nb"
    assert decoded(b"") == ""
    assert decoded(b"a\rb\r") == "a\nb\n"


def test_a_header_of_no_table_is_nothing_special(tmp_path):
    (tmp_path / "x").write_bytes(b"\x00\xff" * 5000)
    assert isinstance(header_of(tmp_path / "x"), list)
    (tmp_path / "y").write_bytes(b"")
    assert header_of(tmp_path / "y") == []


@pytest.mark.parametrize(
    ("title", "cell", "says"),
    [
        ("Request Count", "1e300", r"line 3: request count: expected a whole number from 0 to 1e\+15, got '1e300'"),
        ("Requests/s", "", "line 3: requests/s is empty, and there were "),
        ("Requests/s", "0", "line 3: .* requests at 0 per second, and all "),
        ("Requests/s", "1e9", r"line 3: .* requests at 1e\+09 per second, and all "),
        ("Average Response Time", "", "line 3: average response time is empty, and there were "),
        (
            "Average Response Time",
            "nan",
            "line 3: a response time is not a number, and none of all requests is, in line 5",
        ),
        ("Average Response Time", "inf", "line 3: a response time is infinite, and none of all requests is, in line 5"),
        ("100%", "1e9", "line 3: (100%|a response time) is "),
    ],
)
def test_a_row_that_the_row_of_all_contradicts_is_refused(main, rows, title, cell, says):
    rows[2][rows[0].index(title)] = cell
    with pytest.raises(ReadError, match=says):
        read_run(save(main, rows))
