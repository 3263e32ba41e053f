"""A file appears whole or not at all, and one process at a time changes it."""

from contextlib import suppress
from pathlib import Path

import pytest

from perfkit.model.files import atomic_path, atomic_write


def test_it_is_written_with_its_folder(tmp_path):
    atomic_write(tmp_path / "new" / "a.txt", "one")
    assert (tmp_path / "new" / "a.txt").read_text() == "one"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_what_was_there_stays_when_the_new_text_cannot_be_written(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        atomic_write(file, "new \ud800")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    atomic_write(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "one"


def test_a_device_is_written_to_and_not_replaced():
    with pytest.raises(OSError, match="No space left"):
        atomic_write(Path("/dev/full"), "text")
    assert Path("/dev/full").is_char_device()


def test_a_file_that_is_written_in_parts_gets_its_name_at_the_end(tmp_path):
    with atomic_path(tmp_path / "a.txt", durable=True) as partial:
        partial.write_text("one")
        assert partial.name.startswith(".a.txt.")
        assert not (tmp_path / "a.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    with suppress(KeyError), atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("two")
        raise KeyError
    assert (tmp_path / "a.txt").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
