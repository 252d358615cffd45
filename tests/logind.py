"""A private D-Bus and a logind on it that does what a test wants: suspend without a suspend."""

import os
import shutil
import subprocess

import pytest
import trio
from jeepney import DBusAddress, MessageType, message_bus, new_error, new_method_return, new_signal
from jeepney.io.trio import open_dbus_connection
from jeepney.low_level import HeaderFields

NAME = "org.freedesktop.login1"
MANAGER = DBusAddress("/org/freedesktop/login1", bus_name=NAME, interface=f"{NAME}.Manager")


def start_bus(address, environ=None):
    """A bus daemon that listens; what it starts gets `environ`. Skips where there is none to start."""
    if not shutil.which("dbus-daemon"):
        pytest.skip("dbus-daemon is not installed")
    command = ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address={address}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ)
    assert process.stdout.readline()  # the address: now it listens
    return process


class Logind:
    """Answers Inhibit with the end of a pipe, as logind does: the lock is let go when the other end reads the end."""

    def __init__(self, connection, *, refuse=False):
        self.connection, self.refuse = connection, refuse
        self.locks = []  # the reading ends
        self.asked = []

    @classmethod
    async def arrive(cls, address, nursery, **options):
        connection = await open_dbus_connection(address, enable_fds=True)
        logind = cls(connection, **options)
        await connection.send(message_bus.RequestName(NAME))
        while (await connection.receive()).header.message_type is not MessageType.method_return:
            pass
        nursery.start_soon(logind.serve)
        return logind

    async def serve(self):
        try:
            async for message in self.connection:
                if message.header.fields.get(HeaderFields.member) == "Inhibit":
                    await self.answer(message)
        except trio.ClosedResourceError:
            return

    async def answer(self, call):
        self.asked.append(call.body)
        if self.refuse:
            await self.connection.send(new_error(call, "org.freedesktop.DBus.Error.AccessDenied", "s", ("no",)))
            return
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        await self.connection.send(new_method_return(call, "h", (write,)))
        os.close(write)
        self.locks.append(read)

    async def announce(self, sleeping):
        await self.connection.send(new_signal(MANAGER, "PrepareForSleep", "b", (sleeping,)))

    def held(self):
        """How many of the locks given out are still held."""
        return sum(not released(lock) for lock in self.locks)

    async def leave(self):
        await self.connection.aclose()
        for lock in self.locks:
            os.close(lock)


def released(lock):
    try:
        return os.read(lock, 1) == b""
    except BlockingIOError:
        return False


async def until(condition):
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110  # what is waited for is on the other side of a socket
            await trio.sleep(0.01)
