"""What `import` and `export` share: options of a format, and the list of formats."""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel

from mtrouter_rl.cards.reading import parse_yaml
from mtrouter_rl.errors import InvalidConfigError


def parse_options(texts: Sequence[str]) -> dict[str, object]:
    """Options given as NAME=VALUE, the value in YAML.

    Raises:
        InvalidConfigError: If a text is not of that form.

    Example:
        >>> parse_options(["hidden_tokens=1000", "name=x"])
        {'hidden_tokens': 1000, 'name': 'x'}
    """
    options: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise InvalidConfigError(f"--option is '{text}', must be NAME=VALUE")
        try:
            options[name] = parse_yaml(value)
        except ValueError as error:
            raise InvalidConfigError(f"--option {name}: '{value}' is no YAML value: {error}") from error
    return options


def describe_format(name: str, description: str, options: type[BaseModel] | None = None) -> dict[str, object]:
    """What a format and its options are."""
    fields = {} if options is None else options.model_fields
    return {
        "name": name,
        "description": description,
        "options": [
            {
                "name": option,
                "required": field.is_required(),
                "default": None if field.is_required() else field.default,
                "description": field.description or "",
            }
            for option, field in fields.items()
        ],
    }


def format_list(formats: Iterable[Mapping[str, object]]) -> str:
    """The formats as text: a line each, and one for each option."""
    lines: list[str] = []
    for one in formats:
        lines.append(f"{one['name']}: {one['description']}")
        for option in one["options"]:  # type: ignore[attr-defined]
            default = "required" if option["required"] else f"default {option['default']!r}"
            lines.append(f"    {option['name']} ({default}): {option['description']}")
    return "\n".join(lines)
