"""Who is connected: bounds, pages, and whose is whose."""

from types import SimpleNamespace

import pytest

from sttd.errors import NotFoundError, ProtocolError
from sttd.session.registry import Registry
from sttd.session.rest import Rest


def fill(registry, *uids):
    sessions = [SimpleNamespace(id=registry.new_id(), uid=uid) for uid in uids]
    for session in sessions:
        registry.add(session)
    return sessions


def test_ids_are_never_given_twice_and_sort_by_age():
    registry = Registry(10, 10)
    first, second = fill(registry, 1, 1)
    registry.remove(first)
    (third,) = fill(registry, 1)
    assert first.id < second.id < third.id
    assert (len(registry), registry.peak, registry.total) == (2, 2, 3)


def test_all_and_each_user_may_have_so_many():
    registry = Registry(3, 2)
    sessions = fill(registry, 1, 1)
    assert registry.taken(2) == 2 / 3
    assert registry.taken(1) == 1
    refusal = registry.refusal(1)
    assert "user 1 has 2" in refusal.message
    assert refusal.data["retry_after_s"] > 0
    sessions += fill(registry, 2)
    assert registry.taken(3) == 1
    assert "all 3" in registry.refusal(3).message
    registry.remove(sessions[0])
    registry.remove(sessions[0])  # once is enough
    assert registry.taken(1) == 2 / 3


def test_pages_follow_each_other_while_sessions_come_and_go():
    registry = Registry(10, 10)
    sessions = fill(registry, 1, 2, 1, 2, 1)
    page, cursor = registry.page(uid=None, limit=2, cursor=None)
    assert page == sessions[:2]
    registry.remove(sessions[1])  # the one that the cursor names
    registry.remove(sessions[2])
    page, cursor = registry.page(uid=None, limit=2, cursor=cursor)
    assert (page, cursor) == (sessions[3:], None)
    assert registry.page(uid=1, limit=2, cursor=None) == ([sessions[0], sessions[4]], None)


@pytest.mark.parametrize("cursor", ["", "5", "s", "sx", "s-1", "s1.5"])
def test_a_cursor_that_was_never_given_is_refused(cursor):
    registry = Registry(10, 10)
    if cursor:
        with pytest.raises(ProtocolError) as caught:
            registry.page(uid=None, limit=1, cursor=cursor)
        assert caught.value.code == "bad_option"


def test_what_belongs_to_somebody_else_is_not_found():
    registry = Registry(10, 10)
    mine, theirs = fill(registry, 1, 2)
    assert registry.find(mine.id, uid=1) is mine
    assert registry.find(theirs.id, uid=None) is theirs
    assert registry.visible(uid=2) == [theirs]
    for session_id, uid in ((theirs.id, 1), ("s999999", None)):
        with pytest.raises(NotFoundError):
            registry.find(session_id, uid=uid)


def test_those_who_wait_for_their_clients_are_counted_with_what_is_kept_for_them():
    registry = Registry(10, 10)
    sessions = fill(registry, 1, 2, 1)
    for session in sessions:
        session.rest = Rest()
    sessions[0].rest.sleep(kept_bytes=300)
    sessions[2].rest.sleep(kept_bytes=40)
    assert registry.asleep() == (2, 340)
    sessions[0].rest.wake(now=0.0)
    assert registry.asleep() == (1, 40)
