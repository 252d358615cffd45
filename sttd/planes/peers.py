"""Who is at the other end of a Unix socket, as the kernel tells it."""

from __future__ import annotations

import os
import socket
import struct

import trio

from sttd.admission import Peer

_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


def unix_peer(stream: trio.SocketStream) -> Peer:
    """The peer as it was when it connected; raises OSError on a socket that is no Unix socket.

    Rights depend on the uid alone. A pid can belong to somebody else by now, so it is for logs.
    """
    pid, uid, _gid = _UCRED.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(uid=uid, privileged=uid in (0, os.geteuid()), pid=pid)
