"""What left the machine and why is told, and never what was in it."""

from __future__ import annotations

import json

import pytest
import structlog

from aitherd.core.upstreams import PLAIN, Reach
from tests.native.proxy.conftest import House
from tests.native.proxy.test_tiers import ask
from tests.native.proxy.tiers import EVENTS, JSON, Roads, always, priced, saying
from tests.native.proxy.wires import Engine, ok, until

ASKED, ANSWERED, ERROR = "the-patient-has-gout", "take-two-of-these", "no-such-patient"
SORRY = json.dumps({"error": {"message": f"{ERROR} {ASKED}"}}).encode()
TELLING = f'data: {{"choices":[{{"message":{{"content":"{ANSWERED}"}}}}]}}\n\ndata: [DONE]\n\n'.encode()
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:{ASKED}"}}]}
QUESTION = {"role": "user", "content": ASKED}


@pytest.mark.parametrize("stream", [False, True])
async def test_the_journal_says_what_left_why_and_for_how_much_and_nothing_of_its_content(
    house: House, roads: Roads, stream: bool
) -> None:
    await house.model("vision", saying(ANSWERED))
    await roads.upstream("spark", always(ok(SORRY, JSON)), can=PLAIN | {"vision"})
    cloud = await roads.upstream(
        "cloud", always(ok(TELLING, EVENTS) if stream else ok(TELLING[6:].split(b"\n")[0], JSON)), Reach.CLOUD,
        models=priced("gpt-x"),
    )  # fmt: skip
    with structlog.testing.capture_logs() as logs:
        await roads.open("spark/reasoning", "cloud/gpt-x")
        reply = await ask(house, "X-Secret: " + ASKED, model="standard", messages=[QUESTION], stream=stream, user=ASKED)
        assert ANSWERED in reply.body.decode()
        assert (await ask(house, model="standard", messages=[IMAGE])).status == 200
        assert (await ask(house, "X-Aither-Local: only", model="standard", messages=[QUESTION])).status == 400
        assert (await ask(house, model="vision", messages=[QUESTION])).status == 200
        assert (await ask(house, model=ASKED, messages=[])).status == 404
        await until(lambda: len([log for log in logs if log.get("aither_event") == "request"]) == 5)
    requests = [log for log in logs if log.get("aither_event") == "request"]
    left = requests[0]
    assert (left["left"], left["tries"], left["aither_model"]) == ("cloud", 2, "cloud/gpt-x")
    assert left["because"] == "spark/reasoning: it answered 200 with an error"
    assert left["cost"] > 0
    assert [log.get("left") for log in requests[1:]] == ["lan", None, None, None]
    told = repr(logs) + " ".join(roads.said())
    # The name of a model that there is not is a client's word, too.
    assert not [word for word in (ASKED, ANSWERED, ERROR) if word in told]
    assert ASKED not in repr(cloud.requests[0].fields)


async def test_with_local_only_no_byte_leaves(house: House, roads: Roads) -> None:
    engines: list[Engine] = [
        await roads.upstream("spark", saying("spark")),
        await roads.upstream("cloud", saying("cloud"), Reach.CLOUD),
    ]
    await roads.open("spark/x", "cloud/y")
    for fields in (("X-Aither-Local: only",), ("x-aither-local:only", "X-Aither-Tier: standard")):
        assert (await ask(house, *fields, messages=[QUESTION])).status == 400
    assert [len(engine.requests) for engine in engines] == [0, 0]
