"""Who asks, and what their quota allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aitherd.core.callers import MINUTE, RETRY, Caller, Peer, Rule, Standing, caller_of
from aitherd.core.words import Priority

CAPTIONS = Caller("captions", Priority.BATCH)
STAFF = Caller("staff")
REST = Caller("rest", concurrency=1)
RULES = (Rule(STAFF, gid=100), Rule(CAPTIONS, uid=1000), Rule(REST), Rule(Caller("laptop"), key="laptop-key"))


def test_a_user_counts_before_a_group_and_that_before_everybody() -> None:
    assert caller_of(Peer(1000, 100), RULES) is CAPTIONS
    assert caller_of(Peer(1001, 100), RULES) is STAFF
    assert caller_of(Peer(1001, 101), RULES) is REST
    assert caller_of(None, RULES) is REST


def test_a_user_and_a_group_in_one_rule_is_about_the_user() -> None:
    rules = (Rule(STAFF, uid=1000, gid=100),)
    assert caller_of(Peer(1000, 7), rules) is STAFF
    assert caller_of(Peer(1001, 100), rules).name == "uid:1001"


def test_without_rules_each_user_is_a_caller_and_so_is_tcp() -> None:
    assert caller_of(Peer(1000, 100), ()).name == "uid:1000"
    assert caller_of(None, ()).name == "tcp"


def test_no_more_requests_are_under_way_than_the_quota_says() -> None:
    standing = Standing(Caller("a", concurrency=2))
    assert [standing.admit(0.0) for _ in range(3)] == [None, None, RETRY]
    standing.leave()
    assert standing.admit(0.0) is None


def test_a_rate_is_saved_up_for_a_minute_and_told_when_it_is_used_up() -> None:
    standing = Standing(Caller("a", rate=30), left=30.0, at=0.0)
    assert [standing.admit(0.0) for _ in range(30)] == [None] * 30
    assert standing.admit(0.0) == 2.0
    assert standing.admit(1.0) == 1.0
    assert standing.admit(2.0) is None
    assert standing.admit(2.0 + 10 * MINUTE) is None
    assert standing.left == 29.0


@given(st.integers(1, 50), st.lists(st.floats(0, 30), max_size=60))
def test_who_comes_back_when_told_is_let_in_and_nobody_gets_more_than_twice_the_rate_in_a_minute(
    rate: int, pauses: list[float]
) -> None:
    standing = Standing(Caller("a", rate=rate), left=float(rate), at=0.0)
    now, begun = 0.0, []
    for pause in pauses:
        now += pause
        later = standing.admit(now)
        if later is not None:
            now += later + 1e-6
            assert standing.admit(now) is None
        begun.append(now)
    for at in begun:
        assert sum(at <= other < at + MINUTE for other in begun) <= 2 * rate + 1
