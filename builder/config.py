"""The user's settings: mirrors, registries, hub, certificates. Files, weakest first, then the environment."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from builder import tomldoc
from builder.caches import Cache, read_caches
from builder.errors import DocumentError, Problem, RecipeError
from builder.index.model import DEFAULT
from builder.jetson.indexes import ADDRESS, own_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.jetson.indexes import IndexRow
    from builder.tomldoc import Table

Compression = Literal["zstd", "gzip"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
BUILDER_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
REGISTRY_PATTERN = r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._/-][a-z0-9]+)*)?"
_HOST = r"[A-Za-z0-9.-]+(:[0-9]+)?"
_IMAGE_NAME = r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._/-][a-z0-9]+)*)*"
_ADDRESS = r"https?://[^\s]+"
_MODEL_SOURCE = r"hf://[A-Za-z0-9._-]+/[A-Za-z0-9._-]+"
# Where Linux distributions keep the certificates that the system trusts.
_SYSTEM_CA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryMirror:
    """Images whose name begins with `prefix` are taken from `mirror`; `stand_in` says if and why it is not the same."""

    prefix: str
    mirror: str
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexMirror:
    """Package indexes whose address begins with `prefix` are asked at `mirror`.

    A `fallback` is asked only when the index itself fails. The prefix `default` means uv's own default index.
    """

    prefix: str
    mirror: str
    fallback: bool = False
    stand_in: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelMirror:
    """A hub model that is taken from a folder, which the file named as `written`."""

    source: str
    folder: Path
    stand_in: str | None = None
    written: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistrySettings:
    """How one registry host is reached: its own certificate authority, or no TLS at all."""

    host: str
    ca_bundle: Path | None = None
    insecure: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings.

    `registries` are prefixes that proven images go to when a recipe names none. `ca_bundle` is a PEM file that
    every connection of jbuild and of a build's package manager trusts. `python_mirror` serves below its address what
    python-build-standalone's releases do. `compression` is that of the layers of built images. `builders` are
    buildx builders or docker contexts that build instead of the engine, cells dealt out among them. `cosign_key` is
    the private key that signs what is published; signatures by `trusted_keys` (public ones) are believed. `silent_s` is
    how long (seconds) a builder may say nothing before it counts as hanging.
    """

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
    cache_from: tuple[Cache, ...] = ()
    cache_to: tuple[Cache, ...] = ()
    compression: Compression = "zstd"
    python_mirror: str | None = None
    silent_s: float = 3600.0

    def for_registry(self, host: str) -> Config:
        """Return the configuration as it is for one registry."""
        own = next((each for each in self.registry_settings if each.host == host), None)
        if own is None:
            return self
        insecure = (*self.insecure_registries, host) if own.insecure else self.insecure_registries
        return replace(self, ca_bundle=own.ca_bundle or self.ca_bundle, insecure_registries=insecure)

    def mirrored(self, image: str) -> tuple[str, RegistryMirror | None]:
        """Return the name under which to ask for an image, and the rule that applies, longest prefix first."""
        for rule in sorted(self.registry_mirrors, key=lambda r: -len(r.prefix)):
            rest = image[len(rule.prefix) :]
            if image.startswith(rule.prefix) and (not rest or rest[0] in "/:@"):
                return rule.mirror + rest, rule
        return image, None


def load(files: Iterable[Path]) -> Config:
    """Read the configuration files that exist, then the environment.

    Later files replace single values and come before earlier ones in lists of mirrors.

    Raises:
        DocumentError: a file has mistakes; those of all files are reported together.
    """
    config = Config()
    problems: list[Problem] = []
    for path in files:
        if not path.is_file():
            continue
        try:
            document = tomldoc.read(path)
            config = tomldoc.collect(document, "the configuration has mistakes", _parser(config, path.parent))
        except DocumentError as error:
            problems.extend(error.problems)
    if problems:
        raise DocumentError("the configuration has mistakes", problems)
    return _from_environment(config)


def _parser(config: Config, folder: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    def parse(root: Table) -> Config:
        publish, hub, network, build, python = (
            root.table(name) for name in ("publish", "hub", "network", "build", "python")
        )
        read = replace(
            config,
            registries=publish.strings("registries", pattern=REGISTRY_PATTERN, noun="a registry such as host:5000/team")
            or config.registries,
            insecure_registries=publish.strings("insecure", pattern=REGISTRY_PATTERN, noun="a registry host")
            or config.insecure_registries,
            registry_settings=(*_registry_settings(root, folder), *config.registry_settings),
            cosign_key=_file(publish, "cosign-key", folder) or config.cosign_key,
            trusted_keys=_files(publish, "trusted-keys", folder) or config.trusted_keys,
            registry_mirrors=(*_registry_mirrors(root), *config.registry_mirrors),
            model_mirrors=(*_model_mirrors(root, folder), *config.model_mirrors),
            indexes=(*own_rows(root), *config.indexes),
            index_mirrors=(*_index_mirrors(root), *config.index_mirrors),
            hub_endpoint=hub.optional_string("endpoint", pattern=_ADDRESS, noun="an http(s) address")
            or config.hub_endpoint,
            ca_bundle=_file(network, "ca-bundle", folder) or config.ca_bundle,
            builders=_builders(build) or config.builders,
            cache_from=read_caches(build, "cache-from", "from", folder) or config.cache_from,
            cache_to=read_caches(build, "cache-to", "to", folder) or config.cache_to,
            compression=_compression(publish, config.compression),
            python_mirror=python.optional_string("mirror", pattern=_ADDRESS, noun="an http(s) address")
            or config.python_mirror,
            silent_s=build.number("silent-s", config.silent_s, low=60, high=7 * 86_400),
        )
        for table in (publish, hub, network, build, python):
            table.done()
        return read

    return parse


def _builders(build: Table) -> tuple[str, ...]:
    one = build.optional_string("builder", pattern=BUILDER_PATTERN, noun="a builder's name")
    several = build.strings("builders", pattern=BUILDER_PATTERN, noun="a builder's name")
    if one is not None and several:
        build.problem("builder", "`builder` and `builders` exclude each other", "keep `builders`")
    return several or ((one,) if one else ())


def _compression(publish: Table, before: Compression) -> Compression:
    found = publish.string("compression", before, pattern="|".join(COMPRESSIONS), noun="zstd or gzip")
    return next((kind for kind in COMPRESSIONS if kind == found), before)


def _registry_mirrors(root: Table) -> list[RegistryMirror]:
    rules = []
    for table in root.tables("registry-mirrors"):
        rules.append(
            RegistryMirror(
                prefix=table.string("prefix", pattern=_IMAGE_NAME, noun="the beginning of an image name"),
                mirror=table.string("mirror", pattern=_IMAGE_NAME, noun="the beginning of an image name"),
                stand_in=table.optional_string("stand-in"),
            )
        )
        table.done()
    return rules


def _model_mirrors(root: Table, folder: Path) -> list[ModelMirror]:
    rules = []
    for table in root.tables("model-mirrors"):
        written = table.string("folder")
        rules.append(
            ModelMirror(
                source=table.string("source", pattern=_MODEL_SOURCE, noun="hf://organisation/name"),
                folder=folder / Path(written).expanduser(),
                stand_in=table.optional_string("stand-in"),
                written=written,
            )
        )
        table.done()
    return rules


def _index_mirrors(root: Table) -> list[IndexMirror]:
    rules = []
    for table in root.tables("index-mirrors"):
        rule = IndexMirror(
            prefix=table.string("prefix", pattern=f"{DEFAULT}|{ADDRESS}", noun="the beginning of an index's address"),
            mirror=table.string("mirror", pattern=ADDRESS, noun="an http(s) address without `?` and `#`"),
            fallback=table.boolean("fallback", default=False),
            stand_in=table.optional_string("stand-in"),
        )
        if rule.prefix == DEFAULT and not rule.fallback:
            table.problem("fallback", "a mirror of uv's own index is a fallback", "or set UV_DEFAULT_INDEX instead")
        rules.append(rule)
        table.done()
    return rules


def _registry_settings(root: Table, folder: Path) -> list[RegistrySettings]:
    settings = []
    for table in root.tables("registries"):
        settings.append(
            RegistrySettings(
                host=table.string("host", pattern=_HOST, noun="a registry host such as registry.example.com:5000"),
                ca_bundle=_file(table, "ca-bundle", folder),
                insecure=table.boolean("insecure", default=False),
            )
        )
        table.done()
    return settings


def _file(table: Table, key: str, folder: Path) -> Path | None:
    name = table.optional_string(key)
    return _readable(table, key, folder, name) if name else None


def _files(table: Table, key: str, folder: Path) -> tuple[Path, ...]:
    return tuple(_readable(table, key, folder, name) for name in table.strings(key))


def _readable(table: Table, key: str, folder: Path, name: str) -> Path:
    path = folder / Path(name).expanduser()
    if not path.is_file():
        table.problem(key, f"no such file: {path}")
    return path


def _from_environment(config: Config) -> Config:
    """Apply the variables that curl, pip, requests and the hub's own client already honour."""
    ca = config.ca_bundle
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        value = os.environ.get(name)
        if ca is None and value:
            ca = Path(value)
            if not ca.is_file():
                raise RecipeError(
                    f"{name} names a file that does not exist", where=value, hint=f"unset {name} or correct it"
                )
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint and not re.fullmatch(_ADDRESS, endpoint):
        hint = "unset HF_ENDPOINT or correct it"
        raise RecipeError("HF_ENDPOINT is not an http(s) address", where=endpoint, hint=hint)
    return replace(config, ca_bundle=ca, hub_endpoint=endpoint or config.hub_endpoint)


def build_ca_bundle(config: Config) -> Path | None:
    """Return the certificates that a build's package manager is given: the configured bundle, else the system's."""
    if config.ca_bundle:
        return config.ca_bundle
    return next((Path(name) for name in _SYSTEM_CA_FILES if Path(name).is_file()), None)
