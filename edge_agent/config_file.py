"""agent-config.yaml -> text by key, with line numbers. The one home of PyYAML.

YAML's own idea of types is not used: a scalar stays the text that was typed (`id: 007`, `id: on`)
until the setting's type reads it. Anchors and aliases work; merge keys and tags do not.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from edge_agent.config_table import Shape
from edge_agent.settings import REDACTED, ConfigError, nearest, shown


@dataclass(frozen=True, slots=True)
class Written:
    """What the file says about one setting: text, texts, or text by name; `line` counts from 1."""

    value: str | tuple[str, ...] | Mapping[str, str]
    line: int


def read_yaml(
    text: str, file: str, shapes: Mapping[str, Shape]
) -> tuple[dict[str, Written], list[str]]:
    """The settings in `text` by full key, and what is wrong with the rest of it.

    `shapes` holds every key there is. Null and blank values count as not written.
    """
    reader = _Reader(file, shapes)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            reader.section(root, "")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = file if mark is None else f"{file}:{mark.line + 1}"
        problem = " ".join(part for part in (error.context, error.problem) if part)
        # A secret that began with an &, * or ! is one of these names to PyYAML.
        problem = re.sub(r"(alias|anchor|handle) (['\"]).*\2", rf"\1 {REDACTED}", problem)
        return {}, [f"{where}: not YAML ({problem}); correct it"]
    except yaml.YAMLError:
        # A ReaderError names the character, which may be part of a secret.
        return {}, [f"{file}: has a character YAML does not allow; write it in plain UTF-8"]
    except RecursionError:
        return {}, [f"{file}: nested too deeply; write sections and keys alone"]
    return reader.found, reader.problems


class _Reader:
    def __init__(self, file: str, shapes: Mapping[str, Shape]) -> None:
        self.found: dict[str, Written] = {}
        self.problems: list[str] = []
        self._file = file
        self._shapes = shapes
        self._sections = {
            key.rsplit(".", depth)[0] for key in shapes for depth in range(1, key.count(".") + 1)
        }

    def section(self, node: yaml.Node, prefix: str) -> None:
        """Read a mapping whose keys continue `prefix`."""
        for key, line, value in self._pairs(node, prefix):
            # `a.b: x` on one line is as good as `a:` and `b: x` below it.
            full_key = f"{prefix}.{key}" if prefix else key
            if full_key in self._sections:
                self.section(value, full_key)
            elif full_key not in self._shapes:
                self._unknown(full_key, line)
            else:
                self._setting(full_key, value, line)

    def _setting(self, key: str, node: yaml.Node, line: int) -> None:
        try:
            value = self._value(key, node)
        except ConfigError as error:
            self._problem(node.start_mark.line + 1, f"{key} {error}")
            return
        if key in self.found:
            self._problem(line, f"{key} is written twice; remove one")
        elif value:
            self.found[key] = Written(value, line)

    def _value(self, key: str, node: yaml.Node) -> str | tuple[str, ...] | Mapping[str, str]:
        if _is_null(node):
            return ""
        match self._shapes[key]:
            case Shape.ONE:
                return _text(node, "is one value; write it behind the colon")
            case Shape.LIST:
                if not isinstance(node, yaml.SequenceNode):
                    raise ConfigError("is a list; write each value behind a dash")
                remedy = "is a list of texts; write each behind a dash"
                texts = (_text(item, remedy) for item in node.value if not _is_null(item))
                return tuple(text for text in texts if text)
            case Shape.MAP:
                remedy = "is a map of texts; write name: text on lines below it"
                pairs: dict[str, str] = {}
                for name, _, item in self._pairs(node, key):
                    if not _is_null(item) and (text := _text(item, remedy)):
                        pairs[name] = text
                return pairs

    def _pairs(self, node: yaml.Node, prefix: str) -> Iterator[tuple[str, int, yaml.Node]]:
        if _is_null(node):
            return
        line = node.start_mark.line + 1
        name = prefix or "the file"
        if not isinstance(node, yaml.MappingNode):
            self._problem(line, f"{name} holds settings of its own; write name: value below it")
            return
        names: set[str] = set()
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                self._problem(line, f"a key of {name} is not a name; write name: value")
            elif key_node.tag == "tag:yaml.org,2002:merge":
                self._problem(line, "merge keys (<<) are not read; write the keys out")
            elif key_node.value in names:
                twice = f"{prefix}.{key_node.value}" if prefix else key_node.value
                self._problem(line, f"{shown(twice)} is written twice; remove one")
            else:
                names.add(key_node.value)
                yield key_node.value, line, value

    def _unknown(self, key: str, line: int) -> None:
        guess = nearest(key, [*self._shapes, *self._sections])
        hint = f"the nearest known is {guess}; " if guess else ""
        self._problem(line, f"{shown(key)} is not a known key; {hint}correct or remove it")

    def _problem(self, line: int, message: str) -> None:
        self.problems.append(f"{self._file}:{line}: {message}")


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _text(node: yaml.Node, remedy: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(remedy)
    if not node.tag.startswith("tag:yaml.org,2002:"):
        raise ConfigError(f"has the tag {shown(node.tag)}; remove it")
    text: str = node.value
    return text.strip()
