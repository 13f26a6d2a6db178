"""What is refused before an engine sees a byte of it."""

from __future__ import annotations

import asyncio

import pytest

from aitherd.core.words import Residency
from aitherd.proxy.limits import Limits
from tests.native.proxy.conftest import House
from tests.native.proxy.wires import Engine, read_request

BODY = b'{"model":"vision","messages":[]}'


async def recorder(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Keeps every byte."""
    while data := await reader.read(65536):
        engine.raw += data


POST = b"POST /v1/completions HTTP/1.1\r\nHost: t\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BODY_CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)

SMUGGLING = {
    "TE gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + BODY_CHUNK + b"0\r\n\r\n",
    "TE identity": POST + b"Transfer-Encoding: identity\r\nContent-Length: 32\r\n\r\n" + BODY,
    "TE xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + BODY_CHUNK + b"0\r\n\r\n",
    "TE twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY_CHUNK + b"0\r\n\r\n",
    "TE with vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + BODY_CHUNK + b"0\r\n\r\n",
    "TE with space before colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + BODY_CHUNK + b"0\r\n\r\n",
    "TE on HTTP/1.0": b"POST /v1/completions HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    + BODY_CHUNK
    + b"0\r\n\r\n",
    "CL and TE": POST + b"Content-Length: 32\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY_CHUNK + b"0\r\n\r\n",
    "TE and CL": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 32\r\n\r\n" + BODY_CHUNK + b"0\r\n\r\n",
    "CL twice, equal": POST + b"Content-Length: 32\r\nContent-Length: 32\r\n\r\n" + BODY,
    "CL twice, different": POST + b"Content-Length: 32\r\nContent-Length: 0\r\n\r\n" + BODY,
    "CL list": POST + b"Content-Length: 32, 32\r\n\r\n" + BODY,
    "CL plus": POST + b"Content-Length: +32\r\n\r\n" + BODY,
    "CL minus": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "CL underscore": POST + b"Content-Length: 3_2\r\n\r\n" + BODY,
    "CL hex": POST + b"Content-Length: 0x20\r\n\r\n" + BODY,
    "CL empty": POST + b"Content-Length: \r\n\r\n" + BODY,
    "CL huge": POST + b"Content-Length: 99999999999999999999\r\n\r\n" + BODY,
    "chunk size plus": CHUNKED + b"+20\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size 0x": CHUNKED + b"0x20\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size overflow": CHUNKED + b"fffffffffffffffff\r\n" + BODY,
    "chunk with bare LF": CHUNKED + b"20\n" + BODY + b"\n0\n\n",
    "chunk without its end": CHUNKED + b"20\r\n" + BODY + b"xx0\r\n\r\n",
    "chunk extension with LF": CHUNKED + b"20;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "trailer with CL": CHUNKED + BODY_CHUNK + b"0\r\nContent-Length: 5\r\n\r\n",
    "Host missing": b"POST /v1/completions HTTP/1.1\r\nContent-Length: 32\r\n\r\n" + BODY,
    "Host twice": POST + b"Host: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "Host with userinfo": b"POST /v1/completions HTTP/1.1\r\nHost: a@t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "Host with path": b"POST /v1/completions HTTP/1.1\r\nHost: t/x\r\nContent-Length: 32\r\n\r\n" + BODY,
    "absolute URI": b"POST http://t/v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "userinfo": b"POST http://a@t/v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "CONNECT": b"CONNECT t:80 HTTP/1.1\r\nHost: t:80\r\n\r\n",
    "fragment": b"POST /v1/completions#x HTTP/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "target with NUL": b"POST /v1/completions\x00 HTTP/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "target with tab": b"POST\t/v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "target with space": b"POST /v1/completions x HTTP/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "target not ASCII": b"POST /v1/completions\xc3\xa9 HTTP/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "target with DEL": b"POST /v1/completions\x7f HTTP/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "authority as target": b"GET t:80 HTTP/1.1\r\nHost: t\r\n\r\n",
    "asterisk with GET": b"GET * HTTP/1.1\r\nHost: t\r\n\r\n",
    "absolute URI, another Host": b"GET http://other/health HTTP/1.1\r\nHost: t\r\n\r\n",
    "unknown method": b"P0ST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "small method": b"post /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "small protocol": b"POST /v1/completions http/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "other protocol": b"POST /v1/completions ICY/1.1\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "other minor version": b"POST /v1/completions HTTP/1.2\r\nHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "request line with bare LF": b"POST /v1/completions HTTP/1.1\nHost: t\nContent-Length: 32\n\n" + BODY,
    "request line with bare CR": b"POST /v1/completions HTTP/1.1\rHost: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "head ends with LF": POST + b"Content-Length: 32\r\n\n" + BODY,
    "Host empty": b"POST /v1/completions HTTP/1.1\r\nHost: \r\nContent-Length: 32\r\n\r\n" + BODY,
    "Host list": b"POST /v1/completions HTTP/1.1\r\nHost: t, u\r\nContent-Length: 32\r\n\r\n" + BODY,
    "Host with space before colon": b"GET /health HTTP/1.1\r\nHost : t\r\n\r\n",
    "TE with tab before colon": POST + b"Transfer-Encoding\t: chunked\r\n\r\n" + BODY_CHUNK + b"0\r\n\r\n",
    "TE folded": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + BODY_CHUNK + b"0\r\n\r\n",
    "TE chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + BODY_CHUNK + b"0\r\n\r\n",
    "TE chunked and another": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n" + BODY_CHUNK,
    "TE quoted": POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + BODY_CHUNK + b"0\r\n\r\n",
    "TE with parameter": POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + BODY_CHUNK + b"0\r\n\r\n",
    "TE empty": POST + b"Transfer-Encoding: \r\nContent-Length: 32\r\n\r\n" + BODY,
    "CL with inner space": POST + b"Content-Length: 3 2\r\n\r\n" + BODY,
    "CL fraction": POST + b"Content-Length: 32.0\r\n\r\n" + BODY,
    "CL with NUL": POST + b"Content-Length: 32\x00\r\n\r\n" + BODY,
    "CL with wide digits": POST + "Content-Length: \u0663\u0662\r\n\r\n".encode() + BODY,
    "CL folded": POST + b"Content-Length: 3\r\n 2\r\n\r\n" + BODY,
    "chunk size minus": CHUNKED + b"-20\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size underscore": CHUNKED + b"2_0\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size with space before": CHUNKED + b" 20\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size empty": CHUNKED + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk extension with bare CR": CHUNKED + b"20;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk extension with NUL": CHUNKED + b"20;a=\x00\r\n" + BODY + b"\r\n0\r\n\r\n",
    "trailer with TE": CHUNKED + BODY_CHUNK + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer with bare LF": CHUNKED + BODY_CHUNK + b"0\r\nX: a\n\r\n",
    "first header folded": b"POST /v1/completions HTTP/1.1\r\n Host: t\r\nContent-Length: 32\r\n\r\n" + BODY,
    "header folded with tab": POST + b"X: a\r\n\tb\r\nContent-Length: 32\r\n\r\n" + BODY,
    "header name with NUL": POST + b"X\x00: a\r\nContent-Length: 32\r\n\r\n" + BODY,
    "header name not ASCII": POST + b"X\xe9: a\r\nContent-Length: 32\r\n\r\n" + BODY,
    "header name with parenthesis": POST + b"X(: a\r\nContent-Length: 32\r\n\r\n" + BODY,
    "header with DEL": POST + b"X: a\x7fb\r\nContent-Length: 32\r\n\r\n" + BODY,
    "folded header": POST + b"X: a\r\n b\r\nContent-Length: 32\r\n\r\n" + BODY,
    "header without colon": POST + b"X\r\nContent-Length: 32\r\n\r\n" + BODY,
    "header with bare LF": POST + b"X: a\nContent-Length: 32\r\n\r\n" + BODY,
    "header with bare CR": POST + b"X: a\rb\r\nContent-Length: 32\r\n\r\n" + BODY,
    "header with NUL": POST + b"X: a\x00b\r\nContent-Length: 32\r\n\r\n" + BODY,
    "header name with space": POST + b"X Y: a\r\nContent-Length: 32\r\n\r\n" + BODY,
    "empty header name": POST + b": a\r\nContent-Length: 32\r\n\r\n" + BODY,
    "HTTP/0.9": b"GET /upstream/vision/x\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303"),
}


@pytest.mark.parametrize("payload", SMUGGLING.values(), ids=SMUGGLING.keys())
async def test_a_request_with_two_readings_is_refused_and_ends_the_connection(house: House, payload: bytes) -> None:
    engine = await house.model("vision", recorder)
    async with await house.client() as client:
        client.send(payload + b"GET /upstream/vision/smuggled HTTP/1.1\r\nHost: t\r\n\r\n")
        reply = await client.reply()
        assert reply.status in {400, 505}
        assert reply.json()["error"]["type"] in {"invalid_request_error", "server_error"}
        assert reply.fields["connection"] == "close"
        assert await client.closed() == b""
    assert (engine.connections, engine.raw) == (0, b"")


async def test_a_trailer_does_not_leak_into_the_next_request(house: House) -> None:
    engine = await house.model("vision")
    async with await house.client() as client:
        client.send(CHUNKED + BODY_CHUNK + b"0\r\nX-Trailer: 1\r\nX-Other: 2\r\n\r\n")
        client.post("/v1/completions", BODY)
        assert (await client.reply()).status == 200
        assert (await client.reply()).status == 200
    assert [set(request.fields) for request in engine.requests] == [{"host", "content-length"}] * 2


FAR = Limits(tick=0.05, body=1000)

BAD = {
    "long target": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: t\r\n\r\n", 414, "uri_too_long"),
    "long line": (POST + b"X: " + b"a" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
    "long head": (POST + b"X: aaaaaaaaaaaaaaaa\r\n" * 5000 + b"\r\n", 431, "headers_too_large"),
    "endless line": (POST + b"X: " + b"a" * 500_000, 431, "headers_too_large"),
    "long trailer": (CHUNKED + b"1\r\n{\r\n0\r\nX: " + b"a" * 500_000, 431, "headers_too_large"),
    "declared body": (POST + b"Content-Length: 1001\r\n\r\n", 413, "request_too_large"),
    "declared body, asked first": (
        POST + b"Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n", 413, "request_too_large"
    ),
    "chunked body": (CHUNKED + (b"100\r\n" + b" " * 256 + b"\r\n") * 5, 413, "request_too_large"),
    "other expectation": (POST + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\n", 417, "expectation_failed"),
    "other version": (b"GET /health HTTP/2.0\r\nHost: t\r\n\r\n", 505, "http_version_not_supported"),
    "no such path": (b"GET /v2/models HTTP/1.1\r\nHost: t\r\n\r\n", 404, "unknown_url"),
    "encoded path": (b"GET /v1/%6dodels HTTP/1.1\r\nHost: t\r\n\r\n", 404, "unknown_url"),
    "other method": (b"GET /v1/completions HTTP/1.1\r\nHost: t\r\n\r\n", 405, "method_not_allowed"),
    "body for no body": (
        b"GET /health HTTP/1.1\r\nHost: t\r\nContent-Length: 900000\r\n\r\n", 413, "request_too_large"
    ),
    "compressed": (POST + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\n", 415, "unsupported_media_type"),
    "no form": (
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\n", 415, "unsupported_media_type"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("payload", "status", "code"), BAD.values(), ids=BAD.keys())
async def test_bad_requests_get_one_clear_error(house: House, payload: bytes, status: int, code: str) -> None:
    engine = await house.model("vision", recorder)
    await house.open(FAR)
    async with await house.client() as client:
        client.send(payload)
        reply = await client.reply()
        assert (reply.status, reply.json()["error"]["code"]) == (status, code)
        if status == 405:
            assert reply.fields["allow"] == "POST, OPTIONS"
    assert engine.connections == 0


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_client_that_goes_on_sending_still_gets_to_read_its_refusal(house: House, tcp: bool) -> None:
    await house.open(FAR)
    async with await house.client(tcp=tcp) as client:
        client.send(POST + b"Content-Length: 3000000\r\n\r\n")
        for _ in range(30):
            client.send(bytes(100_000))
            await client.writer.drain()
        assert (await client.reply()).status == 413
        assert await client.closed() == b""


BAD_BODIES = {
    "not JSON": b"{",
    "not an object": b"[1]",
    "no model": b"{}",
    "model no string": b'{"model":5}',
    "bad UTF-8": b'{"a":"\xff","model":"vision"}',
    "deep": b'{"model":"vision","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nothing": b"",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_bad_bodies_get_one_clear_error_and_keep_the_connection(house: House, body: bytes) -> None:
    engine = await house.model("vision")
    async with await house.client() as client:
        client.post("/v1/completions", body)
        reply = await client.reply()
        assert (reply.status, reply.json()["error"]["code"]) == (400, "invalid_request")
        assert engine.connections == 0
        client.post("/v1/completions", BODY)
        assert (await client.reply()).body == BODY


@pytest.mark.parametrize("name", ["nobody", "../x", "-flag", "%n", "a\\u0000b", "x" * 300, ""])
async def test_an_unknown_model_is_a_404_that_names_the_ones_there_are(house: House, name: str) -> None:
    await house.model("vision")
    async with await house.client() as client:
        client.post("/v1/completions", b'{"model":"%b"}' % name.encode())
        reply = await client.reply()
        error = reply.json()["error"]
        assert (reply.status, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "vision" in error["message"]
        client.get("/upstream/nobody/x")
        assert (await client.reply()).status == 404


CONTROL = [
    "sleep", "sleep?level=2", "sleep/", "%73leep", "%2573leep", "Sleep", "sleep;x", "sleep%3Fx", "sleep%00", "wake_up",
    "is_sleeping", "collective_rpc", "reset_prefix_cache", "reset_anything", "slots", "slots/0?action=erase", "free",
    "api/free", "interrupt", "api/interrupt", "shutdown", "v1/load_lora_adapter", "models/unload", "load", "/sleep",
    "./sleep", "x/../sleep", "x/%2e%2e/sleep", "x%2F..%2Fsleep", "%2Fsleep", "x/%2E./sleep", "api//free", "\\sleep",
    "%5csleep", "api%2Ffree", "api/ps/m", "sleep%20", "%09sleep", "%25252573leep",
]  # fmt: skip


@pytest.mark.parametrize("path", CONTROL)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_controls_an_engine_is_out_of_reach(house: House, path: str, method: str) -> None:
    engine = await house.model("vision", recorder)
    async with await house.client() as client:
        client.get(f"/upstream/vision/{path}", method=method)
        assert (await client.reply()).status in {400, 404}
    assert engine.connections == 0


@pytest.mark.parametrize(
    "path",
    ["", "queue", "api/userdata/workflows%2Fa.json", "v1/models", "free_lunch", "a/sleep", "view?filename=../sleep"],
)
async def test_what_does_not_control_it_is_not(house: House, path: str) -> None:
    engine = await house.model("vision")
    async with await house.client() as client:
        client.get(f"/upstream/vision/{path}")
        assert (await client.reply()).status == 200
    assert engine.requests[0].line == f"GET /{path} HTTP/1.1"


async def test_options_says_what_a_path_takes(house: House) -> None:
    async with await house.client() as client:
        client.get("/v1/chat/completions", method="OPTIONS")
        reply = await client.reply()
        assert (reply.status, reply.fields["allow"]) == (204, "POST, OPTIONS")
        client.get("/health", method="OPTIONS")
        assert (await client.reply()).fields["allow"] == "GET, HEAD, OPTIONS"


async def tunnel(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Becomes a tunnel that answers in capitals, or declines."""
    while True:
        request = await read_request(reader)
        engine.requests.append(request)
        if request.fields.get("upgrade") != "websocket" or "no" in request.line:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
            continue
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nHELLO ")
        while data := await reader.read(65536):
            writer.write(data.upper())
            await writer.drain()
        return


UPGRADE = "GET /upstream/vision/{} HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: {}\r\n\r\n"


async def test_a_websocket_becomes_a_tunnel(house: House) -> None:
    engine = await house.model("vision", tunnel)
    async with await house.client() as client:
        client.send(UPGRADE.format("ws", "websocket") + "early ")
        reply = await client.reply()
        assert (reply.status, reply.fields["upgrade"]) == (101, "websocket")
        assert await client.reader.readexactly(12) == b"HELLO EARLY "
        blob = b"x" * 3_000_000
        client.send(blob)
        assert await client.reader.readexactly(len(blob)) == blob.upper()
    async with asyncio.timeout(5):
        await engine.gone.wait()


async def test_what_only_looks_at_an_engine_claims_nothing_and_loads_nothing(house: House) -> None:
    engine = await house.model("vision", tunnel)
    house.fleet.looks = frozenset({("GET", "/ws"), ("GET", "/queue")})
    async with await house.client() as page, await house.client() as client:
        page.send(UPGRADE.format("ws", "websocket") + "early ")
        assert (await page.reply()).status == 101
        assert await page.reader.readexactly(12) == b"HELLO EARLY "
        # It is open, and nobody would have to wait for it.
        assert house.fleet.models["vision"].in_flight == 0
        client.get("/upstream/vision/%71ueue")
        assert (await client.reply()).body == b"no"
        house.fleet.change("vision", residency=Residency.ABSENT)
        client.get("/upstream/vision/queue")
        refused = await client.reply()
        assert (refused.status, refused.json()["error"]["code"]) == (503, "model_not_loaded")
        assert house.fleet.status("vision").residency is Residency.ABSENT
        assert len(engine.requests) == 2
        # Anything else is work, and brings it in.
        client.get("/upstream/vision/")
        assert (await client.reply()).body == b"no"
        assert house.fleet.status("vision").residency is Residency.READY


@pytest.mark.parametrize(("path", "protocol"), [("no", "websocket"), ("ws", "h2c")])
async def test_an_upgrade_that_does_not_happen_leaves_http(house: House, path: str, protocol: str) -> None:
    engine = await house.model("vision", tunnel)
    async with await house.client() as client:
        for _ in range(3):
            client.send(UPGRADE.format(path, protocol))
        client.get("/health", "Connection: Upgrade", "Upgrade: h2c")
        client.post("/v1/completions", BODY)
        for _ in range(3):
            assert (await client.reply()).body == b"no"
        assert (await client.reply()).json()["status"] == "ok"
        assert (await client.reply()).body == b"no"
    assert ("upgrade" in engine.requests[0].fields) is (protocol == "websocket")


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_body_of_a_request_that_asks_for_an_upgrade_is_its_body(
    house: House, protocol: str, chunked: bool
) -> None:
    engine = await house.model("vision")
    smuggled = b"GET /upstream/vision/smuggled HTTP/1.1\r\nHost: t\r\n\r\n"
    body = b'{"model":"vision","x":"' + smuggled.replace(b"\r\n", b"    ") + b'"}'
    async with await house.client() as client:
        for text in (body, smuggled, body):
            framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(text)
            client.send(POST + b"Connection: Upgrade\r\nUpgrade: %b\r\n%b\r\n\r\n" % (protocol.encode(), framing))
            client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text) if chunked else text)
        assert [(await client.reply()).status for _ in range(3)] == [200, 400, 200]
        client.get("/health")
        assert (await client.reply()).json()["status"] == "ok"
    assert [request.line for request in engine.requests] == ["POST /v1/completions HTTP/1.1"] * 2


async def test_many_pipelined_upgrades_are_only_requests(house: House) -> None:
    async with await house.client() as client:
        for protocol in ("h2c", "websocket"):
            for _ in range(1500):
                client.get("/health", "Connection: Upgrade", f"Upgrade: {protocol}")
            for _ in range(1500):
                assert (await client.reply()).status == 200
