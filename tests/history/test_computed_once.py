"""One history context: a comparison with its history reads the index once and segments no series twice."""

import sys
from collections import Counter

from histories import nights, stored

from perfkit import RunStore
from perfkit.cli import main
from perfkit.history import change_events
from perfkit.runs import index


def test_a_candidate_is_compared_with_one_reading_of_the_index_and_one_segmentation_of_each_series(
    rng, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    _, ids = stored(tmp_path / "runs", nights(rng, 30), nights(rng, 6, first=30, factor=1.2))
    store = RunStore(tmp_path / "runs")
    store.index()
    read, runs, segmented = [], Counter(), Counter()
    real_load, real_get, real_segment = index.read_index, RunStore.get, change_events.segment_many
    monkeypatch.setattr(index, "read_index", lambda backend: read.append(backend) or real_load(backend))

    def get(self, run_id):
        runs[run_id] += 1
        return real_get(self, run_id)

    def segment_many(tasks):
        segmented.update((values.tobytes(), alpha) for values, alpha in tasks)
        return real_segment(tasks)

    monkeypatch.setattr(RunStore, "get", get)
    monkeypatch.setattr(change_events, "segment_many", segment_many)
    monkeypatch.setattr(change_events, "segment", lambda values, *, alpha: segment_many([(values, alpha)])[0])
    assert main(["compare", "--candidate", ids[-1], "--store", "runs"], sys.stdout, sys.stderr) == 1
    assert len(read) == 1
    assert set(runs.values()) == {1}
    assert len(segmented) >= 14  # seven metrics before the candidate, and with it
    assert set(segmented.values()) == {1}
