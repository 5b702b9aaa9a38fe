"""The list of who was erased: it grows, it is durable, and one that was altered is not believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.kept_erasures import FILE, KeptErasure, KeptErasures, merged
from shared.log.kept_folder import FolderDamaged

ONCE = KeptErasure(times=1, why="objection")
TWICE = KeptErasure(times=2, why="unlawful")


def test_everybody_is_remembered_as_of_the_last_time(tmp_path: Path) -> None:
    """By whoever opens the folder next; an earlier time that is told late changes nothing."""
    kept = KeptErasures(tmp_path / "log")
    assert kept.known() == {}
    kept.remember({"person-1": ONCE})
    kept.remember({"person-2": TWICE})
    kept.remember({"person-1": TWICE, "person-2": ONCE})
    assert KeptErasures(tmp_path / "log").known() == {"person-1": TWICE, "person-2": TWICE}


def test_what_is_known_is_not_written_again(tmp_path: Path) -> None:
    """A repeat costs no sync."""
    kept = KeptErasures(tmp_path / "log")
    kept.remember({"person-1": ONCE})
    before = (tmp_path / "log" / FILE).stat()
    kept.remember({"person-1": ONCE})
    assert (tmp_path / "log" / FILE).stat().st_ino == before.st_ino
    assert before.st_mode & 0o077 == 0


def test_an_altered_list_is_refused(tmp_path: Path) -> None:
    """Whoever could shorten it could bring a name back."""
    kept = KeptErasures(tmp_path / "log")
    kept.remember({"person-1": ONCE})
    file = tmp_path / "log" / FILE
    file.write_bytes(file.read_bytes().replace(b"person-1", b"person-2"))
    with pytest.raises(FolderDamaged):
        kept.known()


def test_lists_of_several_services_are_one() -> None:
    """Each subject as of its last time."""
    assert merged({"a": ONCE, "b": TWICE}, {"a": TWICE}, {}) == {"a": TWICE, "b": TWICE}
