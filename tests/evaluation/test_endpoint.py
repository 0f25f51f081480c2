"""The endpoint against a local server: retries, order, keys that never show, addresses that are refused."""

from __future__ import annotations

import os
import time

import pytest

from ecglm.errors import ConfigError, EcglmError, UnsafeInputError
from ecglm.evaluation.chats import ChatError, ChatReply
from ecglm.evaluation.endpoint import Endpoint
from evaluation.llm_server import Cut, Delay, LlmServer, Raw, Reply, Reset, Status

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def endpoint(server, **options):
    return Endpoint(server.url, "judge", **{"backoff": 0.01, "timeout": 5.0, "max_retries": 3, **options})


def talk(text="hello"):
    return [{"role": "user", "content": text}]


def test_an_answer_with_its_usage_and_what_was_sent():
    with LlmServer("hi") as server:
        reply = endpoint(server).chat(talk(), max_tokens=7, seed=3, json=True)
    assert (reply.text, reply.finish_reason, reply.truncated) == ("hi", "stop", False)
    assert reply.usage == {"prompt_tokens": 100, "completion_tokens": 20}
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "judge",
        "messages": talk(),
        "max_tokens": 7,
        "temperature": 0.0,
        "seed": 3,
        "response_format": {"type": "json_object"},
    }


def test_azure_asks_a_deployment_with_its_own_header():
    with LlmServer("hi") as server:
        base = server.url.removesuffix("/v1")
        one = Endpoint(base, "gpt-4o", api_version="2024-10-21")
        one.chat(talk(), max_tokens=7)
        Endpoint(f"{base}/openai/deployments/other", "x", api_version="2024-10-21").chat(talk(), max_tokens=7)
    (path, headers, _), (path2, _, _) = server.requests
    assert path == "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    assert path2 == "/openai/deployments/other/chat/completions?api-version=2024-10-21"
    assert headers["api-key"] == KEY and "authorization" not in headers
    assert one.facts()["api_version"] == "2024-10-21"


@pytest.mark.parametrize(
    "trouble", [Status(429), Status(500), Status(503), Reset(), Cut(), Raw(b"<html>busy</html>"), Raw(b"{}")], ids=repr
)
def test_what_passes_is_asked_again(trouble):
    with LlmServer([trouble, trouble, "hi"]) as server:
        assert endpoint(server).chat(talk(), max_tokens=7).text == "hi"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("trouble", "reason", "tries"),
    [
        (Status(429), "rate_limited", 4),
        (Status(500), "server_error", 4),
        (Reset(), "connection_lost", 4),
        (Raw(b"[]"), "bad_reply", 4),
        (Delay(0.4, "late"), "timeout", 4),
        (Status(400, "too long"), "refused_request", 1),
    ],
    ids=lambda v: str(v),
)
def test_what_lasts_is_an_error_of_that_item(trouble, reason, tries):
    with LlmServer([trouble]) as server, pytest.raises(ChatError) as error:
        endpoint(server, timeout=0.1 if reason == "timeout" else 5.0).chat(talk(), max_tokens=7)
    assert error.value.reason == reason and "\n" not in str(error.value)
    assert len(server.requests) == tries


def test_retry_after_is_kept_to_and_bounded():
    with LlmServer([Status(429, headers={"Retry-After": "0.3"}), "hi"]) as server:
        start = time.monotonic()
        endpoint(server).chat(talk(), max_tokens=7)
        assert time.monotonic() - start >= 0.3
    with LlmServer([Status(429, headers={"Retry-After": "9999"}), "hi"]) as server:
        start = time.monotonic()
        endpoint(server, max_wait=0.05).chat(talk(), max_tokens=7)
        assert time.monotonic() - start < 5
    with LlmServer([Status(429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), "hi"]) as server:
        assert endpoint(server).chat(talk(), max_tokens=7).text == "hi"


def test_many_keep_their_order_and_their_failures_in_bounded_numbers():
    def script(body, turn):
        number = int(body["messages"][0]["content"])
        return Status(400) if number == 3 else Delay(0.05 if number % 2 else 0.0, str(number))

    seen = []
    with LlmServer(script) as server:
        talks = [talk(str(i)) for i in range(12)]
        found = endpoint(server, concurrency=3).chat_many(
            talks, max_tokens=7, on_done=lambda i, outcome: seen.append((i, outcome))
        )
    assert [r.text if isinstance(r, ChatReply) else r.reason for r in found] == [
        "refused_request" if i == 3 else str(i) for i in range(12)
    ]
    assert sorted(i for i, _ in seen) == list(range(12)) and all(found[i] is outcome for i, outcome in seen)
    assert server.most_at_once <= 3


def test_the_caller_may_stop_and_loses_nothing_on_its_way():
    with LlmServer(lambda body, turn: Delay(0.02, "x")) as server:
        found = endpoint(server, concurrency=2).chat_many(
            [talk(str(i)) for i in range(50)], max_tokens=7, on_done=lambda i, outcome: i >= 3
        )
    answered = [r for r in found if r is not None]
    assert 4 <= len(answered) <= 6 and len(answered) == server.paid


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status(401, f"Incorrect API key provided: {KEY}"), "key in OPENAI_API_KEY is not accepted"),
        (Status(404, "no such model"), "no model 'judge'"),
        (Status(429, "You have insufficient_quota"), "no credit"),
        (Status(307, headers={"Location": "https://elsewhere.example/v1"}), "redirects to elsewhere.example"),
    ],
    ids=lambda v: str(getattr(v, "code", "")),
)
def test_what_no_item_can_survive_stops_all_at_once(status, words):
    with LlmServer([status]) as server, pytest.raises(EcglmError) as error:
        endpoint(server, concurrency=1).chat_many([talk(str(i)) for i in range(30)], max_tokens=7)
    assert words in str(error.value) and KEY not in str(error.value) and "\n" not in str(error.value)
    assert len(server.requests) <= 2 and not isinstance(error.value, ChatError)


def test_answers_on_their_way_are_kept_when_the_credit_ends():
    def script(body, turn):
        return Status(402, "empty") if body["messages"][0]["content"] == "2" else Delay(0.1, "paid")

    kept = []
    with LlmServer(script) as server, pytest.raises(EcglmError, match="no credit"):
        endpoint(server, concurrency=4).chat_many(
            [talk(str(i)) for i in range(9)], max_tokens=7, on_done=lambda i, outcome: kept.append(i)
        )
    assert len(kept) == server.paid >= 3


def test_nobody_there_ends_soon():
    with LlmServer() as server:
        pass
    with pytest.raises(EcglmError, match="not answered"):
        endpoint(server, max_retries=0, backoff=0.0).chat_many([talk(str(i)) for i in range(400)], max_tokens=7)


def test_a_server_with_newer_or_fewer_fields_is_adapted_to_once():
    def script(body, turn):
        if "max_tokens" in body:
            return Status(400, "Use 'max_completion_tokens' instead of 'max_tokens'.")
        return Status(400, "response_format is not supported") if "response_format" in body else "hi"

    with LlmServer(script) as server:
        talks = [talk(str(i)) for i in range(5)]
        found = endpoint(server, concurrency=1).chat_many(talks, max_tokens=7, json=True)
    assert [r.text for r in found] == ["hi"] * 5 and len(server.requests) == 7
    assert server.requests[-1][2]["max_completion_tokens"] == 7


def test_an_answer_cut_by_the_length_limit_says_so():
    with LlmServer([Reply("half of it", finish_reason="length")]) as server:
        assert endpoint(server).chat(talk(), max_tokens=7).truncated


@pytest.mark.parametrize("content", [None, 7, [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]])
def test_content_in_other_forms(content):
    with LlmServer([Reply(content, usage="much")]) as server:
        reply = endpoint(server).chat(talk(), max_tokens=7)
    assert reply.text == ("ab" if isinstance(content, list) else "") and reply.usage == {}


def test_an_answer_without_end_is_refused():
    with LlmServer([Raw(b" " * ((8 << 20) + 1))]) as server, pytest.raises(ChatError, match="8 MB"):
        endpoint(server).chat(talk(), max_tokens=7)


def test_a_missing_or_unusable_key_is_said_before_anything_is_sent(monkeypatch, tmp_path):
    with LlmServer() as server:
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(ConfigError, match="OPENAI_API_KEY is empty or not set"):
            endpoint(server)
        monkeypatch.setenv("OPENAI_API_KEY", KEY + "\nX-Evil: 1")
        with pytest.raises(ConfigError, match="characters that no key has") as error:
            endpoint(server)
        assert KEY not in str(error.value)
        assert endpoint(server, key_env=None).chat(talk(), max_tokens=7).text == "ok"
    assert len(server.requests) == 1 and "authorization" not in server.requests[0][1]


def test_a_key_file_must_be_private(tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    file.chmod(0o644)
    with LlmServer() as server:
        with pytest.raises(UnsafeInputError, match="chmod 600"):
            endpoint(server, key_file=file)
        file.chmod(0o600)
        endpoint(server, key_file=file, key_env=None).chat(talk(), max_tokens=7)
        assert server.requests[0][1]["authorization"] == f"Bearer {KEY}"
        with pytest.raises(ConfigError, match="cannot be read"):
            endpoint(server, key_file=tmp_path / "absent")
        with pytest.raises(UnsafeInputError, match="no plain file"):
            endpoint(server, key_file=tmp_path)
        os.mkfifo(tmp_path / "pipe", 0o600)
        with pytest.raises(UnsafeInputError, match="no plain file"):
            endpoint(server, key_file=tmp_path / "pipe")


@pytest.mark.parametrize(
    "url",
    [
        "http://judge.example/v1",
        "http://10.0.0.7/v1",
        "ftp://127.0.0.1/v1",
        "file:///etc/passwd",
        "https://user:secret@judge.example/v1",
        "https://judge.example/v1?x=1",
        "https://[::1/v1",
        "nonsense",
    ],
)
def test_addresses_that_are_refused(url):
    with pytest.raises(UnsafeInputError) as error:
        Endpoint(url, "judge")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "http://[::1]:8000/v1", "https://judge.example/v1"])
def test_addresses_that_are_taken(url):
    assert Endpoint(url, "judge").facts()["base_url"] == url
    assert Endpoint("http://judge.lan/v1", "judge", allow_http=True)


def test_a_key_that_the_server_repeats_reaches_nobody(caplog, capsys):
    def script(body, turn):
        if body["messages"][0]["content"] == "echo":
            return Reply(f"your key is {KEY}", model=KEY)
        return Status(500, f"failed for {KEY}")

    caplog.set_level("DEBUG")
    with LlmServer(script) as server:
        one = endpoint(server, max_retries=0)
        reply = one.chat(talk("echo"), max_tokens=7)
        with pytest.raises(ChatError) as error:
            one.chat(talk("fail"), max_tokens=7)
    said = capsys.readouterr()
    everything = (
        f"{reply!r}{error.value}{error.value!r}{one!r}{one.facts()}{vars(one)}{caplog.text}{said.out}{said.err}"
    )
    assert KEY not in everything and "[key]" in reply.text


def test_the_proxy_of_the_environment_is_not_used_for_this_machine(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with LlmServer("hi") as server:
        assert endpoint(server, max_retries=0).chat(talk(), max_tokens=7).text == "hi"


@pytest.mark.parametrize(
    "url", ["https://a..b/v1", "https://xn--.example/v1", "https://judge.example/v1\n", f"https://{'a' * 70}.de"]
)
def test_addresses_that_no_name_service_takes_are_one_line(url):
    with pytest.raises(EcglmError, match="cannot be read"):
        Endpoint(url, "judge")


@pytest.mark.parametrize("options", [{"timeout": float("nan")}, {"timeout": float("inf")}, {"model": "a\udcff"}])
def test_settings_without_sense(options):
    with pytest.raises(ConfigError):
        Endpoint(**{"base_url": "https://judge.example/v1", "model": "judge", **options})


@pytest.mark.parametrize("location", ["https://[bad/", f"https://{KEY}.example/", f"https://[{KEY}]/", ""])
def test_a_redirect_to_nowhere_is_one_line_without_the_key(location):
    with LlmServer(Status(302, headers={"Location": location})) as server, pytest.raises(EcglmError) as error:
        endpoint(server, max_retries=0).chat(talk(), max_tokens=7)
    assert "\n" not in str(error.value) and KEY not in str(error.value).casefold()


@pytest.mark.parametrize("before", range(180, 201, 4))
def test_a_key_at_the_edge_of_an_excerpt_shows_no_part_of_itself(before):
    text = "x" * before + KEY
    with LlmServer(lambda body, turn: Raw(text.encode()) if turn == 0 else Status(500, text)) as server:
        one = endpoint(server, max_retries=0)
        for _ in range(2):
            with pytest.raises(ChatError) as error:
                one.chat(talk(), max_tokens=7)
            assert KEY[:4] not in str(error.value)


def test_half_a_character_in_an_answer_can_be_written():
    with LlmServer("a\ud83db") as server:
        assert endpoint(server).chat(talk(), max_tokens=7).text == "a?b"


def test_usage_beyond_belief_is_none():
    body = b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1' + b"0" * 400 + b"}}"
    with LlmServer([Raw(body)]) as server:
        assert endpoint(server).chat(talk(), max_tokens=7).usage == {}


@pytest.mark.parametrize(
    "trouble", [Status(429, headers={"Retry-After": "86400"}), Status(502), Raw(b"<html>welcome</html>")]
)
def test_a_server_that_answers_nobody_is_given_up(trouble):
    with LlmServer([trouble]) as server, pytest.raises(EcglmError, match=r"2\d items in a row were not answered \("):
        endpoint(server, max_retries=0).chat_many([talk(str(i)) for i in range(400)], max_tokens=7)
    assert len(server.requests) < 40


def test_every_answer_on_its_way_is_handed_over_also_where_one_cannot_be():
    taken = []

    def full_disk(position, outcome):
        taken.append(position)
        raise EcglmError("no space")

    with LlmServer(lambda body, turn: Delay(0.3, "x")) as server, pytest.raises(EcglmError, match="no space"):
        endpoint(server, concurrency=4).chat_many([talk(str(i)) for i in range(9)], max_tokens=7, on_done=full_disk)
    assert len(taken) == server.paid == 4
