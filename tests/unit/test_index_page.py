"""Pages of package indexes: what is read from good ones, and that bad ones are told from empty ones."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.remote.index.listing import IndexFile
from builder.remote.index.pages import parse

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "text/html"
URL = "https://index.example/root/jp6/+simple/torch/"
SHA = "0123456789abcdef" * 4
NAME = "torch-2.8.0-cp310-cp310-linux_aarch64.whl"
DEVPI_EMPTY = """<!DOCTYPE html>
<html><head><title>jp6/cu126: links for torch</title></head>
  <body><h1>jp6/cu126: links for torch</h1>
</body></html>"""
WAREHOUSE_EMPTY = """<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.3">
<title>Links for torch</title></head><body><h1>Links for torch</h1></body></html>"""
PORTAL = """<!DOCTYPE html><html><head><title>Welcome to the guest network</title></head>
<body><h1>Please log in</h1><p>Useful links for guests: <a href="/terms.html">terms</a></p></body></html>"""


def html(*lines: str, head: str = "") -> tuple[IndexFile, ...]:
    page = f"<!DOCTYPE html><html><head>{head}</head><body><h1>Links for torch</h1>{''.join(lines)}</body></html>"
    return parse(page.encode(), HTML, URL)


def one(line: str, head: str = "") -> IndexFile:
    (file,) = html(line, head=head)
    return file


def page(*files: Any, **changes: Any) -> bytes:
    return json.dumps({"meta": {"api-version": "1.1"}, "name": "torch", "files": list(files), **changes}).encode()


def entry(**changes: Any) -> dict[str, Any]:
    return {"filename": NAME, "url": NAME, "hashes": {"sha256": SHA}} | changes


def from_json(**changes: Any) -> IndexFile:
    (file,) = parse(page(entry(**changes)), JSON, URL)
    return file


def test_a_page_of_devpi() -> None:
    link = f'<a href="../../+f/012/3456789abcdef/{NAME}#sha256={SHA}" data-requires-python="&gt;=3.10">{NAME}</a><br/>'
    assert one(link) == IndexFile(
        filename=NAME,
        url=f"https://index.example/root/jp6/+f/012/3456789abcdef/{NAME}",
        sha256=SHA,
        requires_python=">=3.10",
    )


def test_a_page_in_json() -> None:
    found = from_json(
        url="../files/" + NAME,
        size=5,
        **{"requires-python": ">=3.9", "upload-time": "2026-11-01T10:00:00.123456Z", "core-metadata": {"sha256": SHA}},
    )
    assert found == IndexFile(
        filename=NAME,
        url=f"https://index.example/root/jp6/+simple/files/{NAME}",
        sha256=SHA,
        requires_python=">=3.9",
        upload_time="2026-11-01T10:00:00.123456Z",
        size=5,
        metadata=SHA,
    )


@pytest.mark.parametrize(
    ("href", "url"),
    [
        (NAME, f"https://index.example/root/jp6/+simple/torch/{NAME}"),
        (f"../../+f/{NAME}", f"https://index.example/root/jp6/+f/{NAME}"),
        (f"/packages/{NAME}", f"https://index.example/packages/{NAME}"),
        (f"//files.example/{NAME}", f"https://files.example/{NAME}"),
        (f"http://other.example:8080/{NAME}", f"http://other.example:8080/{NAME}"),
        (f"https://user:hush@files.example/{NAME}", f"https://files.example/{NAME}"),
        (f" \n{NAME}", f"https://index.example/root/jp6/+simple/torch/{NAME}"),
    ],
)
def test_links_are_relative_to_the_page_and_hold_no_log_in(href: str, url: str) -> None:
    assert one(f'<a href="{href}#sha256={SHA}">x</a>').url == url
    assert from_json(url=href).url == url


def test_links_are_relative_to_the_first_base() -> None:
    head = '<base href="https://files.example/a/"><base href="https://second.example/">'
    assert one(f'<a href="{NAME}">x</a>', head).url == f"https://files.example/a/{NAME}"
    assert (
        one(f'<a href="{NAME}">x</a>', '<base href="../f/">').url == f"https://index.example/root/jp6/+simple/f/{NAME}"
    )
    assert one(f'<a href="{NAME}">x</a>', '<base target="_blank">').url.startswith(URL)


@pytest.mark.parametrize("fragment", [f"sha256={SHA}", f"SHA256={SHA.upper()}", f"sha256:{SHA}", f"egg=x&sha256={SHA}"])
def test_hashes_of_fragments(fragment: str) -> None:
    assert one(f'<a href="{NAME}#{fragment}">x</a>').sha256 == SHA


@pytest.mark.parametrize("fragment", ["", "sha256=", "sha256=xyz", f"md5={SHA}", f"sha256={SHA}00"])
def test_what_is_no_sha256_is_none(fragment: str) -> None:
    assert one(f'<a href="{NAME}#{fragment}">x</a>').sha256 is None


@pytest.mark.parametrize("hashes", [None, {}, {"md5": SHA}, {"sha256": None}, {"sha256": "x"}, {"sha256": 7}, [], "x"])
def test_json_without_a_usable_hash(hashes: Any) -> None:
    assert from_json(hashes=hashes).sha256 is None
    bare = entry()
    del bare["hashes"]
    assert parse(page(bare), JSON, URL)[0].sha256 is None


@pytest.mark.parametrize(
    ("attribute", "reason"),
    [("", None), ("data-yanked", ""), ('data-yanked=""', ""), ('data-yanked="broken &amp; bad"', "broken & bad")],
)
def test_yanked_files_of_html(attribute: str, reason: str | None) -> None:
    assert one(f'<a href="{NAME}" {attribute}>x</a>').yanked == reason


@pytest.mark.parametrize(
    ("yanked", "reason"), [(False, None), (True, ""), ("broken", "broken"), ("", None), (None, None)]
)
def test_yanked_files_of_json(yanked: Any, reason: str | None) -> None:
    assert from_json(yanked=yanked).yanked == reason


@pytest.mark.parametrize(
    ("said", "metadata"),
    [("true", ""), (f"sha256={SHA.upper()}", SHA), ("", ""), ("md5=1", ""), ("false", None)],
)
def test_metadata_beside_a_file_of_html(said: str, metadata: str | None) -> None:
    assert one(f'<a href="{NAME}" data-core-metadata="{said}">x</a>').metadata == metadata
    assert one(f'<a href="{NAME}" data-dist-info-metadata="{said}">x</a>').metadata == metadata


@pytest.mark.parametrize(
    ("said", "metadata"), [(True, ""), ({"sha256": SHA}, SHA), ({}, None), (False, None), (None, None)]
)
def test_metadata_beside_a_file_of_json(said: Any, metadata: str | None) -> None:
    assert from_json(**{"core-metadata": said}).metadata == metadata
    assert from_json(**{"dist-info-metadata": said}).metadata == metadata


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("size", value) for value in (-1, 2**70, 1.5, True, "5", None)),
        *(("upload-time", value) for value in ("yesterday", 5, "2026-11-01", None, "2026-11-01T10:00:00")),
        *(("requires-python", value) for value in (3.10, "", None, ["x"])),
    ],
)
def test_what_is_not_of_its_kind_is_as_good_as_absent(field: str, value: Any) -> None:
    assert from_json(**{field: value}) == from_json()


def test_halves_of_characters_become_whole_ones() -> None:
    content = page(entry(yanked="MARK")).replace(b"MARK", b"\\ud800!")
    (file,) = parse(content, JSON, URL)
    assert file.yanked == "?!"


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd.whl",
        "..\\x.whl",
        "a b.whl",
        "x\n.whl",
        "x\x00.whl",
        "torch-2.8.0.whl.metadata",
        "torch-2.8.0-cp310-cp310-linux_aarch64.whl.asc",
        "",
        "é.whl",
        ".whl",
    ],
)
def test_other_names_are_no_files(name: str) -> None:
    assert parse(page(entry(filename=name), entry()), JSON, URL) == (from_json(),)


@pytest.mark.parametrize(
    "href",
    [
        "..%2f..%2fetc%2fpasswd.whl",
        "%2e%2e%2fx.whl",
        "x%00.whl",
        "https://[bad/x.whl",
        "file:///etc/x.whl",
        "javascript:x.whl",
        "mailto:x.whl",
        "ftp://host/x.whl",
        "",
    ],
)
def test_links_to_no_file_are_left_out(href: str) -> None:
    good = f'<a href="{NAME}">x</a>'
    assert html(f'<a href="{href}">x</a>', good) == html(good)


@pytest.mark.parametrize("url", ["https://[bad/x.whl", "file:///etc/x.whl", "mailto:x.whl", "x\x00.whl", "x\u2028.whl"])
def test_json_links_to_no_file_are_left_out(url: str) -> None:
    assert parse(page(entry(url=url), entry()), JSON, URL) == (from_json(),)


def test_source_archives_are_files_too() -> None:
    names = ["torch-1.0.tar.gz", "torch-1.0.zip", "torch-1.0-py2.7.egg"]
    assert [file.filename for file in html(*(f'<a href="{name}">x</a>' for name in names))] == names


def test_loosely_written_html() -> None:
    lines = (
        f"<A HREF='{NAME}#sha256={SHA}' Data-Requires-Python='>=3.10,<3.13'>x</A>",
        f"<a\n  data-gpg-sig=false\n  href = {NAME}\n>x",
        f'<a/href="{NAME}"/data-yanked>x</a>',
        f'<a title="a > b" href="{NAME}" href="second.whl">x</a>',
    )
    files = html(*lines)
    assert [file.filename for file in files] == [NAME] * 4
    assert (files[0].sha256, files[0].requires_python) == (SHA, ">=3.10,<3.13")
    assert files[2].yanked == ""


def test_what_is_in_comments_and_scripts_is_no_link() -> None:
    hidden = '<a href="hidden-1.0.whl">x</a>'
    good = f'<a href="{NAME}">x</a>'
    assert html(f"<!-- {hidden} -->", f"<script>'{hidden}'</script>", f"<style>{hidden}</style>", good) == html(good)
    assert html(good, f"<!-- never closed {hidden}") == html(good)
    assert html(f'<abbr href="x.whl">x</abbr><area href="x.whl">{good}') == html(good)


@pytest.mark.parametrize(
    "text", [DEVPI_EMPTY, WAREHOUSE_EMPTY, "<title>Simple Index</title>", "<h1>Index of /torch/</h1>"]
)
def test_an_empty_page_is_a_page(text: str) -> None:
    assert parse(text.encode(), HTML, URL) == ()


@pytest.mark.parametrize(
    "text", [PORTAL, "", "garbage", "<html></html>", "\x00\x01\x02", "links for nobody", "<a href='manual.pdf'>x</a>"]
)
def test_another_page_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="its HTML is not a package page"):
        parse(text.encode(), HTML, URL)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a package page"),
        (b"<html>", "not a package page"),
        (b"[]", "not a package page"),
        (b"\xff\xfe", "not a package page"),
        (b"{}", "not a package page"),
        (b'{"meta": null, "files": []}', "not a package page"),
        (page(5), "not a package page"),
        (page("x"), "not a package page"),
        (page({"filename": NAME}), "not a package page"),
        (page(files=None), "not a package page"),
        (b"[" * 100_000, "not a package page"),
        (b'{"meta": ' + b"1" * 5000 + b"}", "not a package page"),
        (page(meta={"api-version": "2.0"}), "version '2.0'"),
    ],
)
def test_json_that_is_no_page(content: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(content, JSON, URL)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "application/octet-stream", "image/png"])
def test_another_type_is_named(kind: str) -> None:
    with pytest.raises(ValueError, match=f"`{kind or 'no type'}`"):
        parse(page(), kind, URL)


@pytest.mark.parametrize("kind", ["text/html; charset=UTF-8", "TEXT/HTML", "application/vnd.pypi.simple.v1+html"])
def test_types_are_read_as_servers_write_them(kind: str) -> None:
    assert parse(DEVPI_EMPTY.encode(), kind, URL) == ()
    assert parse(page(), f"{JSON.upper()} ; q=1", URL) == ()


@given(st.binary(max_size=400), st.sampled_from([JSON, HTML]))
def test_any_bytes_are_a_page_or_a_value_error(content: bytes, kind: str) -> None:
    with contextlib.suppress(ValueError):
        parse(content, kind, URL)


_SCRAPS = st.sampled_from(
    [
        "<a",
        "<base",
        " href=",
        '"',
        "'",
        ">",
        "<",
        "/",
        "=",
        " ",
        "\n",
        "<!--",
        "-->",
        "<script>",
        "&#",
        "x.whl",
        "//[",
        "#",
    ]
)


@given(st.lists(_SCRAPS, max_size=40))
def test_any_scraps_of_html_are_read(scraps: list[str]) -> None:
    page = "<title>Links for x</title>" + "".join(scraps)
    for file in parse(page.encode(), HTML, URL):
        assert file.filename.endswith("x.whl")
        assert file.url.startswith("https://")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_KEYS = ["filename", "url", "hashes", "yanked", "size", "upload-time", "requires-python", "core-metadata"]


@given(st.dictionaries(st.sampled_from(_KEYS), _VALUES))
def test_any_entry_is_a_file_or_none(changes: dict[str, Any]) -> None:
    for file in parse(page(entry(**changes)), JSON, URL):
        assert file.sha256 in (None, SHA)
        assert "/" not in file.filename
        assert isinstance(file.requires_python, str | None)
        assert file.size is None or file.size >= 0


@pytest.mark.parametrize(
    "scrap", ["<a ", "<a href='", '<a x="y" ', "<!-- --", "<script", "</a", "<base href=", "<a x="]
)
def test_garbage_takes_time_that_grows_with_its_length_only(scrap: str) -> None:
    # The square of this length would take hours.
    with pytest.raises(ValueError, match="not a package page"):
        parse(scrap.encode() * 300_000, HTML, URL)
