"""The stand-in for the Jetson AI Lab index says what devpi says."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from factories import make_wheel
from jetson_client import BROWSER, CU126, INSTALLER, TORCH, TORCH_FILE, TORCH_PAGE, TORCH_SHA256, ask
from jetson_index import JetsonIndex, running_jetson_index
from project import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIP_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"


@pytest.fixture
def own_index(jetson_sets: Path, tmp_path: Path) -> Iterator[JetsonIndex]:
    """A copy of the sets, served, with which a test may do what it wants."""
    with running_jetson_index(shutil.copytree(jetson_sets, tmp_path / "own")) as running:
        yield running


def test_a_page_is_what_devpi_writes(jetson_index: JetsonIndex) -> None:
    """The text is devpi-server 6.20.3's own, but for the hash and Requires-Python of the file."""
    status, headers, body = ask(jetson_index, "/traps/two-hashes/+simple/torch/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=UTF-8")
    first, second = re.findall(r"#sha256=([0-9a-f]{64})", body.decode())
    line = 'traps/two-hashes <a href="../../+f/{0}/{1}/{2}#sha256={3}" data-requires-python="&gt;=3.9.0">{2}</a><br>\n'
    title = "traps/two-hashes: links for torch"
    assert body.decode() == (
        f'<!DOCTYPE html><html lang="en"><head><title>{title}</title></head><body><h1>{title}</h1>\n'
        + "".join(line.format(digest[:3], digest[3:16], TORCH, digest) for digest in (first, second))
        + "</body></html>"
    )
    assert first != second


def test_the_list_of_a_set(jetson_index: JetsonIndex) -> None:
    status, _, body = ask(jetson_index, f"/{CU126}/+simple/")
    assert status == 200
    assert re.findall(r'<a href="([^"]+)/">', body.decode()) == [
        *("flash-attn", "flashinfer-python", "torch", "torchaudio", "torchvision", "triton", "vllm", "xformers"),
    ]
    status, _, body = ask(jetson_index, "/jp7/cu130/+simple/")
    assert (status, b"<a href" in body) == (200, False)


@pytest.mark.parametrize(
    ("path", "agent", "place"),
    [
        (f"/{CU126}/+simple/torch", BROWSER, TORCH_PAGE),
        (f"/{CU126}/+simple", BROWSER, f"/{CU126}/+simple/"),
        (f"/{CU126}/+simple/flash_attn/", BROWSER, f"/{CU126}/+simple/flash-attn/"),
        (f"/{CU126}/+simple/Flash.Attn", INSTALLER, f"/{CU126}/+simple/flash-attn/"),
        (f"/{CU126}/flash_attn/", INSTALLER, f"/{CU126}/flash-attn"),
    ],
)
def test_redirects(jetson_index: JetsonIndex, path: str, agent: str, place: str) -> None:
    status, headers, _ = ask(jetson_index, path, user_agent=agent)
    assert (status, headers["Location"]) == (302, f"http://{jetson_index.host}{place}")


@pytest.mark.parametrize(
    ("path", "up"),
    [
        (TORCH_PAGE, "../../"),
        (f"/{CU126}/+simple/torch", "../"),
        (f"/{CU126}/torch/", "../"),
        (f"/{CU126}/torch", ""),
    ],
)
def test_installers_are_spared_redirects(jetson_index: JetsonIndex, path: str, up: str) -> None:
    status, _, body = ask(jetson_index, path, user_agent=INSTALLER)
    assert (status, f'href="{up}+f/c37/'.encode() in body) == (200, True)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        (f"/{CU126}/+simple/no-such-project/", 404, "The project no-such-project does not exist."),
        ("/jp7/cu130/+simple/torch/", 404, "The project torch does not exist."),
        ("/jp5/cu114/+simple/torch/", 404, "The stage jp5/cu114 could not be found."),
        (f"{TORCH_FILE}.metadata", 404, "core-metadata is disabled"),
        (f"/{CU126}/+f/abc/0123456789abc/{TORCH}", 404, "no such file"),
        (TORCH_FILE.replace("torch-2.8.0", "other-2.8.0"), 404, "no such file"),
        (f"/{CU126}/torch/", 415, "unsupported media type"),
        ("/", 404, "The resource could not be found."),
    ],
)
def test_refusals(jetson_index: JetsonIndex, path: str, status: int, said: str) -> None:
    found, _, body = ask(jetson_index, path)
    assert (found, said in body.decode()) == (status, True)


def test_pages_are_html_whatever_is_wanted(jetson_index: JetsonIndex) -> None:
    _, headers, body = ask(jetson_index, TORCH_PAGE, accept=PIP_ACCEPT, user_agent=INSTALLER)
    assert headers["Content-Type"].startswith("text/html")
    assert not re.search(rb"metadata=|upload-time|size", body)


def test_json_is_answered_where_that_is_switched_on(jetson_sets: Path) -> None:
    with running_jetson_index(jetson_sets, answers_json=True) as index:
        index.shelf.yanked[TORCH] = "built for the wrong board"
        _, headers, body = ask(index, TORCH_PAGE, accept=PIP_ACCEPT)
        assert headers["Content-Type"] == "application/vnd.pypi.simple.v1+json"
        page = json.loads(body)
        assert page["meta"] == {"api-version": "1.0"}
        assert {frozenset(file) for file in page["files"] if file["filename"] != TORCH} == {
            frozenset({"filename", "url", "hashes", "requires-python"})
        }
        (torch,) = [file for file in page["files"] if file["filename"] == TORCH]
        assert torch["hashes"] == {"sha256": TORCH_SHA256}
        assert torch["yanked"] == "built for the wrong board"
        assert ask(index, TORCH_PAGE, accept="text/html")[1]["Content-Type"].startswith("text/html")


def test_a_file_that_was_taken_back_says_so(jetson_index: JetsonIndex) -> None:
    jetson_index.shelf.yanked[TORCH] = 'no "kernel" <image>'
    line = next(line for line in ask(jetson_index, TORCH_PAGE)[2].decode().splitlines() if TORCH in line)
    assert 'data-yanked="no &quot;kernel&quot; &lt;image&gt;"' in line


def test_a_mirror_fills_in_what_a_set_lacks(own_index: JetsonIndex, tmp_path: Path) -> None:
    mirror = own_index.shelf.folder / "root" / "pypi"
    make_wheel(mirror, "filelock", "3.20.0")
    make_wheel(mirror, "torch", "2.99.0")
    body = ask(own_index, f"/{CU126}/+simple/filelock/")[2].decode()
    (link,) = re.findall(r'root/pypi <a href="([^"#]+)#', body)
    assert re.fullmatch(r"\.\./\.\./\.\./\.\./root/pypi/\+f/.../.{13}/filelock-3\.20\.0-py3-none-any\.whl", link)
    assert ask(own_index, link.removeprefix("../../../.."))[0] == 200
    assert b"2.99.0" not in ask(own_index, TORCH_PAGE)[2], "a set's own project hides the mirror's"


def test_files_are_what_their_hash_says(jetson_index: JetsonIndex) -> None:
    status, headers, body = ask(jetson_index, TORCH_FILE)
    assert (status, hashlib.sha256(body).hexdigest()) == (200, TORCH_SHA256)
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Content-Type"] == "application/octet-stream"
    status, headers, nothing = ask(jetson_index, TORCH_FILE, "HEAD")
    assert (status, headers["Content-Length"], nothing) == (200, str(len(body)), b"")


def test_parts_of_files(jetson_index: JetsonIndex) -> None:
    _, headers, whole = ask(jetson_index, TORCH_FILE)
    size = len(whole)
    for asked, begin, end in (("10-19", 10, 20), ("100-", 100, size), ("-30", size - 30, size), ("5-999999", 5, size)):
        status, given, body = ask(jetson_index, TORCH_FILE, range=f"bytes={asked}")
        assert (status, body) == (206, whole[begin:end])
        assert given["Content-Range"] == f"bytes {begin}-{end - 1}/{size}"
    status, given, _ = ask(jetson_index, TORCH_FILE, range=f"bytes={size}-")
    assert (status, given["Content-Range"]) == (416, f"bytes */{size}")
    same, other = headers["ETag"], '"other"'
    assert ask(jetson_index, TORCH_FILE, if_none_match=same)[0] == 304
    assert ask(jetson_index, TORCH_FILE, range="bytes=0-9", if_range=same)[0] == 206
    assert ask(jetson_index, TORCH_FILE, range="bytes=0-9", if_range=other)[2] == whole


def test_a_plain_server_knows_no_parts(jetson_sets: Path) -> None:
    with running_jetson_index(jetson_sets, plain=True) as index:
        status, headers, body = ask(index, TORCH_FILE, range="bytes=0-9")
        assert (status, len(body) > 10) == (200, True)
        assert not {"ETag", "Accept-Ranges"} & set(headers)


def test_another_upload_replaces_the_file(own_index: JetsonIndex) -> None:
    assert TORCH_SHA256 in ask(own_index, TORCH_PAGE)[2].decode()
    before, after = own_index.shelf.replace(CU126, TORCH)
    assert f"/{before}" == TORCH_FILE
    page = ask(own_index, TORCH_PAGE)[2].decode()
    assert page.count(TORCH_SHA256) == 0
    assert page.count(f"/{TORCH}#sha256=") == 1
    status, _, body = ask(own_index, TORCH_FILE)
    assert (status, b"deleted in later serial" in body) == (410, True)
    status, _, body = ask(own_index, f"/{after}")
    assert (status, hashlib.sha256(body).hexdigest()[:3]) == (200, after.split("/+f/")[1][:3])


def test_versions_get_lost(own_index: JetsonIndex) -> None:
    (address,) = own_index.shelf.lose(CU126, "torch-2.8.0-*")
    page = ask(own_index, TORCH_PAGE)[2].decode()
    assert "torch-2.8.0-" not in page
    assert "torch-2.9.0-" in page
    assert ask(own_index, f"/{address}")[0] == 410
    own_index.shelf.lose(CU126, "torch-*")
    assert ask(own_index, TORCH_PAGE)[0] == 404


def test_a_locked_index_wants_a_log_in(jetson_sets: Path) -> None:
    with running_jetson_index(jetson_sets, user="me:hush") as index:
        status, headers, _ = ask(index, TORCH_PAGE)
        assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="pypi"')
        assert ask(index, TORCH_FILE, authorization="Basic bWU6d3Jvbmc=")[0] == 401
        right = "Basic " + base64.b64encode(b"me:hush").decode()
        assert ask(index, TORCH_FILE, authorization=right)[0] == 200
        assert [(each.status, each.authorized) for each in index.asked()] == [(401, False), (401, True), (200, True)]
        assert "hush" not in repr(index.log) + "".join(map(str, index.log))


def test_the_log_tells_what_was_asked(jetson_index: JetsonIndex) -> None:
    jetson_index.fails("HEAD", "503")
    ask(jetson_index, TORCH_FILE, "HEAD")
    ask(jetson_index, TORCH_FILE, range="bytes=0-9", user_agent="pip/1")
    ask(jetson_index, TORCH_PAGE, accept="text/html")
    assert [str(each) for each in jetson_index.asked()] == [
        f"503 HEAD {TORCH_FILE} by {BROWSER}",
        f"206 GET {TORCH_FILE} (bytes=0-9) by pip/1",
        f"200 GET {TORCH_PAGE} by {BROWSER}",
    ]
    assert [each.accept for each in jetson_index.asked(r"^GET .*/\+simple/")] == ["text/html"]


def test_the_command_serves_until_it_is_ended(tmp_path: Path) -> None:
    argv = [str(CHECKOUT / "scripts" / "stand-in"), "index", "--fault", "503", "/jp6/cu128/", str(tmp_path / "sets")]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout
    try:
        assert "a stand-in for the Jetson AI Lab index" in child.stdout.readline()
        address = child.stdout.readline().strip()
        host = re.fullmatch(r"http://(127\.0\.0\.1:\d+)/jp6/cu126/\+simple/", address)
        assert host
        for name, status in (("cu126", 200), ("cu128", 503)):
            connection = http.client.HTTPConnection(host[1], timeout=10)
            connection.request("GET", f"/jp6/{name}/+simple/torch/", headers={"User-Agent": INSTALLER})
            assert connection.getresponse().status == status
            connection.close()
    finally:
        child.terminate()
        _, log = child.communicate(timeout=10)
    assert log.splitlines() == [
        f"200 GET /jp6/cu126/+simple/torch/ by {INSTALLER}",
        f"503 GET /jp6/cu128/+simple/torch/ by {INSTALLER}",
    ]


def test_the_command_refuses_a_fault_that_it_does_not_know(tmp_path: Path) -> None:
    argv = [str(CHECKOUT / "scripts" / "stand-in"), "index", "--fault", "fire", "/", str(tmp_path / "sets")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, (tmp_path / "sets").exists()) == (2, False)
    assert "fire is no status and none of slow, drip" in done.stderr
