"""Endpoints as answerers, against a local server: what is sent, what comes back, what is kept when it fails."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ecglm.errors import ConfigError, EcglmError
from ecglm.evaluation.answerers.base import PictureRef, Request
from ecglm.evaluation.answerers.chat import ChatAnswerer, data_url, messages
from ecglm.evaluation.endpoint import Endpoint
from ecglm.types import Turn
from evaluation.llm_server import LlmServer, Reply, Status


@pytest.fixture
def pictures(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name in ("a.png", "b.jpg", "c.bmp"):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    return tmp_path


def ask(server, requests, **options):
    endpoint = Endpoint(server.url, "gpt", key_env=None, backoff=0.01, max_retries=1, **options)
    return ChatAnswerer(endpoint, max_new_tokens=77).answer(requests)


def question(text="What is it?", *pictures):
    return Request(text, (Turn("user", f"<ecg>\n{text}"),), tuple(PictureRef(p) for p in pictures))


def decoded(url):
    head, _, body = url.partition(";base64,")
    return head.removeprefix("data:"), base64.b64decode(body)


def test_text_first_then_the_picture_at_low_detail(pictures):
    with LlmServer("sinus rhythm") as server:
        (reply,) = ask(server, [question("What is it?", pictures / "a.png")])
    body = server.requests[0][2]
    text, image = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    assert image["type"] == "image_url" and image["image_url"]["detail"] == "low"
    assert decoded(image["image_url"]["url"]) == ("image/png", (pictures / "a.png").read_bytes())
    assert body["max_tokens"] == 77 and body["temperature"] == 0 and body["model"] == "gpt"
    assert reply.text == "sinus rhythm" and not reply.truncated and reply.error is None


def test_files_travel_as_they_are_and_others_as_the_same_pixels(pictures):
    assert decoded(data_url(PictureRef(pictures / "b.jpg"))) == ("image/jpeg", (pictures / "b.jpg").read_bytes())
    kind, data = decoded(data_url(PictureRef(pictures / "c.bmp")))
    assert kind == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(Image.open(pictures / "c.bmp")))
    _, blank = decoded(data_url(PictureRef(pictures / "a.png", "blank")))
    assert Image.open(io.BytesIO(blank)).size == (30, 20) and blank != (pictures / "a.png").read_bytes()


def test_later_turns_show_no_picture_again(pictures):
    turns = (Turn("user", "<ecg>\nQ1"), Turn("assistant", "A1"), Turn("user", "Q2"))
    told = messages(Request("x", turns, (PictureRef(pictures / "a.png"),)), "high")
    assert [m["role"] for m in told] == ["user", "assistant", "user"]
    assert told[0]["content"][1]["image_url"]["detail"] == "high"
    assert told[1:] == [{"role": "assistant", "content": "A1"}, {"role": "user", "content": "Q2"}]
    assert messages(Request("x", (Turn("user", "Q"),)), "low") == [{"role": "user", "content": "Q"}]


def test_replies_keep_the_order_and_each_its_error(pictures):
    def script(body, earlier):
        said = body["messages"][0]["content"][0]["text"]
        return {"bad": Status(500), "cut": Reply("half", finish_reason="length")}.get(said, said.upper())

    names = ["one", "bad", "cut", "torn", "two", "gone"]
    files = {"torn": "torn.png", "gone": "none.png"}
    requests = [question(n, pictures / files.get(n, "a.png")) for n in names]
    with LlmServer(script) as server:
        one, bad, cut, torn, two, gone = ask(server, requests, concurrency=3)
    assert (one.text, two.text, cut.text) == ("ONE", "TWO", "half")
    assert cut.truncated and not one.truncated
    assert bad.text is None and bad.error.startswith("endpoint_failed: server_error")
    assert torn.error.startswith("image_corrupt") and gone.error.startswith("image_missing")


def test_what_was_answered_before_the_key_was_refused_is_kept(pictures):
    def script(body, earlier):
        return Status(401) if body["messages"][0]["content"][0]["text"] == "late" else "fine"

    requests = [question(n, pictures / "a.png") for n in ("one", "two", "late", "never")]
    with LlmServer(script) as server:
        replies = ask(server, requests, concurrency=1)
        assert [r.text for r in replies] == ["fine", "fine", None, None]
        assert all(r.error.startswith("endpoint_stopped") for r in replies[2:])
        with pytest.raises(ConfigError, match="401"):
            ask(server, requests[2:], concurrency=1)


def test_an_answer_that_was_withheld_is_a_failure_and_an_empty_one_is_none(pictures):
    with LlmServer([Reply("", finish_reason="content_filter")]) as server:
        assert ask(server, [question("Q", pictures / "a.png")])[0].error.startswith("content_filter")
    with LlmServer([Reply("")]) as server:
        (reply,) = ask(server, [question("Q", pictures / "a.png")])
    assert reply.text == "" and reply.error is None


def test_nobody_there_is_one_line(pictures):
    with LlmServer("x") as server:
        url = server.url
    endpoint = Endpoint(url, "gpt", key_env=None, backoff=0.01, max_retries=0, timeout=2)
    replies = ChatAnswerer(endpoint).answer([question("Q", pictures / "a.png")])
    assert replies[0].error.startswith("endpoint_failed: connection_lost")
    assert issubclass(ConfigError, EcglmError)
