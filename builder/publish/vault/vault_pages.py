"""The pages of a vault: HTML (PEP 503) and JSON (PEP 691), with METADATA files (PEP 658, PEP 714)."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename

from builder.host.index_rows import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from packaging.version import Version

    from builder.model.vaults import Vault, VaultFile

_API = "1.1"
_ALL = "simple"


def pages_of(vault: Vault) -> dict[str, bytes]:
    """Return all pages of a vault by their paths: of all its files, and of the files of each index."""
    indexes = sorted({index for file in vault.files for index in file.indexes})
    pages = dict(_index(_ALL, vault.one_per_name()))
    for index in indexes:
        pages |= _index(f"indexes/{index}/simple", vault.of_index(index))
    pages["README.md"] = _readme(indexes).encode()
    return pages


def _index(folder: str, files: Iterable[VaultFile]) -> Iterator[tuple[str, bytes]]:
    projects: dict[str, list[VaultFile]] = {}
    for file in sorted(files, key=lambda file: file.filename):
        projects.setdefault(file.project or "", []).append(file)
    up = "../" * (folder.count("/") + 2)
    for project, members in sorted(projects.items()):
        yield f"{folder}/{project}/index.html", _html(project, members, up)
        yield f"{folder}/{project}/index.json", _json(project, members, up)
    links = "".join(f'<a href="{name}/">{name}</a><br>\n' for name in sorted(projects))
    yield f"{folder}/index.html", _document("Simple index", links)
    listing = {"meta": {"api-version": _API}, "projects": [{"name": name} for name in sorted(projects)]}
    yield f"{folder}/index.json", _dumped(listing)


def _document(title: str, body: str) -> bytes:
    head = f'<meta charset="utf-8"><meta name="pypi:repository-version" content="{_API}"><title>{title}</title>'
    return f"<!DOCTYPE html>\n<html>\n<head>{head}</head>\n<body>\n{body}</body>\n</html>\n".encode()


def _dumped(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _html(project: str, files: Iterable[VaultFile], up: str) -> bytes:
    return _document(f"Links for {project}", "".join(_anchor(file, up) for file in files))


def _anchor(file: VaultFile, up: str) -> str:
    attributes = {"href": f"{up}{quote(file.path)}#sha256={file.sha256}"}
    if file.requires_python:
        attributes["data-requires-python"] = file.requires_python
    if file.metadata:
        # PEP 714 renamed the attribute; older installers read the first name.
        attributes["data-core-metadata"] = attributes["data-dist-info-metadata"] = f"sha256={file.metadata}"
    if file.yanked is not None:
        attributes["data-yanked"] = file.yanked
    words = " ".join(f'{name}="{escape(value)}"' for name, value in attributes.items())
    return f"<a {words}>{escape(file.filename)}</a><br>\n"


def _json(project: str, files: Iterable[VaultFile], up: str) -> bytes:
    files = list(files)
    versions = {version for file in files if (version := _version(file))}
    return _dumped(
        {
            "meta": {"api-version": _API},
            "name": project,
            "versions": [str(version) for version in sorted(versions)],
            "files": [_entry(file, up) for file in files],
        }
    )


def _entry(file: VaultFile, up: str) -> dict[str, Any]:
    metadata = {"sha256": file.metadata} if file.metadata else False
    entry = {
        "filename": file.filename,
        "url": f"{up}{quote(file.path)}",
        "hashes": {"sha256": file.sha256},
        "requires-python": file.requires_python,
        "size": file.size,
        "upload-time": file.upload_time,
        "yanked": file.yanked or file.yanked is not None,
        "core-metadata": metadata,
        "dist-info-metadata": metadata,
    }
    return {name: value for name, value in entry.items() if value is not None}


def _version(file: VaultFile) -> Version | None:
    parse = parse_wheel_filename if file.kind == "wheel" else parse_sdist_filename
    try:
        return parse(file.filename)[1]
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None


def _readme(indexes: Iterable[str]) -> str:
    rows = "".join(
        f"- `indexes/{name}/simple/`: the files from {'the default index of uv' if name == DEFAULT else name}\n"
        for name in indexes
    )
    return _README.format(rows=rows)


_README = """# A package index

Every web server that serves this folder is a package index; the folder works as a `file://` address, too.

    python3 -m http.server --directory . 8080
    uv pip install --default-index http://HOST:8080/simple/ NAME
    pip install --index-url http://HOST:8080/simple/ NAME

- `simple/`: all files; a file name that two indexes have is listed once
{rows}- `files/SHA256/NAME`: the files, each beside its METADATA
- `vault.json`: the list of all files, with the addresses that they came from and the locks that name them

jbuild reads the folder if its `jbuild.toml` names it:

    [[index-mirrors]]
    vault = "FOLDER"        # or the address of the web server
    fallback = true         # use it when an index does not answer

`jbuild vault --check FOLDER` compares all files with their sha256.
"""
