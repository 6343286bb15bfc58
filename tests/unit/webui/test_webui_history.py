"""webui.chat.history: conversations on disk, each for its owner alone."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from support import png

from webui.chat import history as history_module
from webui.chat.conversation import Conversation, Figures, Turn
from webui.chat.history import YOUNG_S, History, HistoryError, title_of
from webui.chat.words import HISTORY

ANNA, BEN = "anna's secret", "ben's secret"


@pytest.fixture
def open_history(tmp_path: Path) -> Callable[..., History]:
    """Of one folder; again and again, as after restarts."""

    def opened(quota_mb: int = 10, keep_days: float = 30) -> History:
        return History(tmp_path / "history", tmp_path / "uploads", quota_mb, keep_days)

    return opened


@pytest.fixture
def history(open_history: Callable[..., History]) -> History:
    return open_history()


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    path.write_bytes(png(40, 30, "red"))
    return path


def save(history: History, owner: str, *turns: Turn) -> str:
    """A conversation of its own; its key."""
    talk = Conversation(turns).with_key()
    history.save(owner, talk)
    return talk.key


def kept_files(tmp_path: Path) -> list[Path]:
    return [*(tmp_path / "history" / "pictures").iterdir()]


def age(path: Path) -> None:
    """Make it older than what is being written."""
    then = time.time() - YOUNG_S - 1
    os.utime(path, (then, then))


def test_a_conversation_survives_a_restart(
    open_history: Callable[..., History], red: Path, tmp_path: Path
) -> None:
    """With everything in it, also when the page has deleted its pictures."""
    figures = Figures(first_token_s=0.5, completion_tokens=7)
    talk = Conversation(
        (
            Turn("what?\n二", (red, red), "hmm", "A red one.", True, "read", figures),
            Turn("and?", answer="Half"),
        )
    )
    key = save(open_history(), ANNA, *talk.turns)
    red.unlink()
    found = open_history().load(ANNA, key)
    assert [(t.question, t.reasoning, t.answer, t.task, t.figures) for t in found.turns] == [
        (t.question, t.reasoning, t.answer, t.task, t.figures) for t in talk.turns
    ]
    assert all(turn.done for turn in found.turns)
    assert found.key == key
    shown = found.turns[0].pictures
    assert [path.read_bytes() for path in shown] == [png(40, 30, "red")] * 2
    assert {path.name for path in shown} == {"red.png"}
    assert {path.parents[1] for path in shown} == {tmp_path / "uploads"}


def test_nobody_sees_anothers_conversations(history: History) -> None:
    """Not in the list, by search, by its key, nor by writing over it."""
    key = save(history, ANNA, Turn("my secret"))
    assert history.entries(BEN) == history.entries(BEN, "secret") == []
    for touch in (
        lambda: history.load(BEN, key),
        lambda: history.delete(BEN, key),
        lambda: history.rename(BEN, key, "x"),
        lambda: history.save(BEN, Conversation((Turn("x"),), key)),
        lambda: history.save(BEN, Conversation((), key)),
    ):
        with pytest.raises(HistoryError, match="history_gone"):
            touch()
    assert [turn.question for turn in history.load(ANNA, key).turns] == ["my secret"]
    assert [entry.id for entry in history.entries(ANNA)] == [key]


def test_only_its_owner_can_read_the_files(history: History, tmp_path: Path) -> None:
    """And the owners' secrets are not in them."""
    save(history, ANNA, Turn("x"))
    folder = tmp_path / "history"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "history.sqlite").stat().st_mode & 0o777 == 0o600
    assert not any(
        ANNA.encode() in path.read_bytes() for path in folder.iterdir() if path.is_file()
    )


def test_a_conversation_is_found_by_its_words(history: History) -> None:
    """All of them, in whatever case and language; the latest first; nothing is a wildcard."""
    for question, answer in (("Red CIRCLE", "a"), ("100% blue", "Größe"), ("红色的圆", "b_c")):
        save(history, ANNA, Turn(question, answer=answer))

    def found(words: str) -> list[str]:
        return [entry.title for entry in history.entries(ANNA, words)]

    assert found("") == ["红色的圆", "100% blue", "Red CIRCLE"]
    assert found("circle red") == ["Red CIRCLE"]
    assert found("circle blue") == []
    assert found("GRÖSSE") == ["100% blue"]
    assert found("红色") == ["红色的圆"]
    assert found("%") == ["100% blue"]
    assert found("b_") == ["红色的圆"]
    assert found("' OR 1=1 --") == []


def test_saving_again_writes_over(history: History) -> None:
    """What was taken back is gone, and with the last turn the conversation; a title stays."""
    key = save(history, ANNA, Turn("a", answer="1"), Turn("b"))
    history.rename(ANNA, key, "  my \n title ")
    history.save(ANNA, Conversation((Turn("a", answer="2"),), key))
    assert [turn.answer for turn in history.load(ANNA, key).turns] == ["2"]
    assert [entry.title for entry in history.entries(ANNA)] == ["my title"]
    history.save(ANNA, Conversation((), key))
    assert history.entries(ANNA) == []


def test_what_was_deleted_elsewhere_is_kept_when_it_goes_on(history: History) -> None:
    """In another tab of the same browser."""
    key = save(history, ANNA, Turn("a"))
    history.delete(ANNA, key)
    history.save(ANNA, Conversation((Turn("a"), Turn("b")), key))
    assert len(history.load(ANNA, key).turns) == 2


def test_a_picture_is_kept_once_and_as_long_as_somebody_needs_it(
    history: History, red: Path, tmp_path: Path
) -> None:
    """Whatever it is called, and whoever keeps it."""
    again = tmp_path / "again.jpg"
    shutil.copy(red, again)
    keys = [
        (owner, save(history, owner, Turn("", (path,))))
        for owner, path in ((ANNA, red), (BEN, again))
    ]
    [file] = kept_files(tmp_path)
    assert file.suffix == ".png"
    for left, (owner, key) in zip((1, 0), keys, strict=True):
        history.delete(owner, key)
        age(file) if file.exists() else None
        history.sweep()
        assert len(kept_files(tmp_path)) == left


def test_a_picture_that_the_page_has_deleted_stays_kept(
    history: History, red: Path, tmp_path: Path
) -> None:
    """A talk may go on for longer than a day."""
    turn = Turn("a", (red,), answer="b")
    key = save(history, ANNA, turn)
    red.unlink()
    history.save(ANNA, Conversation((turn, Turn("c")), key))
    assert [len(turn.pictures) for turn in history.load(ANNA, key).turns] == [1, 0]
    assert len(kept_files(tmp_path)) == 1


def test_who_has_no_room_is_told_and_loses_nothing(
    open_history: Callable[..., History], red: Path
) -> None:
    """What was kept before is as it was."""
    history = open_history(quota_mb=1)
    long = Turn("a", answer="x" * 600_000)
    key = save(history, ANNA, long)
    more = (long, Turn("b", (red,), answer="x" * 600_000))
    for talk in (Conversation(more, key), Conversation(more).with_key()):
        with pytest.raises(HistoryError, match="history_full"):
            history.save(ANNA, talk)
    assert len(history.load(ANNA, key).turns) == len(history.entries(ANNA)) == 1
    save(history, BEN, long)


def test_pictures_keep_their_order_and_count_once(
    open_history: Callable[..., History], tmp_path: Path
) -> None:
    """However often one is asked about."""
    paths = [tmp_path / f"{colour}.bmp" for colour in ("red", "blue")]
    for path in paths:
        Image.new("RGB", (380, 380), path.stem).save(path)  # 433 kB
    history = open_history(quota_mb=1)
    key = save(history, ANNA, Turn("a", (*paths, paths[0])), Turn("b", tuple(paths)))
    shown = [[path.name for path in turn.pictures] for turn in history.load(ANNA, key).turns]
    assert shown == [["red.bmp", "blue.bmp", "red.bmp"], ["red.bmp", "blue.bmp"]]


def test_old_conversations_go_in_time(
    open_history: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those that nobody has changed for so long."""
    history = open_history(keep_days=2)
    now = time.time()
    for days, question in ((3.0, "old"), (1.0, "new")):
        monkeypatch.setattr(history_module.time, "time", lambda days=days: now - days * 86_400)
        save(history, ANNA, Turn(question))
    monkeypatch.setattr(history_module.time, "time", lambda: now)
    history.sweep()
    assert [entry.title for entry in history.entries(ANNA)] == ["new"]


def test_many_may_save_at_once(history: History, red: Path) -> None:
    """Nothing is lost, and nobody is turned away."""

    def talk(number: int) -> str:
        first = Turn(f"{number}", (red,))
        key = save(history, ANNA, first)
        history.sweep()
        history.save(ANNA, Conversation((first, Turn("more")), key))
        return key

    with ThreadPoolExecutor(8) as pool:
        keys = [*pool.map(talk, range(24))]
    assert {entry.id for entry in history.entries(ANNA)} == {*keys}
    for key in keys:
        [path] = history.load(ANNA, key).turns[0].pictures
        assert path.read_bytes() == red.read_bytes()


def test_a_full_disk_is_told(
    history: History, red: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is full to the last byte; nothing half-written is left."""
    monkeypatch.setattr(history_module, "RESERVE_BYTES", 10**18)
    with pytest.raises(HistoryError, match="history_disk"):
        save(history, ANNA, Turn("a", (red,)))
    assert history.entries(ANNA) == kept_files(tmp_path) == []


@pytest.mark.parametrize(
    ("harm", "code"), [("PRAGMA user_version = 99", "history_newer"), (None, "history_broken")]
)
def test_a_database_that_is_not_ours_is_left_alone(
    history: History,
    open_history: Callable[..., History],
    tmp_path: Path,
    harm: str | None,
    code: str,
) -> None:
    """A newer version's, or no database at all."""
    save(history, ANNA, Turn("a"))
    file = tmp_path / "history" / "history.sqlite"
    if harm:
        with sqlite3.connect(file) as database:
            database.execute(harm)
        database.close()
    else:
        file.write_bytes(b"no database" * 100)
    before = file.read_bytes()
    with pytest.raises(HistoryError, match=code):
        open_history()
    assert file.read_bytes() == before


def test_every_reason_has_words() -> None:
    """In both languages."""
    codes = {"history_gone", "history_full", "history_disk", "history_broken", "history_newer"}
    assert HISTORY.keys() == codes


def test_a_title_is_the_beginning_of_the_first_question() -> None:
    """On one line."""
    assert title_of(Conversation((Turn(" a\n b "), Turn("c")))) == "a b"
    assert title_of(Conversation((Turn("x" * 100),))) == "x" * 59 + "…"
    assert title_of(Conversation()) == title_of(Conversation((Turn(""),))) == ""
