"""The folder of a vault: files, catalogue and pages, without a network."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_wheel

from builder.errors import DiskError, IntegrityError, LockError, UsageError
from builder.host.files import sha256_of
from builder.model.vaults import Vault, VaultFile, VaultOrigin
from builder.publish.vault.vault_folder import VaultFolder, catalogue_bytes, metadata_digest
from builder.publish.vault.vault_merge import merged
from builder.publish.vault.vault_pages import pages_of
from builder.remote.index.pages import JSON_PAGE, parse
from builder.remote.vault.vault_reader import parse_catalogue

if TYPE_CHECKING:
    from pathlib import Path

    from builder.host.session import Session

URL = "http://vault.example/simple/torch/"
METADATA = b"Name: torch\nVersion: 2.8.0\n"


def vault_file(number: int = 1, **changes: Any) -> VaultFile:
    origin = VaultOrigin(index="jet", url=f"https://jet.example/{number}.whl", lock="recipe/cell")
    given: dict[str, Any] = {
        "filename": "torch-2.8.0+cu126-cp310-cp310-linux_aarch64.whl",
        "sha256": f"{number:064x}",
        "size": 10,
        "kind": "wheel",
        "origins": (origin,),
        "project": "torch",
        "metadata": metadata_digest(METADATA),
        "requires_python": ">=3.9,<4",
    }
    return VaultFile(**(given | changes))


def origin_of(index: str, lock: str = "recipe/cell") -> VaultOrigin:
    return VaultOrigin(index=index, url="https://other.example/x.whl", lock=lock)


def stored_wheel(folder: Path) -> tuple[VaultFile, Path]:
    path = make_wheel(folder, "torch", "2.8.0")
    return vault_file(filename=path.name, sha256=sha256_of(path), size=path.stat().st_size), path


# --- pages


@pytest.mark.parametrize(("page", "kind"), [("index.html", "text/html"), ("index.json", JSON_PAGE)])
def test_pages_are_those_of_an_index(page: str, kind: str) -> None:
    file = vault_file(yanked="", upload_time="2025-07-01T00:00:00Z")
    pages = pages_of(Vault(files=(file,)))
    for folder in ("simple", "indexes/jet/simple"):
        (entry,) = parse(pages[f"{folder}/torch/{page}"], kind, f"http://vault.example/{folder}/torch/{page}")
        assert (
            entry.url == f"http://vault.example/files/{file.sha256}/torch-2.8.0%2Bcu126-cp310-cp310-linux_aarch64.whl"
        )
        assert (entry.filename, entry.sha256, entry.metadata) == (file.filename, file.sha256, file.metadata)
        assert (entry.requires_python, entry.yanked) == (">=3.9,<4", "")
        assert entry.upload_time == (file.upload_time if kind == JSON_PAGE else None)


def test_pages_escape_what_servers_stated() -> None:
    file = vault_file(yanked='broken" onload="x', requires_python="<3&4")
    page = pages_of(Vault(files=(file,)))["simple/torch/index.html"]
    assert b'data-yanked="broken&quot; onload=&quot;x"' in page
    (entry,) = parse(page, "text/html", URL)
    assert (entry.yanked, entry.requires_python) == ('broken" onload="x', "<3&4")


def test_a_name_of_two_indexes_is_once_on_the_common_page() -> None:
    first, second = vault_file(1), vault_file(2, origins=(origin_of("other"),))
    pages = pages_of(merged(Vault(files=(first,)), [second], "vault"))
    hashes = {
        path: [entry.sha256 for entry in parse(content, JSON_PAGE, URL)]
        for path, content in pages.items()
        if path.endswith("torch/index.json")
    }
    assert hashes == {
        "simple/torch/index.json": [first.sha256],
        "indexes/jet/simple/torch/index.json": [first.sha256],
        "indexes/other/simple/torch/index.json": [second.sha256],
    }


def test_files_of_no_package_have_no_page() -> None:
    interpreter = vault_file(filename="cpython.tar.gz", kind="file", project=None, metadata=None, origins=())
    assert set(pages_of(Vault(files=(interpreter,)))) == {"simple/index.html", "simple/index.json", "README.md"}


def test_an_sdist_has_a_page_without_metadata() -> None:
    page = pages_of(Vault(files=(vault_file(filename="torch-2.8.0.tar.gz", kind="sdist", metadata=None),)))
    document = json.loads(page["simple/torch/index.json"])
    assert (document["versions"], document["files"][0]["core-metadata"]) == (["2.8.0"], False)


# --- the catalogue


def test_a_catalogue_is_read_as_it_was_written() -> None:
    vault = Vault(files=(vault_file(yanked="why"), vault_file(2, filename="a.whl", origins=(origin_of("other"),))))
    assert parse_catalogue(catalogue_bytes(vault), "vault") == vault


@pytest.mark.parametrize(
    "changes",
    [
        {"filename": "../../etc/passwd"},
        {"filename": ".hidden"},
        {"sha256": "../" * 21 + "x"},
        {"metadata": "x"},
        {"project": "../torch"},
        {"origins": [{"index": "../..", "url": "x", "lock": "x"}]},
        {"size": "many"},
        {"colour": "red"},
    ],
)
def test_a_catalogue_cannot_name_other_paths(changes: dict[str, Any]) -> None:
    document = json.loads(catalogue_bytes(Vault(files=(vault_file(),))))
    document["files"][0] |= changes
    with pytest.raises(IntegrityError, match="is damaged"):
        parse_catalogue(json.dumps(document).encode(), "vault")


def test_a_catalogue_of_another_format_is_refused() -> None:
    with pytest.raises(LockError, match="format 9"):
        parse_catalogue(b'{"format": 9}', "vault")


def test_files_are_added_in_order_and_origins_are_joined() -> None:
    first, second = vault_file(1), vault_file(2, filename="b.whl")
    vault = merged(Vault(files=(second,)), [first, replace(second, origins=(origin_of("jet", "new/cell"),))], "vault")
    assert [file.filename for file in vault.files] == [second.filename, first.filename]
    assert [origin.lock for origin in vault.files[0].origins] == ["recipe/cell", "new/cell"]
    assert merged(vault, vault.files, "vault") == vault


def test_an_index_cannot_have_two_files_of_one_name() -> None:
    with pytest.raises(IntegrityError) as caught:
        merged(Vault(files=(vault_file(1),)), [vault_file(2, origins=(origin_of("jet", "new/cell"),))], "vault")
    message = caught.value.message
    assert all(word in message for word in ("torch-2.8.0+cu126", "index jet", f"{1:064x}", f"{2:064x}", "new/cell"))
    assert caught.value.exit_code == 6


# --- the folder


def test_files_are_hard_links_and_stay(tmp_path: Path, session: Session) -> None:
    file, source = stored_wheel(tmp_path)
    folder = VaultFolder(tmp_path / "vault")
    with folder.changing(session.workspace) as vault:
        assert folder.store(file, source, METADATA) == 0
        assert folder.publish(merged(vault, [file], "vault")) > 0
    assert (folder.path / file.path).samefile(source)
    assert folder.has(file)
    assert folder.publish(folder.catalogue()) == 0
    assert list(folder.flaws(folder.catalogue(), lambda _: None)) == []
    before = (folder.path / file.path).stat()
    assert folder.store(file, source, METADATA) == 0
    assert (folder.path / file.path).stat().st_ino == before.st_ino


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_another_disk_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    file, source = stored_wheel(tmp_path)
    monkeypatch.setattr(os, "link", refuse)
    folder = VaultFolder(tmp_path / "vault")
    assert folder.store(file, source, METADATA) == file.size
    assert (folder.path / file.path).read_bytes() == source.read_bytes()
    assert sorted(path.name for path in (folder.path / file.path).parent.iterdir()) == sorted(
        (file.filename, f"{file.filename}.metadata")
    )


def test_a_damaged_cache_is_not_stored(tmp_path: Path) -> None:
    file, source = stored_wheel(tmp_path)
    source.write_bytes(b"damaged")
    folder = VaultFolder(tmp_path / "vault")
    with pytest.raises(IntegrityError, match="a cached file does not have its sha256"):
        folder.store(file, source, METADATA)
    assert not (folder.path / file.path).exists()


def test_a_damaged_copy_is_replaced(tmp_path: Path) -> None:
    file, source = stored_wheel(tmp_path)
    target = tmp_path / "vault" / file.path
    target.parent.mkdir(parents=True)
    target.write_bytes(b"half")
    VaultFolder(tmp_path / "vault").store(file, source, METADATA)
    assert target.read_bytes() == source.read_bytes()


def test_other_folders_are_refused(tmp_path: Path, session: Session) -> None:
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "letter.txt").write_text("mine")
    folder = VaultFolder(letters)
    message = r"not a vault, and has files: letter\.txt"
    with pytest.raises(UsageError, match=message), folder.changing(session.workspace):
        pass
    assert [path.name for path in letters.iterdir()] == ["letter.txt"]
    with pytest.raises(UsageError, match="it is not a vault"):
        folder.catalogue()


@pytest.mark.parametrize(
    ("path", "message"),
    [("letter.txt/x", "cannot be made: Not a directory"), (".", "not a vault"), ("loop/x", "cannot be made: Too many")],
)
def test_what_cannot_be_a_vault_is_refused_before_anything_is_fetched(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=message) as caught:
        VaultFolder(tmp_path / path).check()
    assert caught.value.hint


def test_a_checked_folder_is_not_made_yet(tmp_path: Path) -> None:
    VaultFolder(tmp_path / "new" / "vault").check()
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path, session: Session) -> None:
    (tmp_path / "file").write_text("")
    folder = VaultFolder(tmp_path / "file" / "vault")
    with pytest.raises(DiskError), folder.changing(session.workspace):
        pass
