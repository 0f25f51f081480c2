"""registry.py: names are found, unknown ones told with the nearest, and other packages can bring their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ecglm import registry
from ecglm.errors import ConfigError
from ecglm.registry import register


@pytest.fixture
def own_registry(monkeypatch):
    """Changes of a test stay in the test."""
    monkeypatch.setattr(registry, "_things", {kind: dict(things) for kind, things in registry._things.items()})
    monkeypatch.setattr(registry, "_loaded", set(registry._loaded))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("records", {"ptb-xl", "folder", "synthetic"}),
        ("pipelines", {"default", "ecg_bench"}),
        ("conversations", {"labels", "ecg-qa-ptbxl"}),
        ("representations", {"signal", "symbols"}),
        ("encoders", {"resnet1d"}),
        ("augmentations", {"noise", "wander", "electrode-swap"}),
        ("controls", {"blank", "noise", "swap", "no-ecg", "perturb-noise"}),
        ("objectives", {"sft"}),
    ],
)
def test_what_the_package_brings(kind, expected):
    assert expected <= set(registry.names(kind))
    assert registry.names(kind) == sorted(registry.names(kind))
    for name in expected:
        assert registry.get(kind, name) is registry.get(kind, name)


@pytest.mark.parametrize("kind", sorted(registry.HOMES))
def test_every_kind_has_something(kind):
    assert registry.names(kind)


def test_a_name_is_found_in_a_fresh_process_without_loading_the_rest():
    code = (
        "import sys; from ecglm import registry; print(registry.get('records', 'synthetic').__name__); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["Synthetic", "False"]


def test_an_unknown_name_is_told_with_the_nearest(own_registry):
    with pytest.raises(ConfigError, match=r"no records named 'ptbxl' \(did you mean 'ptb-xl'\?\); known: .*synthetic"):
        registry.get("records", "ptbxl")
    with pytest.raises(ConfigError, match=r"no kind 'record' \(did you mean 'records'\?\); kinds: "):
        registry.get("record", "ptb-xl")
    with pytest.raises(ConfigError) as caught:
        registry.get("encoders", "qqqqqqqq")
    assert "did you mean" not in str(caught.value) and "known: " in str(caught.value)


def test_a_name_never_imports_what_it_spells(own_registry):
    for name in ("os.system", "ecglm.files.write_text", "../x", "", "__class__"):
        with pytest.raises(ConfigError, match="no encoders named"):
            registry.get("encoders", name)


def test_registering_twice_is_an_error_unless_it_is_the_same_thing(own_registry):
    def one():
        pass

    def other():
        pass

    assert register("metrics", "mine")(one) is one
    assert register("metrics", "mine")(one) is one
    with pytest.raises(ConfigError, match="metrics 'mine' is registered twice"):
        register("metrics", "mine")(other)
    assert registry.get("metrics", "mine") is one


class FakePlugin:
    def __init__(self, load):
        self.load = load


def test_another_packages_things_come_by_entry_point(own_registry, monkeypatch):
    asked = []

    def plug():
        register("records", "hospital")(FakePlugin)
        register("encoders", "hospital-net")(FakePlugin)

    def entry_points(*, group):
        asked.append(group)
        return [FakePlugin(plug)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    registry._loaded.clear()
    assert registry.get("records", "hospital") is FakePlugin
    assert "hospital-net" in registry.names("encoders") and "resnet1d" in registry.names("encoders")
    assert set(asked) == {"ecglm.plugins"}


def test_a_plugin_cannot_take_a_name_of_ours(own_registry, monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: [FakePlugin(lambda: register("records", "ptb-xl")(1))])
    registry._loaded.discard("records")
    with pytest.raises(ConfigError, match="'ptb-xl' is registered twice"):
        registry.names("records")
