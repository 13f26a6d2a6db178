"""Published formats, in rows made up here."""

from __future__ import annotations

import pytest

from tests.simulator.public import Asked, NotThatFormat, azure, burstgpt, chutes, mooncake, trace
from tests.simulator.traces import FLEET

BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45.5,GPT-4,1087,230,1317,API log
50,ChatGPT,300,0,300,API log
61,ChatGPT,20,100,120,API log
"""
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
AZURE_2024 = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
MOONCAKE = '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n\n'
CHUTES = """chute_id,user_id,started_at,input_tokens,output_tokens
c1,u1,2025-03-01T10:00:00+00:00,100,50
c2,u2,2025-03-01T10:00:30+00:00,200,10
"""


def test_burstgpt_without_what_failed() -> None:
    read = burstgpt(BURSTGPT.splitlines())
    assert read[:2] == [Asked(5.0, "ChatGPT", 472, 18), Asked(45.5, "GPT-4", 1087, 230)]
    assert len(read) == 3


def test_azure_of_both_years() -> None:
    first, second = azure(AZURE.splitlines())
    assert second.at - first.at == pytest.approx(4.314579, abs=1e-5)
    assert (first.model, first.prompt, first.answer) == (None, 374, 44)
    assert azure(AZURE_2024.splitlines())[0].at == pytest.approx(1715299200.00993)


def test_mooncake_in_seconds() -> None:
    assert mooncake(MOONCAKE.splitlines()) == [Asked(27.482, None, 6955, 52)]


def test_chutes_with_its_models() -> None:
    read = chutes(CHUTES.splitlines())
    assert [asked.model for asked in read] == ["c1", "c2"]
    assert read[1].at - read[0].at == 30.0


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (burstgpt, "Timestamp,Model\n1,x\n"),
        (azure, "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n"),
        (mooncake, '{"timestamp": 1}'),
        (mooncake, "[]"),
        (chutes, "chute_id\nc1\n"),
    ],
)
def test_another_format_is_refused_with_its_line(read: object, text: str) -> None:
    assert callable(read)
    with pytest.raises(NotThatFormat, match=r"line [12]"):
        read(text.splitlines())


def test_the_most_asked_for_becomes_the_first_of_the_fleet_and_time_begins_at_0() -> None:
    made = trace(burstgpt(BURSTGPT.splitlines()), FLEET, stretch=2.0)
    assert [(arrival.at, arrival.model) for arrival in made] == [
        (0.0, FLEET[0].name), (81.0, FLEET[1].name), (112.0, FLEET[0].name)
    ]  # fmt: skip
    assert made[0].work == pytest.approx(472 / 2000 + 18 / 50)


def test_requests_without_a_model_draw_one_the_same_each_time() -> None:
    asked = azure(AZURE.splitlines()) * 20
    assert trace(asked, FLEET, 1) == trace(asked, FLEET, 1) != trace(asked, FLEET, 2)
    assert trace([], FLEET) == ()
