"""When a sample had arrived."""

from sttd.session.arrivals import Arrivals


def test_a_sample_arrived_with_the_first_chunk_that_reached_it():
    arrivals = Arrivals()
    for position, now in ((320, 1.0), (640, 1.5), (960, 2.0)):
        arrivals.mark(position, now)
    assert [arrivals.of(at) for at in (1, 320, 321, 640, 960)] == [1.0, 1.0, 1.5, 1.5, 2.0]
    assert arrivals.of(961) is None
