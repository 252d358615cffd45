"""Ogg files link by link: each page where it belongs, and no byte lost, however they arrive and whatever they are."""

import io

from hypothesis import given
from hypothesis import strategies as st

from sttd.session.links import OggLinks


def page(*, begins=False, serial=1, body=b"x" * 300):
    segments = bytes([255] * (len(body) // 255) + [len(body) % 255])
    head = b"OggS" + bytes([0, 2 if begins else 0]) + bytes(8) + serial.to_bytes(4, "little") + bytes(8)
    return head + bytes([len(segments)]) + segments + body


def link(pages, *, streams=1, body=b"x" * 300):
    """The first pages begin its streams, and its bodies may hold anything."""
    return b"".join(page(begins=index < streams, serial=index % streams, body=body) for index in range(streams + pages))


class InPieces(io.BytesIO):
    """Gives as much at a time as the sizes say."""

    def __init__(self, data, sizes):
        super().__init__(data)
        self.sizes = sizes

    def read(self, size):
        self.sizes = self.sizes[1:] + self.sizes[:1]
        return super().read(min(size, self.sizes[0]))


def read_all(links, sizes):
    """What each link holds, read in pieces of these sizes."""
    out = []
    while True:
        parts = []
        while piece := links.read(sizes[len(parts) % len(sizes)]):
            parts.append(piece)
        out.append(b"".join(parts))
        if not links.next_link():
            return out


sizes = st.lists(st.integers(1, 500), min_size=1, max_size=5)
chains = st.lists(
    st.builds(
        link,
        st.integers(1, 4),
        streams=st.integers(1, 2),
        body=st.one_of(st.binary(max_size=600), st.just(b"OggS\0\2" * 50)),
    ),
    min_size=1,
    max_size=4,
)


@given(chain=chains, arrive=sizes, asked=sizes)
def test_each_link_is_whole_however_it_arrives(chain, arrive, asked):
    assert read_all(OggLinks(InPieces(b"".join(chain), arrive)), asked) == chain


@given(
    junk=st.one_of(st.binary(), st.lists(st.sampled_from([b"OggS", b"\0\2", b"x", page()])).map(b"".join)), arrive=sizes
)
def test_whatever_comes_nothing_is_lost(junk, arrive):
    assert b"".join(read_all(OggLinks(InPieces(junk, arrive)), [64])) == junk


@given(lost=st.binary(min_size=1, max_size=50).filter(lambda data: b"O" not in data))
def test_it_finds_the_next_page_behind_damage(lost):
    first, second = link(2) + lost + page(), link(1)
    assert read_all(OggLinks(io.BytesIO(first + second)), [1000]) == [first, second]


def test_a_link_that_was_not_read_to_its_end_is_passed_over():
    links = OggLinks(io.BytesIO(link(3) + link(2)))
    assert links.read(10)
    assert links.next_link()
    assert b"".join(iter(lambda: links.read(100), b"")) == link(2)
    assert not links.next_link()
    assert links.count == 2
