"""Errors of a nursery's body and of its tasks."""

import pytest
import trio
from sttd_client.trio_streams import owned_nursery


async def test_the_one_error_leaves_as_it_is_with_its_cause():
    cause = OSError("why")

    async def body():
        async with owned_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyError("mine") from cause

    with pytest.raises(KeyError) as caught:
        await body()
    assert caught.value.__cause__ is cause


async def test_errors_of_several_tasks_stay_together():
    async def fail():
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("theirs")

    async def body():
        async with owned_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        await body()
    assert {type(error) for error in caught.value.exceptions} == {KeyError, ValueError}
