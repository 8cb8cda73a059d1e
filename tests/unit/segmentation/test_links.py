"""Which id a person goes by, and whom an id notifies of merges."""

from __future__ import annotations

import pytest

from segmentation.links import Edge, Learned, Links, Received, addressees, joined, root_of, view
from segmentation.state_bytes import CustomerState, is_bare, is_gone, is_linked, pack, unpack

AB, BA, BC, CB = Edge(1, "a", "b"), Edge(2, "b", "a"), Edge(3, "b", "c"), Edge(4, "c", "b")


@pytest.mark.parametrize(
    ("edges", "root"),
    [
        ((), "a"),
        ((AB,), "b"),
        ((AB, BC), "c"),  # a chain
        ((BC._replace(at=0), AB), "c"),  # into an id that was merged before
        ((AB, BA), "a"),  # a cycle: the later one decides
        ((BA._replace(at=0), AB), "b"),
        ((AB, Edge(2, "a", "c")), "c"),  # one id into two
        ((AB, Edge(2, "a", "c"), Edge(3, "a", "b")), "c"),  # not the root any more: nothing to decide
        ((AB, BC, Edge(5, "c", "a")), "a"),  # a ring
        ((Edge(7, "a", "b"), Edge(7, "b", "a")), "a"),  # at one instant the greater source decides
    ],
)
def test_the_root_is_a_function_of_the_set(edges: tuple[Edge, ...], root: str) -> None:
    assert root_of(edges, "a") == root_of(edges[::-1], "a") == root
    assert {root_of(edges, e.target) for e in edges} <= {root}


def test_of_one_merge_that_is_sent_again_the_latest_instant_counts() -> None:
    first, again, last = (Edge(at, "a", "b", 10 * at) for at in (1, 5, 7))
    assert view(joined([first], [again])) == (again,)
    assert joined([again], [first._replace(learned=90)]) == (again,)
    assert joined(joined([first], [again]), [last]) == (first, last)
    assert view((first, last), 10) == ()
    assert view((first, last), 70) == (first,)


def test_an_instant_that_decided_is_kept() -> None:
    first, between, again, last = (
        Edge(1, "a", "b", 10),
        Edge(2, "b", "a", 20),
        Edge(5, "a", "b", 30),
        Edge(7, "a", "b", 40),
    )
    edges = joined((), [first, between, again, last])
    assert edges == (first, between, again, last)
    assert [root_of(view(edges, stamp), "b") for stamp in (20, 30, 40, 50)] == ["b", "a", "b", "b"]
    assert joined(edges, [again]) == edges


def reached(customer: str, before: tuple[Edge, ...], now: tuple[Edge, ...], giver: str | None = None) -> list[str]:
    return addressees(customer, Learned(joined((), before), joined((), now)), giver, now)


def test_an_alias_notifies_the_root_before_and_the_root_now() -> None:
    assert reached("a", (), (AB,)) == ["b"]
    assert reached("a", (AB,), (AB, Edge(2, "a", "c"))) == ["b", "c"]
    assert reached("a", (AB,), (AB,)) == []
    assert reached("a", (AB,), (AB, BC), giver="c") == ["b"]  # the root itself has said so


def test_a_root_notifies_all_unless_only_leaves_came() -> None:
    assert reached("b", (), (AB,), giver="a") == []
    assert reached("b", (AB,), (AB, CB), giver="c") == []
    assert reached("c", (), (AB, BC), giver="b") == ["a"]
    assert reached("c", (), (AB, BC)) == ["a", "b"]


def test_a_state_of_merges_alone_is_gone() -> None:
    links = Links((AB._replace(learned=9),), (Received(1, 9), Received(2**48 - 1, 9)))
    value = pack(CustomerState(links=links, sequence=3))
    assert unpack(value).links == links
    assert is_linked(value)
    assert is_gone(value)
    announced = pack(CustomerState(links=links, segment=2))
    assert is_bare(announced)
    assert not is_gone(announced)
    assert not is_gone(pack(CustomerState(links=links, first=5)))
    assert not is_gone(pack(CustomerState(links=links, muted=1)))
    assert not is_gone(pack(CustomerState()))
