"""Declarations of TOML tables: one declaration reads a table, checks it, and gives its JSON Schema (draft 2020-12)."""

from __future__ import annotations

from dataclasses import KW_ONLY, MISSING, dataclass, fields, is_dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, cast, get_type_hints

from builder.host.records import DIALECT
from builder.host.toml import documents
from builder.host.toml.tables import REQUIRED, pattern_of
from builder.host.wording import printable, suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path as FilePath

    from builder.host.toml.positions import Path
    from builder.host.toml.tables import Table

    _Names = Iterable[str] | Callable[[], Iterable[str]]

_T = TypeVar("_T")
Schema = dict[str, Any]
# Whether a stronger layer replaces the value of a weaker one, or puts its items first.
Merge = Literal["replace", "prepend"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueType:
    """A type of value.

    `read` takes the table, the key and the reader's context, notes mistakes in the document, and returns the value, or
    None if it is unusable. A type that is `always` read has a value for an absent key, too.
    """

    read: Callable[[Table, str, Any], Any]
    schema: Callable[[], Schema]
    always: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A key of a table: `name` as users write it; with a dot, the key of a table in it.

    Attributes:
        description: A sentence for users; editors show it.
        argument: Argument of the builder that takes the value; by default the key with `_`.
        required: Whether the key must be present; message and hint if an empty list is a mistake, too.
        merge: How layers of the configuration are merged.
        variables: Environment variables beside jbuild's own; they are stronger than files.
        fallback_variables: Environment variables that count only if nothing else sets the key.
    """

    name: str
    type: ValueType
    description: str
    argument: str = ""
    _: KW_ONLY
    required: bool | tuple[str, str] = False
    merge: Merge = "replace"
    variables: tuple[str, ...] = ()
    fallback_variables: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "argument", self.argument or self.key.replace("-", "_"))

    @property
    def key(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    def read(self, table: Table, context: Any) -> dict[str, Any]:
        """Return the argument that this key sets; none if the key is absent or unusable."""
        if isinstance(self.required, tuple) and table.raw(self.key) in (None, []):
            table.problem(self.key, *self.required)
        elif self.required or self.type.always or self.key in table:
            value = self.type.read(table, self.key, context)
            if value is not None:
                return {self.argument: value}
        return {}

    def schema(self, default: object) -> Schema:
        """Return the JSON Schema, with the default if it is a plain value."""
        schema = {"description": self.description, **self.type.schema()}
        if isinstance(self.required, tuple) and schema["type"] == "array":
            schema["minItems"] = 1
        if isinstance(default, (str, int, float)) or (isinstance(default, tuple) and default):
            schema["default"] = list(default) if isinstance(default, tuple) else default
        return schema


def under(table: str, *fields: Field) -> tuple[Field, ...]:
    """Return fields with the name of their table."""
    return tuple(replace(field, name=f"{table}.{field.name}") for field in fields)


class TableDeclaration(Generic[_T]):
    """A table: its fields, and the builder that takes their values.

    `tables` describes the tables of fields with dots. `record` is the dataclass with the defaults, if `build` is not
    one itself. `check` notes mistakes that several keys make together; `constraints` state them in the JSON Schema.
    """

    def __init__(
        self,
        build: Callable[..., _T],
        *fields: Field,
        tables: Mapping[str, str] = MappingProxyType({}),
        record: type | None = None,
        check: Callable[[Table, _T, Any], None] | None = None,
        constraints: Schema | None = None,
    ) -> None:
        self.build, self.fields, self.tables, self.check = build, fields, tables, check
        self.record, self.constraints = record or build, constraints or {}

    def read(self, table: Table, context: Any = None) -> _T:
        """Read a table; mistakes and unknown keys are noted in its document."""
        inner = {name: table.table(name) for name in self.tables} | {"": table}
        values: dict[str, Any] = {}
        for field in self.fields:
            holder = inner[field.name.rpartition(".")[0]]
            holder.expect([field.key])
            values.update(field.read(holder, context))
        result = self.build(**values)
        if self.check:
            self.check(table, result, context)
        for finished in inner.values():
            finished.done()
        return result

    def schema(self) -> Schema:
        """Return the JSON Schema."""
        defaults = {f.name: f.default for f in fields(self.record)} if is_dataclass(self.record) else {}
        objects = {"": _object()} | {name: {"description": text} | _object() for name, text in self.tables.items()}
        for field in self.fields:
            table, _, key = field.name.rpartition(".")
            objects[table]["properties"][key] = field.schema(defaults.get(field.argument))
            if field.required:
                objects[table].setdefault("required", []).append(key)
        root = objects.pop("")
        root["properties"].update(objects)
        required = [*root.get("required", ()), *(name for name, schema in objects.items() if "required" in schema)]
        return root | ({"required": required} if required else {}) | self.constraints

    def document_schema(self, title: str, description: str) -> Schema:
        """Return the JSON Schema of a document whose top table this is."""
        return {"$schema": DIALECT, "title": title, "description": description, **self.schema()}


def declaration_of(
    kind: type[_T],
    *,
    keys: Mapping[str, str] = MappingProxyType({}),
    check: Callable[[Table, _T, Any], None] | None = None,
) -> TableDeclaration[_T]:
    """Return the declaration of a dataclass: each field is `Annotated[..., type of value, description for users]`.

    A key is its field's name with `-`, unless `keys` has another one; it is required if the field has no default.
    """
    hints = get_type_hints(kind, include_extras=True)
    declared = []
    for field in fields(cast("Any", kind)):
        value_type, *description = hints[field.name].__metadata__
        key = keys.get(field.name, field.name.replace("_", "-"))
        is_required = field.default is MISSING and field.default_factory is MISSING
        declared.append(Field(key, value_type, "".join(description), field.name, required=is_required))
    return TableDeclaration(kind, *declared, check=check)


def _object() -> Schema:
    return {"type": "object", "properties": {}, "additionalProperties": False}


def anchored(pattern: str) -> str:
    """Return a pattern that matches a string as a whole: JSON Schema searches."""
    return f"^(?:{pattern})$"


def string_schema(pattern: str | None = None) -> Schema:
    """Return the JSON Schema of a string that matches a pattern as a whole."""
    return {"type": "string", **({"pattern": anchored(pattern)} if pattern else {})}


def list_schema(items: Schema, **more: Any) -> Schema:
    """Return the JSON Schema of a list."""
    return {"type": "array", "items": items, **more}


def string(pattern: str | None = None, noun: str = "a string") -> ValueType:
    """Return the type of strings that match a pattern as a whole."""
    return ValueType(
        read=lambda table, key, _: table.string(key, pattern=pattern, noun=noun), schema=lambda: string_schema(pattern)
    )


def strings(pattern: str | None = None, noun: str = "a list of strings") -> ValueType:
    """Return the type of lists of strings, each matching a pattern as a whole."""
    return ValueType(
        read=lambda table, key, _: table.strings(key, pattern=pattern, noun=noun),
        schema=lambda: list_schema(string_schema(pattern)),
    )


def some(pattern: str, noun: str) -> ValueType:
    """Return the type of lists of strings that must not be empty."""

    def read(table: Table, key: str, _: Any) -> tuple[str, ...]:
        if not table.raw(key):
            table.problem(key, f"`{key}` must not be empty")
        return table.strings(key, pattern=pattern, noun=noun)

    return ValueType(read=read, schema=lambda: list_schema(string_schema(pattern), minItems=1))


def regex() -> ValueType:
    """Return the type of regular expressions."""
    return ValueType(read=lambda table, key, _: pattern_of(table, key), schema=string_schema)


def boolean() -> ValueType:
    """Return the type of true and false."""
    return ValueType(
        read=lambda table, key, _: table.value(key, bool, None, "true or false"), schema=lambda: {"type": "boolean"}
    )


def integer(low: int, high: int, *, required: bool = False) -> ValueType:
    """Return the type of whole numbers within bounds; an unusable one that is `required` is read as `low`."""
    return _bounded("integer", int, "a whole number", low, high, required=required)


def number(low: float, high: float) -> ValueType:
    """Return the type of numbers within bounds."""
    return _bounded("number", (int, float), "a number", low, high)


def _bounded(name: str, kind: Any, noun: str, low: float, high: float, *, required: bool = False) -> ValueType:
    def read(table: Table, key: str, _: Any) -> Any:
        value = table.bounded(key, kind, REQUIRED if required else None, noun, low, high)
        return float(value) if name == "number" and value is not None else value

    return ValueType(read=read, schema=lambda: {"type": name, "minimum": low, "maximum": high})


def choice(names: _Names, message: str, noun: str) -> ValueType:
    """Return the type of strings out of a few; a wrong one is `{}` in `message`, and `noun` introduces the names."""

    def read(table: Table, key: str, _: Any) -> str:
        _check_names(table, (key,), table.raw(key), names, message, noun)
        return table.string(key)

    return ValueType(read=read, schema=lambda: _enum(names))


def choices(names: _Names, message: str, noun: str) -> ValueType:
    """Return the type of lists of strings out of a few."""

    def read(table: Table, key: str, _: Any) -> tuple[str, ...]:
        for index, item in enumerate(table.raw(key) if isinstance(table.raw(key), list) else ()):
            _check_names(table, (key, index), item, names, message, noun)
        return table.strings(key)

    return ValueType(read=read, schema=lambda: list_schema(_enum(names)))


def _check_names(table: Table, keys: Path, value: Any, names: _Names, message: str, noun: str) -> None:
    allowed = names() if callable(names) else names
    if isinstance(value, str) and value not in allowed:
        hint = suggest(value, allowed, noun=noun)
        table.problem(keys, message.format(f"`{printable(value)}`"), hint)


def _enum(names: _Names) -> Schema:
    return {"type": "string", "enum": list(names() if callable(names) else names)}


def string_map(keys: tuple[str, str], values: tuple[str, str]) -> ValueType:
    """Return the type of tables of strings, read as pairs in file order; `keys` and `values` are pattern and noun."""
    return ValueType(
        read=lambda table, key, _: table.string_map(key, keys, values),
        schema=lambda: {
            "type": "object",
            "propertyNames": {"pattern": anchored(keys[0])},
            "additionalProperties": string_schema(values[0]),
        },
    )


def boolean_map(keys: tuple[str, str]) -> ValueType:
    """Return the type of tables of true and false, read as pairs in file order; `keys` are pattern and noun."""
    return ValueType(
        read=lambda table, key, _: table.boolean_map(key, keys),
        schema=lambda: {
            "type": "object",
            "propertyNames": {"pattern": anchored(keys[0])},
            "additionalProperties": {"type": "boolean"},
        },
    )


def list_map(keys: tuple[str, str], items: tuple[str, str]) -> ValueType:
    """Return the type of tables of lists of strings, read as pairs in file order; both rules are pattern and noun."""
    return ValueType(
        read=lambda table, key, _: table.list_map(key, keys, items),
        schema=lambda: {
            "type": "object",
            "propertyNames": {"pattern": anchored(keys[0])},
            "additionalProperties": list_schema(string_schema(items[0])),
        },
    )


def nested(declaration: TableDeclaration[Any], *, always: bool = True) -> ValueType:
    """Return the type of one table, `always` read as an empty one if it is absent: it may have required keys."""
    return ValueType(
        read=lambda table, key, context: declaration.read(table.table(key), context),
        schema=declaration.schema,
        always=always,
    )


def tables(declaration: TableDeclaration[Any]) -> ValueType:
    """Return the type of arrays of tables, read as a tuple."""
    return ValueType(
        read=lambda table, key, context: rows(table, key, declaration, context=context),
        schema=lambda: list_schema(declaration.schema()),
    )


def rows(
    root: Table, key: str, declaration: TableDeclaration[_T], once: str | None = None, context: Any = None
) -> tuple[_T, ...]:
    """Read an array of tables; tables with the same value of the key `once` are a mistake."""
    records, seen = [], []
    for table in root.tables(key):
        records.append(declaration.read(table, context))
        name = table.raw(once) if once else None
        if name is not None and name in seen:
            table.problem(once, f"`{printable(str(name))}` is listed twice")
        seen.append(name)
    return tuple(records)


def load_rows(
    path: FilePath, title: str, key: str, declaration: TableDeclaration[_T], once: str | None = None
) -> tuple[_T, ...]:
    """Read a file that is an array of tables.

    Raises:
        DocumentError: it cannot be read, or has mistakes.
    """
    return documents.load(path, title, lambda root: rows(root, key, declaration, once))


Source = Annotated[str, string(".+", "a source")]
"""The source of a fact, which each row of jbuild's own tables has."""
