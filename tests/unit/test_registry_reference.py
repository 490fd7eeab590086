from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import RecipeError
from builder.remote.registry.reference import Reference, api_base

DIGEST = "sha256:" + "0123456789abcdef" * 4


WORDS = st.text("abcxyz019", min_size=1, max_size=6)
LABELS = st.text("abXY09", min_size=1, max_size=5)
PARTS = st.lists(WORDS, min_size=1, max_size=3).flatmap(
    lambda words: st.sampled_from([".", "_", "__", "-", "---"]).map(lambda gap: gap.join(words))
)
HOSTS = st.builds(
    lambda labels, port: ".".join(labels) + port,
    st.lists(LABELS, min_size=2, max_size=3) | st.just(["localhost"]),
    st.sampled_from(["", ":5000", ":1"]),
) | st.sampled_from(["[::1]:5000", "127.0.0.1:5000"])
TAGS = st.builds(str.__add__, st.sampled_from("aZ0_"), st.text("abZ09_.-", max_size=127))
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)
references = st.builds(
    Reference,
    host=HOSTS,
    repository=st.lists(PARTS, min_size=1, max_size=4).map("/".join),
    tag=st.none() | TAGS,
    digest=st.none() | DIGESTS,
)


@given(references)
def test_what_is_written_reads_back(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_a_clear_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except RecipeError:
        return
    assert Reference.parse(str(reference)) == reference
    assert not set(str(reference)) & set(" \n\t\"'$\\#?&%")


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("debian", "docker.io/library/debian"),
        ("debian:bookworm", "docker.io/library/debian:bookworm"),
        ("docker.io/debian", "docker.io/library/debian"),
        ("index.docker.io/library/debian", "docker.io/library/debian"),
        ("dustynv/vllm:0.7", "docker.io/dustynv/vllm:0.7"),
        ("nvcr.io/nvidia/l4t-jetpack:r36.4.0", "nvcr.io/nvidia/l4t-jetpack:r36.4.0"),
        ("localhost/x", "localhost/x"),
        ("localhost:5000/x:1", "localhost:5000/x:1"),
        ("127.0.0.1:5000/a/b__c-d.e:T_1", "127.0.0.1:5000/a/b__c-d.e:T_1"),
        ("[::1]:5000/x", "[::1]:5000/x"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"r.io/a:1@{DIGEST}", f"r.io/a:1@{DIGEST}"),
    ],
)
def test_names_are_read_as_docker_reads_them(text: str, full: str) -> None:
    assert str(Reference.parse(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Debian",
        "a b",
        "debian:",
        "debian:-x",
        "debian\n",
        "debian:1\n",
        "https://r.io/x",
        "r.io/",
        "r.io//x",
        "r.io/x/",
        "r.io/x@sha256:12",
        "r.io/x@md5:12",
        "r.io:port/x",
        "user:secret@r.io/x",
        f"{'x' * 300}",
        f"debian:{'x' * 129}",
        "r.io/a___b",
        "r.io/-a",
        "../x",
        "r.io/ü",
        "r.io/x:ü",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        Reference.parse(text)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(RecipeError) as caught:
        Reference.parse("https://r.io/x")
    assert "scheme" in (caught.value.hint or "")
    with pytest.raises(RecipeError) as caught:
        Reference.parse("r.io/Team/X")
    assert "lower case" in (caught.value.hint or "")


def test_parts() -> None:
    reference = Reference.parse(f"r.io/a:1@{DIGEST}")
    assert (reference.name, reference.tag_or_digest) == ("r.io/a", DIGEST)
    assert Reference.parse("r.io/a:1").tag_or_digest == "1"
    assert Reference.parse("r.io/a").tag_or_digest == "latest"
    assert str(Reference.parse("r.io/a:1").at(DIGEST)) == f"r.io/a@{DIGEST}"


@pytest.mark.parametrize(
    ("host", "insecure", "base"),
    [
        ("docker.io", (), "https://registry-1.docker.io"),
        ("ghcr.io", (), "https://ghcr.io"),
        ("localhost", (), "http://localhost"),
        ("localhost:5000", (), "http://localhost:5000"),
        ("127.0.0.2:5000", (), "http://127.0.0.2:5000"),
        ("[::1]:5000", (), "http://[::1]:5000"),
        ("[::1]", (), "http://[::1]"),
        ("10.0.0.1:5000", (), "https://10.0.0.1:5000"),
        ("10.0.0.1:5000", ("10.0.0.1:5000",), "http://10.0.0.1:5000"),
        ("10.0.0.1:5000", ("10.0.0.1:5000/team",), "http://10.0.0.1:5000"),
        ("10.0.0.1:5000", ("10.0.0.1",), "https://10.0.0.1:5000"),
        ("localhost.example.com", (), "https://localhost.example.com"),
    ],
)
def test_api_base(host: str, insecure: tuple[str, ...], base: str) -> None:
    assert api_base(host, insecure) == base
