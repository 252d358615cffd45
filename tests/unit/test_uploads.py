"""What is held of uploads, and how many of a user are finals."""

import os

import pytest
import trio

from sttd.errors import OverloadedError
from sttd.host import spool as spools
from sttd.host.spool import MEMORY_BYTES, Room
from sttd.uploads import Uploads


@pytest.fixture
def uploads(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return Uploads(Room(total_bytes=3 * MEMORY_BYTES, uid_bytes=3 * MEMORY_BYTES, what="uploads"), finals=2)


async def written(spool, size):
    data = os.urandom(1000) * (size // 1000 + 1)
    for at in range(0, size, 100_000):
        await spool.write(data[at : min(at + 100_000, size)])
    return data[:size]


@pytest.mark.parametrize("size", [0, 1, 500_000, MEMORY_BYTES, MEMORY_BYTES + 1, 2_900_000])
async def test_what_is_written_is_read_again_and_again(uploads, size, tmp_path):
    async with uploads.receive(7) as spool:
        data = await written(spool, size)
        for _ in range(2):
            pieces = [piece async for piece in spool.pieces()]
            assert b"".join(pieces) == data
            assert all(0 < len(piece) <= spools.PIECE_BYTES for piece in pieces)
        assert (uploads.room.taken_bytes, uploads.active) == (size, 1)
        assert list(tmp_path.iterdir()) == []  # a file without a name
    assert (uploads.room.taken_bytes, uploads.active) == (0, 0)


async def test_all_together_have_a_bound_and_give_back_what_they_had(uploads):
    async with uploads.receive(7) as first, uploads.receive(8) as second:
        await written(first, 2 * MEMORY_BYTES)
        with pytest.raises(OverloadedError) as caught:
            await written(second, 2 * MEMORY_BYTES)
        assert caught.value.data["retry_after_s"] > 0
        await second.aclose()
        await second.aclose()
        assert uploads.room.taken_bytes == 2 * MEMORY_BYTES
    assert uploads.room.taken_bytes == 0


async def test_a_disk_that_cannot_keep_it_means_come_again(uploads, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    with pytest.raises(OverloadedError, match="No such file"):
        async with uploads.receive(7) as spool:
            await written(spool, 2 * MEMORY_BYTES)
    assert uploads.room.taken_bytes == 0


async def test_a_cancelled_upload_leaves_nothing(uploads):
    with trio.CancelScope() as scope:
        async with uploads.receive(7) as spool:
            await written(spool, 2 * MEMORY_BYTES)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert (uploads.room.taken_bytes, uploads.active, spool.size) == (0, 0, 0)


def test_a_user_has_so_many_finals_at_a_time(uploads):
    with uploads.as_final(7) as first, uploads.as_final(7) as second:
        assert (first, second) == (True, True)
        with uploads.as_final(7) as third, uploads.as_final(8) as other:
            assert (third, other) == (False, True)
    with uploads.as_final(7) as again:
        assert again
