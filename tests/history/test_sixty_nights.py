"""Sixty nights of a team: what is judged every night opens, updates, closes and reopens one issue for each event."""

import numpy as np
import pytest
from command_line import invoke
from github_server import serving as github
from mail_server import serving as post
from samples import run, stats

from perfkit import RunStore
from perfkit.model.records import Check, Severity, Validity

NIGHTS = 60
# Three events: one of them comes back, and two end
SLOWER = [("checkout", 24, 33, 1.2), ("checkout", 44, 60, 1.2), ("search", 27, 47, 1.25), ("login", 52, 60, 1.3)]
LEVELS = {"checkout": 20.0, "search": 90.0, "login": 240.0}
TURNS = sorted({night for _, begin, end, _ in SLOWER for night in (begin, end)})
BROKEN = Validity((Check("load_reached", 3.0, 20.0, Severity.INVALID, "Start more users."),))


def sixty_nights(rng):
    broken = set(rng.choice(np.arange(3, NIGHTS), 5, replace=False).tolist())
    for night in range(NIGHTS):
        slower = {name: factor for name, begin, end, factor in SLOWER if begin <= night < end}
        services = {
            name: stats(rng, level=level * slower.get(name, 1.0), sd=0.02, rps=50.0) for name, level in LEVELS.items()
        }
        changes = {"git": {"commit": f"{night:040x}", "branch": "main"}}
        if night in broken:
            changes["validity"] = BROKEN
        yield night, run(services, number=night, scenario="shop", **changes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_sixty_nights_have_three_issues_and_quiet_ones_no_mail(tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    mailed, codes = [], {}
    with github() as server, post(login=False, security="none") as (box, port):
        settings = f'[email]\nto = ["team@shop.example"]\nfrom = "ci@shop.example"\nhost = "127.0.0.1"\nport = {port}\n'
        (tmp_path / "perfkit.toml").write_text(f'{settings}security = "none"\nwhen = "changes"\n')
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        store = RunStore(tmp_path / "data" / "runs")
        for night, one in sixty_nights(np.random.default_rng(seed)):
            run_id = store.add(one)
            if night < 3:
                continue
            codes[night], _, _ = invoke("compare", "--candidate", run_id, "--format", "json", "--output", "night.json")
            assert invoke("issue", "night.json")[0] in (0, 3)
            before = len(box.letters)
            assert invoke("email", "night.json")[0] == 0
            mailed += [night] * (len(box.letters) - before)
    titles = [issue["title"] for issue in server.issues.values()]
    subjects = [(night, str(letter["Subject"])) for night, (_, letter, _) in zip(mailed, box.letters, strict=True)]
    assert not server.violations
    assert [next(name for name in LEVELS if name in title) for title in titles] == ["checkout", "search", "login"]
    assert [issue["state"] for issue in server.issues.values()] == ["open", "closed", "open"]
    # Closed and reopened; closed; nothing to say
    assert [len(server.said(number)) for number in (1, 2, 3)] == [2, 1, 0]
    # Invalid runs are told for themselves; else a message for each of three beginnings, two ends and a relapse
    told = [(night, subject) for night, subject in subjects if "invalid" not in subject]
    assert sum("regression" in subject for _, subject in told) == 4, subjects
    assert sum("recovered" in subject for _, subject in told) == 2, subjects
    assert all(any(0 <= night - at <= 6 for at in TURNS) for night, _ in told), subjects
    assert all(codes[night] == 3 for night, subject in subjects if "invalid" in subject)
