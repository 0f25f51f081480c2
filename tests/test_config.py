"""config.py: whatever a recipe gets wrong is one line that names the file, the line and the key."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ecglm import config
from ecglm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 1e-3
    steps: int = 10
    schedule: Literal["cosine", "linear", 3] = "cosine"
    resume: bool = False

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"inner.lr must be above 0, found {self.lr}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None
    files: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    tags: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    rate: int | None = None
    either: int | str = 0


def fails(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.loads(text, Outer, "r.yaml")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    return message


def test_what_a_recipe_says_is_what_is_read():
    text = """
    name: "a b"
    inner: {lr: 1, steps: 5, schedule: linear, resume: true}
    other: {lr: 0.25}
    files: [x, y]
    pair: [3, 4]
    options: {widths: [1, 2], deep: {a: null}, rate: 2.5e-3}
    counts: {a: 1}
    rate: 250
    either: word
    """
    read = config.loads(text, Outer)
    assert read == Outer(
        name="a b",
        inner=Inner(lr=1.0, steps=5, schedule="linear", resume=True),
        other=Inner(lr=0.25),
        files=("x", "y"),
        pair=(3, 4.0),
        options={"widths": [1, 2], "deep": {"a": None}, "rate": 0.0025},
        counts={"a": 1},
        rate=250,
        either="word",
    )
    assert type(read.inner.lr) is float and type(read.pair[1]) is float and type(read.files) is tuple


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        ("name: x\ninner:\n  stepz: 3\n", 3, ["unknown key 'inner.stepz'", "did you mean 'steps'"]),
        ("name: x\nrat: 1\n", 2, ["unknown key 'rat'", "did you mean 'rate'", "valid keys: name, inner"]),
        ("name: x\nnothing_like_it_qqq:\n  - 1\n", 2, ["unknown key 'nothing_like_it_qqq'"]),
        ("name: x\nother:\n  lr: 1.0\n  lrr: 2.0\n", 4, ["unknown key 'other.lrr'", "did you mean 'lr'"]),
        ("name: x\ninner:\n  steps: 3\ninner:\n  steps: 4\n", 4, ["key 'inner' stands twice", "first on line 2"]),
        ("name: x\ncounts:\n  a: 1\n  b: 2\n  a: 3\n", 5, ["key 'a' stands twice", "first on line 3"]),
        ("name: x\noptions: {a: {b: 1, b: 2}}\n", 2, ["key 'b' stands twice"]),
        ("name: x\ninner:\n  steps: many\n", 3, ["'inner.steps' must be a whole number", "'many' (str)"]),
        ("name: x\ninner:\n  steps: 3.0\n", 3, ["'inner.steps' must be a whole number", "3.0 (float)"]),
        ("name: x\ninner:\n  steps: true\n", 3, ["'inner.steps' must be a whole number", "True (bool)"]),
        ("name: x\ninner:\n  lr: true\n", 3, ["'inner.lr' must be a number", "bool"]),
        ("name: x\ninner:\n  resume: 1\n", 3, ["'inner.resume' must be true or false"]),
        ("name: x\ninner:\n  resume: 'yes'\n", 3, ["'inner.resume' must be true or false"]),
        ("name: x\ninner:\n  schedule: cosin\n", 3, ["must be one of 'cosine', 'linear', 3"]),
        ("name: x\nrate: 2.5\n", 2, ["'rate' must be a whole number or empty"]),
        ("name: x\nfiles: alone\n", 2, ["'files' must be a list of text"]),
        ("name: x\nfiles: [a, 1]\n", 2, ["'files' must be a list of text"]),
        ("name: x\npair: [1, 2, 3]\n", 2, ["'pair' must be a list"]),
        ("name: x\ncounts: {a: b}\n", 2, ["'counts' must be"]),
        ("name: x\ncounts: [1]\n", 2, ["'counts' must be"]),
        ("name: 5\n", 1, ["'name' must be text", "5 (int)"]),
        ("name: null\n", 1, ["'name' must be text"]),
        ("name: 2020-01-02\n", 1, ["timestamp", "quote dates as strings"]),
        ("inner: {}\n", 1, ["key 'name' is missing"]),
        ("name: x\ninner: [1]\n", 2, ["'inner' must be a mapping"]),
        ("name: x\ninner: 5\n", 2, ["'inner' must be a mapping"]),
        ("- name\n", 1, ["'top' must be a mapping"]),
        ("just text\n", 1, ["'top' must be a mapping"]),
        ("name: x\ninner:\n  lr: 0\n", 3, ["inner.lr must be above 0"]),
        ("name: x\noptions: {[1, 2]: 3}\n", 2, ["keys must be plain words"]),
        ("base: &b {lr: 1.0}\nname: x\ninner:\n  <<: *b\n", 1, ["unknown key 'base'"]),
        ("name: x\ninner:\n  <<: {lr: 1.0}\n", 3, ["keys must be plain words"]),
        ("name: x\ninner:\n\tlr: 1\n", 3, ["not valid YAML"]),
        ("name: [x\n", 2, ["not valid YAML"]),
        ("name: x\ninner: *nobody\n", 2, ["not valid YAML", "undefined alias"]),
        ("name: x\ninner: {lr: .nan}\n", 2, ["'inner.lr' must be finite"]),
        ("name: x\noptions: {a: -.inf}\n", 2, ["must be finite"]),
        ("name: x\ninner: {lr: 1e999}\n", 2, ["'inner.lr' must be finite"]),
        ("name: x\ninner: {lr: 1" + "0" * 400 + "}\n", 2, ["'inner.lr' must be a number"]),
        ("name: x\nrate: !!int abc\n", 2, ["not what its tag says"]),
        ("name: x\ninner: {resume: !!bool perhaps}\n", 2, ["not what its tag says"]),
        ("name: x\nrate: 0x_\n", 2, ["not what its tag says"]),
    ],
)
def test_a_mistake_names_its_line_and_key(text, line, parts):
    message = fails(text)
    assert message.startswith(f"r.yaml, line {line}: "), message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object:os.system {}\n",
        "name: !!python/object/apply:os.system ['echo pwned']\n",
        "name: x\noptions: {a: !!python/name:os.system ''}\n",
        "name: x\noptions: !!python/object/new:collections.OrderedDict []\n",
        "name: x\ninner: !!python/dict {lr: 1.0}\n",
        "name: x\noptions: {a: !!python/tuple [1]}\n",
        "name: x\noptions: {a: !!set {1}}\n",
        "name: x\noptions: {a: !!binary aGk=}\n",
        "name: x\noptions: {a: !include other.yaml}\n",
        "name: x\noptions: {a: !ENV '${HOME}'}\n",
    ],
)
def test_tags_are_refused(text):
    assert "is refused; plain YAML only" in fails(text)


def test_nothing_of_the_environment_comes_in(monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    assert config.loads("name: ${SECRET} $SECRET", Outer).name == "${SECRET} $SECRET"


def test_an_alias_bomb_is_refused_soon():
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    message = fails("name: x\noptions:\n" + "\n".join(f"  {row}" for row in rows))
    assert "aliases expanded" in message


def test_a_plain_alias_is_fine():
    read = config.loads("name: x\ninner: &i {lr: 0.5}\nother: *i\n", Outer)
    assert read.inner == read.other == Inner(lr=0.5)


@pytest.mark.parametrize("text", ["name: x\noptions: {a: &a [*a]}\n", "name: x\noptions: &o {a: *o}\n"])
def test_an_alias_of_itself_is_refused(text):
    assert "alias contains itself" in fails(text) or "aliases expanded" in fails(text)


def test_nesting_without_end_is_refused():
    message = fails("name: x\noptions: {a: " + "[" * 5000 + "]" * 5000 + "}")
    assert "nested too deep" in message


def test_more_than_a_megabyte_is_refused(tmp_path):
    assert "refused" in fails("name: x\n#" + "y" * (1 << 20))
    assert "refused" in fails("name: x\n#" + "é" * (3 << 18))  # fewer characters than bytes
    assert config.loads("name: x\n#" + "y" * ((1 << 20) - 10), Outer).name == "x"


@pytest.mark.parametrize(("text", "count"), [("name: x\n---\nname: y\n", 2), ("", 0), ("# only words\n", 0)])
def test_one_document_is_needed(text, count):
    assert f"one YAML document is needed, found {count}" in fails(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E3", 1000.0), ("+1.5e2", 150.0), ("1.e-2", 0.01), (".5e1", 5.0), ("3", 3.0), ("0.1", 0.1)],
)
def test_numbers_as_people_write_them(text, value):
    read = config.loads(f"name: x\ninner: {{lr: {text}}}\noptions: {{lr: {text}}}", Outer)
    assert read.inner.lr == read.options["lr"] == value


def test_a_quoted_number_is_text():
    assert config.loads("name: '1e5'", Outer).name == "1e5"
    assert "'inner.lr' must be a number" in fails("name: x\ninner: {lr: '1e-4'}")


def test_an_empty_section_has_its_defaults():
    assert config.loads("name: x\ninner:\n", Outer).inner == Inner()


def test_load_names_the_file(tmp_path):
    good, bad, binary = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "bin.yaml"
    good.write_bytes("\ufeffname: ä\r\n".encode())
    bad.write_text("name: x\nx: 1\n")
    binary.write_bytes(b"name: \xff\xfe")
    assert config.load(good, Outer) == Outer(name="ä")
    with pytest.raises(ConfigError, match=r"bad\.yaml, line 2: unknown key 'x'"):
        config.load(bad, Outer)
    with pytest.raises(ConfigError, match=r"bin\.yaml: not UTF-8"):
        config.load(binary, Outer)
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such recipe"):
        config.load(tmp_path / "gone.yaml", Outer)
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path, Outer)
    bad.write_bytes(b"name: x\0y\n")
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        config.load(bad, Outer)
    assert "\n" not in str(caught.value)


finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=12) | st.sampled_from(
    ["1e5", "0x1f", "null", "yes", "~", "1:30", "2020-01-01", "<<", "=", "", "\x85", "a\u2028b", "\ufeff", "#x", "a: b"]
)
inners = st.builds(
    Inner,
    lr=finite.filter(lambda x: x > 0),
    steps=st.integers(-(10**30), 10**30),
    schedule=st.sampled_from(["cosine", "linear", 3]),
    resume=st.booleans(),
)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
outers = st.builds(
    Outer,
    name=texts,
    inner=inners,
    other=st.none() | inners,
    files=st.lists(texts, max_size=3).map(tuple),
    pair=st.tuples(st.integers(), finite),
    tags=st.lists(texts, max_size=3),
    options=st.dictionaries(texts, json_like, max_size=3),
    counts=st.dictionaries(texts, st.integers(), max_size=3),
    rate=st.none() | st.integers(),
    either=st.integers() | texts,
)


@settings(max_examples=150, deadline=None)
@given(outers)
def test_dumps_is_read_back_equal(value):
    assert config.loads(config.dumps(value), Outer) == value
    assert config.from_dict(Outer, config.to_dict(value)) == value


@settings(max_examples=50, deadline=None)
@given(outers)
def test_dumps_is_plain_yaml_for_everybody_else(value):
    """An independent reader (PyYAML's own safe loader) sees the same values."""

    def plain(thing):
        if dataclasses.is_dataclass(thing):
            return {f.name: plain(getattr(thing, f.name)) for f in dataclasses.fields(thing)}
        if isinstance(thing, dict):
            return {k: plain(v) for k, v in thing.items()}
        return [plain(v) for v in thing] if isinstance(thing, list | tuple) else thing

    assert yaml.safe_load(config.dumps(value)) == plain(value)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        config.loads(text, Outer, "r.yaml")
    except ConfigError as error:
        assert str(error).startswith("r.yaml") and len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1, float, 1.0),
        ([1, 2], tuple[int, ...], (1, 2)),
        ((1, 2), list[float], [1.0, 2.0]),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        (None, int | None, None),
        ({"lr": 2}, Inner, Inner(lr=2.0)),
        ("x", Any, "x"),
        ([], list, []),
    ],
)
def test_coerce(value, kind, expected):
    assert config.coerce(value, kind) == expected
    assert type(config.coerce(value, kind)) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, int), (1.0, int), ("1", int), (1, str), (1, bool), ([1], tuple[int, int]), (None, str), (True, Literal[1])],
)
def test_coerce_guesses_nothing(value, kind):
    with pytest.raises(TypeError):
        config.coerce(value, kind)


def test_a_path_is_written_as_text():
    @dataclass
    class Holder:
        path: Path

    assert config.to_dict(Holder(Path("a/b"))) == {"path": "a/b"}


def test_floats_survive_to_the_last_bit():
    value = Inner(lr=math.nextafter(0.1, 1))
    assert config.loads(config.dumps(value), Inner).lr == math.nextafter(0.1, 1)
