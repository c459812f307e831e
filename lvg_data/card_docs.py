"""The table of every field of a card, written from the schema into `manifests/README.md`.

Run `python -m lvg_data.card_docs` after a change of `lvg_data/config.py`; a test compares the two.
"""

from __future__ import annotations

import importlib.resources
import inspect
from fractions import Fraction
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from lvg_data.config import SOURCE_KINDS, Card, Model, models_in

START = "<!-- fields: written by python -m lvg_data.card_docs -->"
STOP = "<!-- end of fields -->"


def readme_path() -> Path:
    return Path(str(importlib.resources.files("manifests"))) / "README.md"


def with_fields(text: str) -> str:
    """A README whose part between the two markers describes the schema as it is.

    Raises:
      ValueError: the markers are not there, once each and in order.
    """
    before, start, rest = text.partition(START)
    _, stop, after = rest.partition(STOP)
    if not start or not stop or START in after or STOP in after:
        raise ValueError(f"the text must hold {START} and, below it, {STOP}, once each")
    return f"{before}{START}\n\n{fields_text()}\n{STOP}{after}"


def fields_text() -> str:
    """Markdown: a heading, a line and a table for each model of a card."""
    return "\n".join(_section(heading, model) for heading, model in models_by_heading().items())


# ---- sections


def models_by_heading() -> dict[str, type[Model]]:
    """Every model of a card by its heading: the card, the kinds of source, then field by field what is below."""
    kinds = {f"kind: {kind}": model for kind, model in SOURCE_KINDS.items()}
    headings: dict[str, type[Model]] = {"card": Card, **kinds}
    waiting = list(headings.values())
    while waiting:
        for name, field in waiting.pop(0).model_fields.items():
            for model in models_in(field.annotation):
                if model not in headings.values():
                    headings[name] = model
                    waiting.append(model)
    return headings


def _section(heading: str, model: type[Model]) -> str:
    rows = [_row(model, name) for name in model.model_fields if name != "kind"]
    title = "The card" if model is Card else f"`{heading}`"
    table = ["| field | type | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join([f"### {title}", "", inspect.getdoc(model) or "", "", *table, ""])


def _row(model: type[Model], name: str) -> str:
    hints = get_type_hints(model, include_extras=True)
    cells = (
        f"`{name}`",
        type_words(hints[name], name),
        _default_words(model, name),
        description(model, name),
    )
    return f"| {' | '.join(_cell(text) for text in cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def description(model: type[Model], name: str) -> str:
    """What is written below a field, or below the one of a base class whose default it changes."""
    for base in model.__mro__:
        field = base.model_fields.get(name) if issubclass(base, Model) else None
        if field is not None and field.description:
            return field.description
    return ""


def _default_words(model: type[Model], name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    default = field.get_default()
    if isinstance(default, Model):
        return "its defaults"
    plain = str(default) if isinstance(default, Fraction) else default
    text = yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()
    return f"`{text}`{_binary_size(default) if name.endswith('_bytes') else ''}"


def _binary_size(size_bytes: int) -> str:
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if size_bytes >= 1 << power:
            return f" ({size_bytes / (1 << power):g} {unit})"
    return ""


# ---- types


def type_words(annotation: Any, name: str) -> str:
    """A type as one would say it: "whole number, 1 to 100", "list of [items](#items)".

    Args:
      name: of the field, which is the heading of the model inside it.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated_words(*arguments, name=name)
    if origin in (Union, UnionType):
        if all(isinstance(part, type) and issubclass(part, Model) for part in arguments):
            return "one of the kinds below"
        return ", or ".join("`null`" if part is NoneType else type_words(part, name) for part in arguments)
    if origin is Literal:
        return f"one of {', '.join(f'`{value}`' for value in arguments)}"
    if origin is tuple:
        return f"list of {type_words(arguments[0], name)}"
    if origin is dict:
        return f"mapping of {type_words(arguments[0], name)} to {type_words(arguments[1], name)}"
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return f"[{name}](#{name})"
    words = {str: "text", bool: "true or false", int: "whole number", float: "number", Any: "any value"}
    return words[annotation]


def _annotated_words(annotation: Any, *metadata: Any, name: str) -> str:
    fields = [m for m in metadata if isinstance(m, FieldInfo)]
    titles = [field.title for field in fields if field.title]
    if titles:
        return titles[0]
    words = type_words(annotation, name)
    limits = _limit_words([limit for field in fields for limit in field.metadata])
    return f"{words}, {limits}" if limits else words


def _limit_words(metadata: list[Any]) -> str:
    """Limits of a number: "0 to 1", "1 or more", "above 0"."""
    low = [str(m.ge) for m in metadata if isinstance(m, Ge)] + [
        f"above {m.gt}" for m in metadata if isinstance(m, Gt)
    ]
    high = [str(m.le) for m in metadata if isinstance(m, Le)]
    if low and high:
        return f"{low[0]} to {high[0]}"
    return f"{low[0]} or more" if low and low[0].isdecimal() else "".join(low or [f"up to {m}" for m in high])


def main() -> None:
    path = readme_path()
    path.write_text(with_fields(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
