"""The breaker of a node, and what failures mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.core.circuit import FAILURES, PAUSE, PAUSE_MAX, Circuit, State
from aitherd.core.retries import BURST, MATRIX, REST, REST_MAX, Budget, Failure, of_status, rest_seconds


def opened(now: float = 0.0) -> Circuit:
    circuit = Circuit()
    for _ in range(FAILURES):
        circuit.failed(now, "refused")
    return circuit


def test_only_failures_in_a_row_open_it() -> None:
    circuit = Circuit()
    for _ in range(10):
        circuit.failed(0.0, "refused")
        circuit.succeeded()
    assert circuit.state(0.0) is State.CLOSED
    assert opened().state(0.0) is State.OPEN


def test_a_single_request_is_let_through_after_the_pause() -> None:
    circuit = opened()
    assert circuit.state(PAUSE) is State.HALF_OPEN
    circuit.begin(PAUSE)
    assert circuit.state(PAUSE) is State.OPEN
    circuit.succeeded()
    assert circuit.state(PAUSE) is State.CLOSED


def test_a_try_that_fails_doubles_the_pause_up_to_a_bound() -> None:
    circuit, now = opened(), 0.0
    for _ in range(10):
        now = circuit.until
        circuit.begin(now)
        circuit.failed(now, "refused", jitter=1.0)
    assert circuit.until - now == PAUSE_MAX * 1.25


def test_a_try_whose_client_left_leaves_room_for_the_next() -> None:
    circuit = opened()
    circuit.begin(PAUSE)
    circuit.abandon()
    assert circuit.state(PAUSE) is State.HALF_OPEN


def test_good_probes_in_a_row_let_a_request_try_at_once() -> None:
    circuit = opened()
    circuit.succeeded(probe=True)
    circuit.failed(1.0, "refused")
    circuit.succeeded(probe=True)
    assert circuit.state(1.0) is State.OPEN
    circuit.succeeded(probe=True)
    assert circuit.state(1.0) is State.HALF_OPEN


def test_a_probe_does_not_speak_for_requests_that_fail() -> None:
    circuit = Circuit()
    for _ in range(FAILURES):
        circuit.failed(0.0, "500")
        circuit.succeeded(probe=True)
    assert circuit.state(0.0) is State.OPEN


def test_requests_that_were_on_their_way_do_not_lengthen_the_pause() -> None:
    circuit = opened()
    until = circuit.until
    circuit.failed(0.1, "refused")
    assert circuit.until == until


@given(st.lists(st.sampled_from(["begin", "ok", "bad", "probe-ok", "probe-bad", "left", "later"]), max_size=60))
def test_while_open_at_most_one_request_is_under_way(story: list[str]) -> None:
    circuit, now, trying = Circuit(), 0.0, 0
    for what in story:
        state = circuit.state(now)
        if what == "begin" and state is State.HALF_OPEN:
            circuit.begin(now)
            trying += 1
            assert trying == 1
        elif what == "later":
            now += 10.0
        elif what in ("ok", "left", "bad") and trying:
            trying = 0
            if what == "ok":
                circuit.succeeded()
            elif what == "left":
                circuit.abandon()
            else:
                circuit.failed(now, "bad")
        elif what == "bad" and not circuit.opened:
            circuit.failed(now, "bad")


def test_the_table_has_a_line_for_every_failure_and_statuses_mean_what_they_say() -> None:
    assert set(MATRIX) == set(Failure)
    meant = {status: failure for status in range(200, 600) if (failure := of_status(status)) is not None}
    assert {status for status, failure in meant.items() if failure is Failure.SERVER} == {408, 425, *range(500, 600)}
    assert meant[429] is Failure.BUSY
    assert {200, 201, 302, 400, 409, 413, 422}.isdisjoint(meant)
    # A node that is busy, or does not have the model, is not a broken node.
    assert [failure for failure, verdict in MATRIX.items() if not verdict.breaks] == [Failure.BUSY, Failure.UNKNOWN]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", REST),
        ("9" * 400, REST_MAX),
        ("nan", REST),
        ("inf", REST),
        ("Wed, 21 Oct 2026 07:28:00 GMT", REST),
        ("", REST),
    ],
)
def test_retry_after(text: str, seconds: float) -> None:
    assert rest_seconds(text) == seconds


@given(st.integers(0, 2000))
def test_second_tries_are_a_tenth_of_the_first(requests: int) -> None:
    budget = Budget(left=0.0)
    spent = 0
    for _ in range(requests):
        budget.earn()
        spent += budget.spend()
    assert spent <= requests / 10 + 1e-6
    assert requests < 100 or spent >= requests // 10 - 1


def test_a_burst_is_bounded() -> None:
    budget = Budget()
    assert sum(budget.spend() for _ in range(1000)) == BURST
