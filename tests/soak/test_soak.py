"""The soak itself, for a few seconds; `make soak` has half an hour of it."""

from tests.soak.clients import KINDS
from tests.soak.record import summary
from tests.soak.soak import Options, run


def test_a_few_seconds_of_everything_break_no_promise(tmp_path):
    options = Options(
        seconds=12.0,
        clients=len(KINDS),
        rests=1,
        fault_every_s=1.0,
        clips=("light",),
        real=None,
        patient=False,
    )
    record, tally = run(options, tmp_path)
    assert record.failures(tally) == [], summary(record, tally, record.failures(tally))
    assert len(tally.done) == len(KINDS), "not every kind of client was heard to its end"
    assert tally.faults.total() >= 3
    assert record.picture().startswith("<svg")
