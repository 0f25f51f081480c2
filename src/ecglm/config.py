"""Strict YAML ⇄ dataclasses: an unknown key, a wrong type or a duplicate key is an error that names its line."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ecglm.errors import ConfigError, nearest

T = TypeVar("T")

MAX_BYTES = 1 << 20
MAX_NODES = 20_000  # counted with aliases expanded, which bounds an alias bomb

_SCALARS = {
    "tag:yaml.org,2002:str": str,
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:bool": bool,
    "tag:yaml.org,2002:null": type(None),
}


class _Reader:
    """Walks the node tree of one file; nodes keep their line, which plain loading would lose."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_nodes = 0
        self.constructor = yaml.constructor.SafeConstructor()

    def fail(self, node: yaml.Node, message: str) -> ConfigError:
        return ConfigError(f"{self.name}, line {node.start_mark.line + 1}: {message}")

    def plain(self, node: yaml.Node, path: str) -> Any:
        """A node as None, bool, int, float, str, list or dict."""
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise self.fail(node, f"more than {MAX_NODES} values (aliases expanded); refused")
        if isinstance(node, yaml.MappingNode):
            return {key: self.plain(child, f"{path}.{key}") for key, (_, child) in self.items(node, path).items()}
        if isinstance(node, yaml.SequenceNode):
            if node.tag != "tag:yaml.org,2002:seq":
                raise self.fail(node, f"tag {node.tag} at '{path}' is refused; plain YAML only")
            return [self.plain(child, f"{path}[{i}]") for i, child in enumerate(node.value)]
        if node.tag not in _SCALARS:
            raise self.fail(node, f"tag {node.tag} at '{path}' is refused; plain YAML only (quote dates as strings)")
        try:
            value = self.constructor.construct_object(node)
        except (ValueError, KeyError) as error:  # `!!int abc`, `0x_`
            raise self.fail(node, f"{node.value[:80]!r} at '{path}' is not what its tag says") from error
        if getattr(node, "style", None) is None:  # a quoted '1e-4' stays text
            value = _exponent_float(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.fail(node, f"'{path}' must be finite, found {node.value}")
        return value

    def items(self, node: yaml.MappingNode, path: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key → (node of the key, node of its value)."""
        if node.tag != "tag:yaml.org,2002:map":
            raise self.fail(node, f"tag {node.tag} at '{path or 'top'}' is refused; plain YAML only")
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _SCALARS:
                raise self.fail(key, "keys must be plain words")
            if key.value in found:
                first = found[key.value][0].start_mark.line + 1
                raise self.fail(key, f"key '{key.value}' stands twice (first on line {first})")
            found[key.value] = key, child
        return found

    def build(self, node: yaml.Node, kind: Any, path: str) -> Any:
        """A node as the type ``kind``; dataclasses are read key by key so that every error has its own line."""
        if dataclasses.is_dataclass(kind):
            return self.dataclass(node, typing.cast(type, kind), path)
        args = [a for a in typing.get_args(kind) if a is not type(None)]
        is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
        if is_union and isinstance(node, yaml.MappingNode):
            for option in args:
                if dataclasses.is_dataclass(option):
                    return self.dataclass(node, typing.cast(type, option), path)
        value = self.plain(node, path)
        try:
            return coerce(value, kind)
        except TypeError:
            raise self.fail(
                node, f"'{path}' must be {describe(kind)}, found {repr(value)[:200]} ({type(value).__name__})"
            ) from None

    def dataclass(self, node: yaml.Node, kind: type[T], path: str) -> T:
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
            node = yaml.MappingNode("tag:yaml.org,2002:map", [], node.start_mark, node.end_mark)
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"'{path or 'top'}' must be a mapping of keys to values")
        hints = typing.get_type_hints(kind)
        known = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
        values: dict[str, Any] = {}
        for key, (key_node, child) in self.items(node, path).items():
            where = f"{path}.{key}" if path else key
            if key not in known:
                raise self.fail(key_node, f"unknown key '{where}'{nearest(key, known)}; valid keys: {', '.join(known)}")
            values[key] = self.build(child, hints[key], where)
        missing = [
            n
            for n, f in known.items()
            if n not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise self.fail(node, f"key '{f'{path}.' if path else ''}{missing[0]}' is missing")
        try:
            return kind(**values)
        except ValueError as error:  # from a dataclass's own __post_init__ checks
            raise self.fail(node, str(error)) from error


def _exponent_float(value: Any) -> Any:
    """YAML 1.1 reads ``1e-4`` as a string; everybody who writes it means a number."""
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def coerce(value: Any, kind: Any) -> Any:
    """``value`` as the annotated type ``kind``; TypeError when it is another type. Ints are accepted as floats."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return coerce(value, option)
            except TypeError:
                continue
        raise TypeError
    if origin is typing.Literal:
        if any(value == a and type(value) is type(a) for a in args):
            return value
        raise TypeError
    if origin in (list, tuple, Sequence):
        if not isinstance(value, list | tuple):
            raise TypeError
        if origin is Sequence:
            origin = tuple
        inner = args[0] if args else Any
        if origin is tuple and args and args[-1] is not Ellipsis:
            if len(args) != len(value):
                raise TypeError
            return tuple(coerce(v, a) for v, a in zip(value, args, strict=True))
        return origin(coerce(v, inner) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError
        return {coerce(k, args[0]): coerce(v, args[1]) for k, v in value.items()}
    if dataclasses.is_dataclass(kind):
        if isinstance(value, dict):
            return from_dict(typing.cast(type, kind), value)
        raise TypeError
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise TypeError from error
    if kind in (int, float, str, bool, type(None)):
        if type(value) is kind:
            return value
        raise TypeError
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise TypeError


def describe(kind: Any) -> str:
    """A type as a user reads it: ``one of 'a', 'b'``, ``a number``, ``a list of …``."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin in (list, tuple, Sequence):
        return f"a list of {describe(args[0])}" if args else "a list"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "empty"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def loads(text: str, kind: type[T], name: str = "recipe") -> T:
    """Parse YAML text into the dataclass ``kind``; ConfigError naming ``name`` and the line for anything unexpected."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES} bytes; refused")
    reader = _Reader(name)
    try:
        nodes = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{name}{line}: not valid YAML ({problem})") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: nested too deep; refused") from error
    if len(nodes) != 1 or nodes[0] is None:
        raise ConfigError(f"{name}: one YAML document is needed, found {len([n for n in nodes if n])}")
    try:
        return reader.build(nodes[0], kind, "")
    except RecursionError as error:
        raise ConfigError(f"{name}: an alias contains itself, or is nested too deep; refused") from error


def load(path: str | Path, kind: type[T]) -> T:
    """Read a YAML recipe into the dataclass ``kind``."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such recipe") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    return loads(text, kind, str(path))


class _Dumper(yaml.SafeDumper):
    """Quotes texts that would be read back otherwise (``1e5`` as a number, U+0085 as a line end); no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.Node:
        style = "'" if isinstance(_exponent_float(data), float) else None
        if any(c in data for c in "\x85\u2028\u2029\ufeff"):
            style = '"'  # the only style that escapes what a reader takes for line ends
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.text)


def dumps(value: Any) -> str:
    """A dataclass as YAML that ``loads`` reads back equal."""
    return yaml.dump(to_dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def to_dict(value: Any) -> Any:
    """A dataclass (nested) as JSON-able values; tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [to_dict(v) for v in value]
    if isinstance(value, dict):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, Path):
        return str(value)
    return value


def from_dict(kind: type[T], values: dict[str, Any], name: str = "config") -> T:
    """The reverse of ``to_dict``, with the checks of ``loads``."""
    return loads(dumps(values), kind, name)
