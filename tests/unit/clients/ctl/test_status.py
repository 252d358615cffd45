"""What `sttctl status` makes of a report."""

from sttd_client.ctl.status import lines_of

from sttd.answers import as_map
from tests.answers import STATUS


def test_sessions_are_told_apart_by_wire_and_by_whether_their_clients_are_there():
    text = "\n".join(lines_of(as_map(STATUS), {"sttd": 2, "wyoming": 1}, asleep=1))
    assert "by 2 sttd, 1 wyoming; 1 asleep, until their clients come back" in text
    assert "asleep" not in "\n".join(lines_of(as_map(STATUS), {"sttd": 2}))
