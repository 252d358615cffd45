"""Structured logs: a constant message and named fields, in the form that whoever reads them can use.

    log = logs.get(__name__)
    log.info("session opened", session=session_id, uid=peer.uid, preset="demo")

- ``text``: ``session opened session=s1 uid=1000 preset=demo``; on a pipe to the journal each line begins with its
  priority as ``<6>``, which journald takes off again.
- ``json``: one object a line.
- ``journal``: journald's native protocol, where a field is searchable: ``journalctl STTD_SESSION=s1``.
- ``auto``: ``journal`` when stderr is connected to the journal, otherwise ``text``.

What people said stays out of the logs: fields that can hold speech are withheld above debug level, whoever logs
them. A field's value comes from a client at times, so no form lets it forge a line or a field.
"""

import array
import fcntl
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

Format = Literal["auto", "text", "json", "journal"]

_PACKAGES = ("sttd", "sttd_client")
_TALKATIVE = ("python_multipart",)  # warn of whatever strangers send, in the strangers' words
_JOURNAL_SOCKET = "/run/systemd/journal/socket"
_SPEECH_FIELDS = frozenset({"audio", "hotwords", "payload", "prompt", "text", "transcript", "words"})
_LOGGING_KEYWORDS = ("exc_info", "stack_info", "stacklevel")
_BARE_VALUE = re.compile(r'[^\s"=\\\x00-\x1f\x7f-\x9f\u2028\u2029]+')
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger whose keyword arguments are fields (any name but ``msg`` and ``level``, and logging's own)."""

    def bind(self, **fields: object) -> "Log":
        """A logger with ``fields`` on top of this one's."""
        return Log(self.logger, {**(self.extra or {}), **fields})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        own = {name: kwargs.pop(name) for name in _LOGGING_KEYWORDS if name in kwargs}
        own["extra"] = {"fields": {**(self.extra or {}), **kwargs}}
        return msg, own


def get(name: str) -> Log:
    """The logger of a module: ``logs.get(__name__)``, or a short name: ``logs.get("service")`` is ``sttd.service``."""
    ours = name.partition(".")[0] in _PACKAGES
    return Log(logging.getLogger(name if ours else f"sttd.{name}"), {})


def configure(*, level: str = "info", format: Format = "auto", stream: TextIO | None = None) -> None:  # noqa: A002
    """Send every log record to ``stream`` (stderr) in ``format``; may be called again, on a reload.

    ``level`` (debug, info, warning, error) is sttd's own; libraries are held to warnings, since some of them log
    what was said.
    """
    out = stream or sys.stderr
    to_journal = _is_journal(out, os.environ)
    handler: logging.Handler
    if format == "journal" or (format == "auto" and to_journal):
        handler = JournalHandler()
    else:
        handler = logging.StreamHandler(out)
        handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter(priorities=to_journal))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, JournalHandler) or isinstance(old.formatter, TextFormatter | JsonFormatter):
            root.removeHandler(old)
            old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for package in _PACKAGES:
        logging.getLogger(package).setLevel(level.upper())
    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(logging.CRITICAL)


class TextFormatter(logging.Formatter):
    """``message name=value``; with ``priorities`` each line begins with ``<N>`` and no clock, the journal has one."""

    def __init__(self, *, priorities: bool = False) -> None:
        super().__init__()
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        text = _one_line(record)
        if record.exc_info:
            text += "\n" + "\n".join("    " + line for line in self.formatException(record.exc_info).splitlines())
        if self._priorities:
            return "\n".join(f"<{_priority(record.levelno)}>{line}" for line in text.splitlines())
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        return f"{clock} {record.levelname.lower():<7} {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a field whose name the record itself uses is prefixed with ``field_``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            line[f"field_{name}" if name in line else name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=True)


class JournalHandler(logging.Handler):
    """journald's native protocol: one datagram of fields for each record.

    Never waits for journald: a record that does not fit its queue is counted, and the next one carries the count
    as ``STTD_LOST``.
    """

    def __init__(self, *, address: str = _JOURNAL_SOCKET) -> None:
        super().__init__()
        self._address = address
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(self._encode(record))
            self._lost = 0
        except OSError:
            self._lost += 1
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _encode(self, record: logging.LogRecord) -> bytes:
        message = _one_line(record)
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        entry = {
            "MESSAGE": message,
            "PRIORITY": str(_priority(record.levelno)),
            "SYSLOG_IDENTIFIER": "sttd",
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
        }
        fields = {**_fields(record), **({"lost": self._lost} if self._lost else {})}
        entry |= {"STTD_" + re.sub(r"[^A-Z0-9_]", "_", name.upper()): str(value) for name, value in fields.items()}
        return b"".join(_journal_field(name, value) for name, value in entry.items())

    def _send(self, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, self._address)
        except BlockingIOError:
            raise
        except OSError:
            # Too large for a datagram (EMSGSIZE, ENOBUFS): the entry goes as a sealed memory file. Any other reason
            # makes this fail the same way.
            memory = os.memfd_create("sttd-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.write(memory, datagram)
                fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))]
                self._socket.sendmsg([b""], rights, 0, self._address)
            finally:
                os.close(memory)


def _journal_field(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """True if systemd connected exactly this stream to the journal (``JOURNAL_STREAM`` is its device and inode)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # not a real file, or closed
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, "fields", {})
    if record.levelno <= logging.DEBUG or _SPEECH_FIELDS.isdisjoint(fields):
        return fields
    return {name: "(withheld)" if name in _SPEECH_FIELDS else value for name, value in fields.items()}


def _one_line(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if not message.isprintable():
        message = json.dumps(message)[1:-1]
    return " ".join([message, *(f"{name}={_value(value)}" for name, value in _fields(record).items())])


def _value(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if _BARE_VALUE.fullmatch(text) else json.dumps(text)


def _priority(levelno: int) -> int:
    """The syslog priority of a Python level: 3 error, 4 warning, 6 info, 7 debug."""
    if levelno >= logging.CRITICAL:
        return 2
    if levelno >= logging.ERROR:
        return 3
    if levelno >= logging.WARNING:
        return 4
    return 6 if levelno >= logging.INFO else 7
