"""Vaults as mirrors: rules, pages, locked files, and vaults that cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from doctor_parts import make_case
from factories import make_job, make_spec, make_wheel

from builder.errors import DocumentError, NetworkError
from builder.host import config
from builder.host.config import Config
from builder.host.files import sha256_of
from builder.host.index_mirrors import IndexMirror
from builder.host.index_rows import IndexRow
from builder.host.session import Session
from builder.lock.explanation import why
from builder.model.vaults import Vault, VaultFile, VaultOrigin
from builder.project.doctor import vault_check
from builder.publish.vault.vault_folder import VaultFolder, metadata_digest
from builder.remote.index.index_client import IndexClient
from builder.remote.index.listing import Address, Index, addresses
from builder.remote.vault.vault_reader import vault_at
from builder.remote.vault.vaulted_files import read_vaulted, vaulted, vaulted_metadata

if TYPE_CHECKING:
    import zipfile
    from pathlib import Path

METADATA = b"Metadata-Version: 2.1\nName: torch\nVersion: 2.8.0\n"
INDEX = "https://jet.example/simple/"


@pytest.fixture(autouse=True)
def fresh() -> None:
    vault_at.cache_clear()


@pytest.fixture
def stored(tmp_path: Path) -> VaultFile:
    """A vault in `vault` with one wheel."""
    source, folder = make_wheel(tmp_path, "torch", "2.8.0"), VaultFolder(tmp_path / "vault")
    file = VaultFile(
        filename=source.name,
        sha256=sha256_of(source),
        size=source.stat().st_size,
        kind="wheel",
        origins=(VaultOrigin(index="jet", url=f"{INDEX}torch.whl", lock="recipe/cell"),),
        project="torch",
        metadata=metadata_digest(METADATA),
    )
    folder.store(file, source, METADATA)
    folder.publish(Vault(files=(file,)))
    return file


def settings(tmp_path: Path, **rule: Any) -> Config:
    return Config(index_mirrors=(IndexMirror(vault=str(tmp_path / "vault"), **rule),))


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "jbuild.toml"
    path.write_text(text)
    return config.load([path])


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("vaults/one", "{folder}/vaults/one"),
        ("/srv/vault", "/srv/vault"),
        ("https://vault.example/one", "https://vault.example/one"),
        ("oci://127.0.0.1:5000/edge/vault:1", "oci://127.0.0.1:5000/edge/vault:1"),
    ],
)
def test_a_rule_names_a_folder_an_address_or_a_registry(tmp_path: Path, written: str, read: str) -> None:
    (rule,) = loaded(tmp_path, f'[[index-mirrors]]\nvault = "{written}"\nfallback = true\n').index_mirrors
    assert rule.vault == read.format(folder=tmp_path)
    assert (rule.covers(INDEX), rule.covers_default, rule.fallback) == (True, True, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('vault = "v"\nprefix = "default"\nmirror = "http://m/"', "exclude each other"),
        ('vault = "v"\nstand-in = "why"', "a vault has the files of the indexes themselves"),
        ('mirror = "http://m/"', "`prefix` is missing"),
        ('prefix = "http://p/"', "`mirror` is missing"),
        ('vault = "oci://UPPER/Case"', "not a vault in a registry"),
        ('vault = "http://x/?y"', "not an http"),
    ],
)
def test_wrong_rules(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        loaded(tmp_path, f"[[index-mirrors]]\n{text}\n")
    assert message in " ".join(problem.message for problem in caught.value.problems)


def test_a_rule_with_a_prefix_is_about_these_indexes_only() -> None:
    rule = IndexMirror(vault="v", prefix="https://jet.example/", fallback=True)
    assert addresses(INDEX, (rule,)) == (Address(url=INDEX), Address(url=INDEX, vault="v"))
    assert addresses("https://other.example/", (rule,)) == (Address(url="https://other.example/"),)
    assert not rule.covers_default
    everything = IndexMirror(vault="v")
    assert addresses(INDEX, (everything,)) == (Address(url=INDEX, vault="v"),)


def test_a_page_has_the_addresses_of_the_index(tmp_path: Path, stored: VaultFile) -> None:
    own = settings(tmp_path)
    index = Index(name="jet", addresses=addresses(INDEX, own.index_mirrors))
    client = IndexClient(config=own, states=tmp_path)
    page = client.page(index, "torch")
    assert page
    assert (page.url, page.vault) == (f"{INDEX}torch/", str(tmp_path / "vault"))
    (file,) = page.files
    assert (file.filename, file.sha256, file.url) == (stored.filename, stored.sha256, f"{INDEX}torch.whl")
    assert client.page(index, "vllm") is None
    assert client.page(Index(name="other", addresses=index.addresses), "torch") is None


def test_locked_files_are_read_where_they_are(tmp_path: Path, stored: VaultFile) -> None:
    own = settings(tmp_path)
    (found,) = vaulted(stored.sha256, stored.filename, own)
    assert found.file == stored
    assert vaulted_metadata(stored.sha256, stored.filename, own) == METADATA
    names = read_vaulted(stored.sha256, stored.filename, tmp_path / "copy", own, _names)
    assert b"torch-2.8.0.dist-info/METADATA" in (names or b"")
    assert not (tmp_path / "copy").exists()
    assert list(vaulted("0" * 64, stored.filename, own)) == []


def _names(archive: zipfile.ZipFile) -> bytes:
    return "\n".join(archive.namelist()).encode()


def test_damaged_metadata_is_not_used(tmp_path: Path, stored: VaultFile) -> None:
    (tmp_path / "vault" / stored.metadata_path).write_bytes(b"Name: evil\n")
    assert vaulted_metadata(stored.sha256, stored.filename, settings(tmp_path)) is None


def test_a_vault_that_cannot_be_read_is_passed_over_and_found_by_the_doctor(
    tmp_path: Path, stored: VaultFile, session: Session
) -> None:
    own = settings(tmp_path)
    case = make_case(Session(workspace=session.workspace, config=own, console=session.console))
    (check,) = vault_check.check(case)
    assert (check.state, check.found) == ("ok", f"{tmp_path}/vault: 1 files")
    (tmp_path / "vault" / "vault.json").write_text("{")
    vault_at.cache_clear()
    assert list(vaulted(stored.sha256, stored.filename, own)) == []
    (check,) = vault_check.check(case)
    assert check.state == "error"
    assert "vault.json of the vault is damaged" in check.found


@pytest.mark.usefixtures("quick_uv")
def test_an_index_that_does_not_answer_is_explained(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    row = IndexRow(name="jet", url="http://127.0.0.1:9/jet/", packages=("vllm", "flash-attn"))
    own = Session(workspace=session.workspace, config=Config(indexes=(row,)), console=session.console)
    job = make_job(spec=make_spec(requires=("vllm==0.9.3", "flash-attn"), models=()))
    with pytest.raises(NetworkError) as caught:
        why(job, own)
    log, hint = caught.value.log or "", caught.value.hint or ""
    assert "vllm 0.9.3 was never released by its authors" in log
    assert "0.10.0 (2025-07-25)" in log
    assert "from the index jet only (usual for debian-12): vllm, flash-attn" in log
    assert f"jbuild vault {job.recipe.name} --output FOLDER" in hint
