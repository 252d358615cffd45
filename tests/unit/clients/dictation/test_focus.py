"""Where the cursor is, told by programs that pretend, on a real bus."""

from contextlib import asynccontextmanager

import trio
from jeepney import DBusAddress, MessageType, message_bus, new_error, new_method_return, new_signal
from jeepney.io.trio import open_dbus_connection
from jeepney.low_level import HeaderFields
from sttd_client.dictation import seat
from sttd_client.dictation.focus import Focus

from tests.logind import until

REGISTRY, EVENTS = "org.a11y.atspi.Registry", "org.a11y.atspi.Event.Object"
ENTRY, PASSWORD = 61, 40  # roles
ACTIVE, FOCUSED = 1 << 1, 1 << 12  # states


class Program:
    """The registry and a program in one: a window with some fields. `parts` says of each path its role and children."""

    def __init__(self, connection, *, parts, states):
        self.connection, self.parts, self.states = connection, parts, states
        self.asked = []
        self.silent = False
        self.odd = {}  # paths whose state is of another shape
        self.name = connection.unique_name

    async def serve(self, address):
        async for message in self.connection:
            if message.header.message_type is not MessageType.method_call:
                continue
            member = message.header.fields[HeaderFields.member]
            path = message.header.fields[HeaderFields.path]
            self.asked.append((member, path))
            if self.silent:
                continue
            match member:
                case "GetAddress":
                    answer = new_method_return(message, "s", (address,))
                case "GetChildren":
                    children = self.parts.get(path, (0, ()))[1]
                    rows = [(self.name, child) if child else ("", "/org/a11y/atspi/null") for child in children]
                    answer = new_method_return(message, "a(so)", (rows,))
                case "GetState" if path in self.odd:
                    answer = new_method_return(message, self.odd[path], (["odd"],))
                case "GetState":
                    answer = new_method_return(message, "au", ([self.states.get(path, 0), 0],))
                case "GetRole" if path in self.parts:
                    answer = new_method_return(message, "u", (self.parts[path][0],))
                case "RegisterEvent":
                    answer = new_method_return(message)
                case _:
                    answer = new_error(message, "org.freedesktop.DBus.Error.UnknownObject", "s", ("it is gone",))
            await self.connection.send(answer)

    async def says(self, path, *, focused):
        signal = new_signal(
            DBusAddress(path, interface=EVENTS), "StateChanged", "siiva{sv}", ("focused", focused, 0, ("i", 0), {})
        )
        await self.connection.send(signal)


PARTS = {
    "/org/a11y/atspi/accessible/root": (75, ("/program",)),
    "/program": (75, ("/hidden", "/window")),
    "/hidden": (23, ("/hidden/password",)),
    "/window": (23, ("/box",)),
    "/box": (20, ("/name", "/password")),
    "/name": (ENTRY, ()),
    "/password": (PASSWORD, ()),
    "/hidden/password": (PASSWORD, ()),
}


@asynccontextmanager
async def a_program(address, nursery, **states):
    states = {"/window": ACTIVE} | {f"/{path}": state for path, state in states.items()}
    async with await open_dbus_connection(address) as connection:
        program = Program(connection, parts=dict(PARTS), states=states)
        for name in (seat.ACCESSIBILITY, REGISTRY):
            await connection.send(message_bus.RequestName(name))
        nursery.start_soon(program.serve, address)
        yield program


@asynccontextmanager
async def watched(address, **states):
    """A program, and what the focus says of it: a list of whether it is in a password field."""
    told = []
    async with trio.open_nursery() as nursery, a_program(address, nursery, **states) as program:
        focus = Focus(told.append)
        nursery.start_soon(focus.run)
        with trio.fail_after(60):
            await focus.look()
        yield program, told, focus
        nursery.cancel_scope.cancel()


async def test_the_cursor_goes_into_a_password_field_and_out_of_it(bus):
    async with watched(bus, name=FOCUSED) as (program, told, _):
        assert told == []
        await program.says("/name", focused=0)
        await program.says("/password", focused=1)
        await until(lambda: told == [True])
        await program.says("/password", focused=1)
        await program.says("/password", focused=0)
        await until(lambda: told == [True, False])
        await program.says("/password", focused=1)
        await program.says("/name", focused=1)  # GTK says so before the other one loses it
        await program.says("/password", focused=0)
        await until(lambda: told == [True, False, True, False])


async def test_a_cursor_that_is_in_one_already_is_found_in_the_active_window_only(bus):
    async with watched(bus, password=FOCUSED, **{"hidden/password": FOCUSED}) as (program, told, _):
        assert told == [True]
        assert ("GetChildren", "/hidden") not in program.asked


async def test_parts_that_are_none_and_answers_of_another_shape_do_not_hide_a_password_field(bus):
    async with watched(bus) as (program, told, _):
        program.parts["/box"] = (20, ("", "/password"))  # AT-SPI's null reference has no name on the bus
        program.states["/password"] = FOCUSED
        program.odd = {"/hidden": "as"}
        focus = Focus(told.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(focus.run)
            with trio.fail_after(60):
                await focus.look()
            assert told == [True]
            nursery.cancel_scope.cancel()


async def test_the_search_has_an_end(bus):
    async with watched(bus) as (program, told, _):
        program.asked.clear()
        program.parts["/box"] = (20, tuple(f"/part{number}" for number in range(5000)))
        focus = Focus(told.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(focus.run)
            with trio.fail_after(60):
                await focus.look()
            nursery.cancel_scope.cancel()
        assert told == []
        assert len([path for _, path in program.asked if path.startswith("/part")]) < 400


async def test_a_program_that_goes_takes_its_password_field_along(bus):
    told = []
    async with trio.open_nursery() as nursery, a_program(bus, nursery):
        focus = Focus(told.append)
        nursery.start_soon(focus.run)
        with trio.fail_after(60):
            await focus.look()
        async with await open_dbus_connection(bus) as connection:
            other = Program(connection, parts=dict(PARTS), states={})
            async with trio.open_nursery() as serving:
                serving.start_soon(other.serve, bus)
                await other.says("/password", focused=1)
                await until(lambda: told == [True])
                serving.cancel_scope.cancel()
        await until(lambda: told == [True, False])
        nursery.cancel_scope.cancel()


async def test_a_program_that_does_not_answer_is_not_waited_for(bus):
    async with watched(bus) as (program, told, _):
        program.silent = True
        await program.says("/password", focused=1)
        await until(lambda: ("GetRole", "/password") in program.asked)
        await trio.sleep(1)
        program.silent = False
        await program.says("/password", focused=1)
        await until(lambda: told == [True])


async def test_nonsense_is_passed_over(bus):
    async with watched(bus) as (program, told, _):
        about = DBusAddress("/password", interface=EVENTS)
        await program.connection.send(new_signal(about, "StateChanged", "s", ("focused",)))
        await program.connection.send(new_signal(about, "StateChanged", "ss", ("focused", "yes")))
        await program.says("/nowhere", focused=1)
        await program.says("/password", focused=1)
        await until(lambda: told == [True])


async def test_a_bus_that_comes_later_is_looked_for_when_somebody_wants_to_dictate(bus):
    told = []
    async with trio.open_nursery() as nursery:
        focus = Focus(told.append)
        nursery.start_soon(focus.run)
        with trio.fail_after(60):
            await focus.look()  # there is none
            async with a_program(bus, nursery, password=FOCUSED):
                while told != [True]:  # the names may not be there yet
                    await focus.look()
                    await trio.sleep(0.02)
                nursery.cancel_scope.cancel()


async def test_whether_it_is_told_can_be_asked(bus, monkeypatch, tmp_path):
    assert not await trio.to_thread.run_sync(seat.tells_focus)
    async with trio.open_nursery() as nursery, a_program(bus, nursery):
        with trio.fail_after(60):
            while not await trio.to_thread.run_sync(seat.tells_focus):  # noqa: ASYNC110 - another process has to act
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    assert not await trio.to_thread.run_sync(seat.tells_focus)
