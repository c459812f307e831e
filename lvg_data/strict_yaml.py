"""YAML without its traps: every field once, and no text that grows a thousandfold when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1_000_000
#: scalars, lists and mappings of a file, each counted as often as an alias repeats it
MAX_NODES = 1_000_000
#: lists and mappings inside of each other; PyYAML takes time with the square of it
MAX_DEPTH = 50


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
      OSError: it cannot be read.
      ValueError: larger than MAX_BYTES, or as `parse_yaml`.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(
            f"larger than {MAX_BYTES:,} bytes; a long list of videos belongs in a file of its own"
        )
    return parse_yaml(content.decode("utf-8"))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
      ValueError: no YAML, a field that stands twice in one mapping, or aliases that repeat too much.
    """
    try:
        loader = _ShallowLoader(text)  # which looks at every character
    except yaml.YAMLError as err:
        raise ValueError(_said(err)) from err
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as err:
        raise ValueError(_said(err)) from err
    except (LookupError, AttributeError, TypeError, ArithmeticError) as err:
        raise ValueError(f"a value is not of the kind that its tag says: {err}") from err
    finally:
        loader.dispose()


class _ShallowLoader(yaml.SafeLoader):
    """PyYAML's loader for plain values, which fails where they are nested more than MAX_DEPTH deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _said(err: yaml.YAMLError) -> str:
    return str(err).replace('"<unicode string>", ', "")


def _count_nodes(node: yaml.Node, counts: dict[int, int]) -> int:
    """Nodes below and with this one; `counts` holds those of other nodes, 0 for one that is being counted."""
    if id(node) not in counts:
        counts[id(node)] = 0
        counts[id(node)] = 1 + sum(_count_nodes(child, counts) for child in _children(node))
    count = counts[id(node)]
    if count == 0:
        raise ValueError(f"line {_line(node)}: the value contains itself")
    if count > MAX_NODES:
        raise ValueError(f"line {_line(node)}: aliases repeat the values below more than {MAX_NODES:,} times")
    return count


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        _refuse_repeats(node)
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refuse_repeats(mapping: yaml.MappingNode) -> None:
    first: dict[tuple[str, str], yaml.Node] = {}
    for name, _ in mapping.value:
        if isinstance(name, yaml.ScalarNode):
            before = first.setdefault((name.tag, name.value), name)
            if before is not name:
                lines = f"line {_line(before)} and line {_line(name)}"
                raise ValueError(f"{name.value} is given twice, in {lines}; keep one of them")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
