"""The user's settings: where mistakes are, what wins, and which mirror applies."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import DocumentError, RecipeError
from builder.host import config
from builder.host.config import Config, LayerCompression, RegistryMirror, build_ca_bundle, with_options
from builder.jetson.packages import families
from builder.model.recipes import PublishSpec
from builder.publish.stage import targets

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, text: str, name: str = "jbuild.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(*paths: Path) -> list[tuple[str, int | None, str]]:
    with pytest.raises(DocumentError) as caught:
        config.load(paths)
    return [(p.path.name, p.line, p.key) for p in caught.value.problems]


def test_without_files_there_are_no_settings(tmp_path: Path) -> None:
    assert config.load([tmp_path / "absent.toml"]) == Config()


def test_everything_is_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    path = written(
        tmp_path,
        """
        [publish]
        registries = ["localhost:5000/team", "ghcr.io/me"]
        insecure = ["localhost:5000"]
        compression = "gzip"
        [hub]
        endpoint = "https://hub.example"
        [network]
        ca-bundle = "ca.pem"
        [build]
        builder = "remote-1"
        silent-s = 900
        runner = "workstation"
        cache-from = ["type=local,src=cache"]
        cache-to = ["type=registry,ref=localhost:5000/cache,mode=max"]
        [python]
        mirror = "https://mirror.example/python"
        [[registry-mirrors]]
        prefix = "docker.io/library"
        mirror = "localhost:5000/mirror"
        stand-in = "made here"
        [[model-mirrors]]
        source = "hf://org/name"
        folder = "models/name"
        """,
    )
    found = config.load([path])
    assert found.registries == ("localhost:5000/team", "ghcr.io/me")
    assert found.insecure_registries == ("localhost:5000",)
    assert found.hub_endpoint == "https://hub.example"
    assert found.ca_bundle == tmp_path / "ca.pem"
    assert found.builders == ("remote-1",)
    assert found.compression == "gzip"
    assert (found.silent_s, Config().silent_s) == (900, 3600)
    assert (found.runner, Config().runner) == ("workstation", None)
    assert [cache.argument("r", "c") for cache in found.cache_from] == [f"type=local,src={tmp_path}/cache"]
    assert [cache.kind for cache in found.cache_to] == ["registry"]
    assert found.python_mirror == "https://mirror.example/python"
    assert found.registry_mirrors == (
        RegistryMirror(prefix="docker.io/library", mirror="localhost:5000/mirror", stand_in="made here"),
    )
    assert found.model_mirrors[0].folder == tmp_path / "models" / "name"
    assert found.model_mirrors[0].stand_in is None


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("[publish]\nregistrys = []\n", 2, "publish.registrys"),
        ("[publsh]\n", 1, "publsh"),
        ('[python]\nmirror = "ftp://x"\n', 2, "python.mirror"),
        ('[python]\nmiror = "http://x"\n', 2, "python.miror"),
        ("[publish]\nregistries = 'localhost'\n", 2, "publish.registries"),
        ("[publish]\nregistries = ['ok', 'not a host']\n", 2, "publish.registries[1]"),
        ("[publish]\ninsecure = ['http://x']\n", 2, "publish.insecure[0]"),
        ("[hub]\nendpoint = 'hub.example'\n", 2, "hub.endpoint"),
        ("[hub]\nendpoint = 3\n", 2, "hub.endpoint"),
        ("[network]\nca-bundle = 'absent.pem'\n", 2, "network.ca-bundle"),
        ("[build]\nbuilder = '--evil'\nx = 1\n", 3, "build.x"),
        ("[build]\nsilent-s = 1\n", 2, "build.silent-s"),
        ("[build]\nrunner = '--evil'\n", 2, "build.runner"),
        ("[build]\nbuilder = 'a b'\n", 2, "build.builder"),
        ("[build]\nbuilders = ['a', '-b']\n", 2, "build.builders[1]"),
        ("[build]\nbuilders = ['a']\nbuilder = 'b'\n", 3, "build.builder"),
        ("[publish]\ncompression = 'xz'\n", 2, "publish.compression"),
        ("[publish]\ncompression = true\n", 2, "publish.compression"),
        ("[publish]\ncompression-level = 20\n", 2, "publish.compression-level"),
        ("[publish]\ncompression-level = 'fast'\n", 2, "publish.compression-level"),
        ("\n[[registry-mirrors]]\nprefix = 'a'\n", 2, "registry-mirrors[0]"),
        ("[[registry-mirrors]]\nprefix = 'A B'\nmirror = 'b'\n", 2, "registry-mirrors[0].prefix"),
        ("[[registry-mirrors]]\nprefix = 'a'\nmirror = 'b'\nnote = ''\n", 4, "registry-mirrors[0].note"),
        ("[[model-mirrors]]\nsource = 'org/name'\nfolder = 'x'\n", 2, "model-mirrors[0].source"),
        ("[[model-mirrors]]\nsource = 'hf://a/b'\nfolder = 7\n", 3, "model-mirrors[0].folder"),
        ("publish = 1\n", 1, "publish"),
        ("x = \n", 1, ""),
    ],
)
def test_every_bad_key_is_located(tmp_path: Path, text: str, line: int, key: str) -> None:
    assert ("jbuild.toml", line, key) in problems(written(tmp_path, text))


def test_keys_and_single_registries(tmp_path: Path) -> None:
    for name in ("own.key", "one.pub", "two.pub", "ca.pem"):
        (tmp_path / name).touch()
    text = (
        '[publish]\ncosign-key = "own.key"\ntrusted-keys = ["one.pub", "two.pub"]\n'
        '[[registries]]\nhost = "a.example"\nca-bundle = "ca.pem"\n'
        '[[registries]]\nhost = "b.example:5000"\ninsecure = true\n'
    )
    found = config.load([written(tmp_path, text)])
    assert found.cosign_key == tmp_path / "own.key"
    assert found.trusted_keys == (tmp_path / "one.pub", tmp_path / "two.pub")
    assert found.for_registry("a.example").ca_bundle == tmp_path / "ca.pem"
    assert found.for_registry("a.example").insecure_registries == ()
    assert found.for_registry("b.example:5000").insecure_registries == ("b.example:5000",)
    assert found.for_registry("b.example:5000").ca_bundle == found.ca_bundle
    assert found.for_registry("c.example") is found


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ('[publish]\ncosign-key = "nothing.key"', 2, "publish.cosign-key"),
        ('[publish]\ntrusted-keys = ["nothing.pub"]', 2, "publish.trusted-keys"),
        ('[[registries]]\nhost = "https://a.example"', 2, "registries[0].host"),
        ('[[registries]]\nhost = "a.example"\nca-bundle = "nothing.pem"', 3, "registries[0].ca-bundle"),
        ('[[registries]]\nhost = "a.example"\nca = "x"', 3, "registries[0].ca"),
        ("[[registries]]\ninsecure = true", 1, "registries[0]"),
    ],
)
def test_bad_keys_and_registries_are_located(tmp_path: Path, text: str, line: int, key: str) -> None:
    assert ("jbuild.toml", line, key) in problems(written(tmp_path, text + "\n"))


def test_nearest_name_is_offered(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        config.load([written(tmp_path, "[publish]\nregistrys = []\n")])
    assert caught.value.problems[0].hint == "did you mean `registries`?"


def test_mistakes_of_all_files_come_together(tmp_path: Path) -> None:
    first = written(tmp_path, "[hub]\nendpoint = 1\n[build]\nbilder = 'x'\n", "one.toml")
    broken = written(tmp_path, "[[[\n", "two.toml")
    third = written(tmp_path, "[publish]\ninsecure = [1]\n", "three.toml")
    found = problems(first, broken, third)
    assert {name for name, _, _ in found} == {"one.toml", "two.toml", "three.toml"}
    assert len(found) == 4


def test_later_files_win_and_their_mirrors_come_first(tmp_path: Path) -> None:
    mirror = "[[registry-mirrors]]\nprefix = 'docker.io'\nmirror = '{}'\n"
    weak = written(tmp_path, "[publish]\nregistries=['a']\n[build]\nbuilder='x'\n" + mirror.format("weak"), "1.toml")
    strong = written(tmp_path, "[publish]\nregistries=['b']\n" + mirror.format("strong"), "2.toml")
    found = config.load([weak, strong])
    assert found.registries == ("b",)
    assert found.builders == ("x",)
    assert found.mirrored("docker.io/library/debian")[0] == "strong/library/debian"


LISTS = {
    "registries": "[publish]\nregistries = {}\n",
    "insecure_registries": "[publish]\ninsecure = {}\n",
    "builders": "[build]\nbuilders = {}\n",
}


@pytest.mark.parametrize("field", LISTS)
def test_a_project_can_empty_a_users_list(tmp_path: Path, field: str) -> None:
    user = written(tmp_path, LISTS[field].format('["one", "two"]'), "user.toml")
    project = written(tmp_path, LISTS[field].format("[]"), "project.toml")
    silent = written(tmp_path, "[publish]\n[build]\n", "silent.toml")
    assert getattr(config.load([user, silent]), field) == ("one", "two")
    assert getattr(config.load([user, project]), field) == ()
    assert getattr(config.load([user, project, silent]), field) == ()


def test_a_project_can_empty_keys_and_caches(tmp_path: Path) -> None:
    (tmp_path / "one.pub").touch()
    text = '[publish]\ntrusted-keys = ["one.pub"]\n[build]\ncache-from = ["type=gha"]\ncache-to = ["type=gha"]\n'
    user = written(tmp_path, text, "user.toml")
    empty = "[publish]\ntrusted-keys = []\n[build]\ncache-from = []\ncache-to = []\n"
    found = config.load([user, written(tmp_path, empty, "project.toml")])
    assert (found.trusted_keys, found.cache_from, found.cache_to) == ((), (), ())


def test_a_later_file_can_set_a_default_again(tmp_path: Path) -> None:
    user = written(tmp_path, "[publish]\ncompression = 'gzip'\n[build]\nsilent-s = 90\n", "user.toml")
    project = written(tmp_path, "[publish]\ncompression = 'zstd'\n[build]\nsilent-s = 3600\n", "project.toml")
    assert (config.load([user]).compression, config.load([user]).silent_s) == ("gzip", 90)
    assert config.load([user, project]) == Config()


def test_one_builder_replaces_several(tmp_path: Path) -> None:
    user = written(tmp_path, "[build]\nbuilders = ['a', 'b']\n", "user.toml")
    assert config.load([user, written(tmp_path, "[build]\nbuilder = 'c'\n", "project.toml")]).builders == ("c",)


def test_rules_of_all_layers_are_kept_the_strongest_first(tmp_path: Path) -> None:
    rule = "[[index-mirrors]]\nprefix = 'https://x/'\nmirror = 'https://{}/'\n"
    files = [written(tmp_path, rule.format(name), f"{name}.toml") for name in ("user", "project", "local")]
    assert [r.mirror for r in config.load(files).index_mirrors] == [
        "https://local/",
        "https://project/",
        "https://user/",
    ]


def test_the_whole_cascade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [
        written(tmp_path, LISTS["registries"].format(f'["{name}"]'), f"{name}.toml")
        for name in ("user", "project", "local")
    ]
    assert config.load([]).registries == ()
    assert [config.load(files[:count]).registries[0] for count in (1, 2, 3)] == ["user", "project", "local"]
    monkeypatch.setenv("JBUILD_PUBLISH_REGISTRIES", "environment:5000/team other")
    found = config.load(files)
    assert found.registries == ("environment:5000/team", "other")
    assert with_options(found, registries=("option",)).registries == ("option",)
    assert with_options(found, registries=()).registries == found.registries


def test_recipes_stand_between_the_environment_and_the_command_line() -> None:
    found = Config(registries=("file",))
    own, bare = PublishSpec(repository="vllm", registries=("recipe",)), PublishSpec(repository="vllm")
    assert targets(bare, (), found) == ("file",)
    assert targets(own, (), found) == ("recipe",)
    assert targets(own, ("option",), found) == ("option",)


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("JBUILD_PUBLISH_COMPRESSION", "gzip", "compression", "gzip"),
        ("JBUILD_PUBLISH_COMPRESSION_LEVEL", "3", "layers", LayerCompression("zstd", 3)),
        ("JBUILD_PUBLISH_KEEP_LAYERS", "True", "keep_layers", True),
        ("JBUILD_PUBLISH_INSECURE", "a:1 b:2", "insecure_registries", ("a:1", "b:2")),
        ("JBUILD_BUILD_BUILDER", "far", "builders", ("far",)),
        ("JBUILD_BUILD_BUILDERS", "a b", "builders", ("a", "b")),
        ("JBUILD_BUILD_SILENT_S", "90", "silent_s", 90.0),
        ("JBUILD_BUILD_RUNNER", "workstation", "runner", "workstation"),
        ("JBUILD_PYTHON_MIRROR", "https://m", "python_mirror", "https://m"),
        ("JBUILD_HUB_ENDPOINT", "https://h", "hub_endpoint", "https://h"),
    ],
)
def test_every_single_setting_has_a_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str, expected: object
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://weaker")
    monkeypatch.setenv(variable, value)
    assert getattr(config.load([]), field) == expected
    monkeypatch.setenv(variable, "")
    assert getattr(config.load([]), field) == getattr(Config(hub_endpoint="https://weaker"), field)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("JBUILD_PUBLISH_COMPRESSION", "xz", "`xz` is not zstd or gzip"),
        ("JBUILD_PUBLISH_REGISTRIES", "ok https://x", "`https://x` is not a registry such as host:5000/team"),
        ("JBUILD_PUBLISH_KEEP_LAYERS", "yes", "must be true or false"),
        ("JBUILD_BUILD_SILENT_S", "1", "1.0 is out of bounds"),
        ("JBUILD_BUILD_SILENT_S", "long", "must be a number"),
        ("JBUILD_NETWORK_CA_BUNDLE", "/no/such/file", "no such file: /no/such/file"),
    ],
)
def test_variables_are_checked_as_keys_are(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(RecipeError) as caught:
        config.load([])
    assert re.sub(r" \(known.*", "", caught.value.message) == f"{variable}: {message}"
    assert (caught.value.where, bool(caught.value.hint)) == (value, True)


def test_own_families_of_indexes(tmp_path: Path) -> None:
    text = "[families.mine]\npackages = ['torch']\n[[indexes]]\nname = 'a'\nurl = 'https://x/'\nfamily = 'mine'\n"
    assert config.load([written(tmp_path, text)], families()).indexes[0].packages == ("torch",)
    path = written(tmp_path, "[families.mine]\npackage = ['torch']\n")
    assert problems(path) == [("jbuild.toml", 2, "families.mine.package")]


def test_hub_of_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "[hub]\nendpoint = 'https://file.example'\n")
    assert config.load([path]).hub_endpoint == "https://file.example"
    monkeypatch.setenv("HF_ENDPOINT", "http://environment.example")
    assert config.load([path]).hub_endpoint == "http://environment.example"


def test_hub_of_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(RecipeError, match="HF_ENDPOINT"):
        config.load([])


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"])
def test_certificates_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, str(written(tmp_path, "x", "env.pem")))
    assert config.load([]).ca_bundle == tmp_path / "env.pem"


def test_certificates_of_a_file_hold_against_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.pem").write_text("x")
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    path = written(tmp_path, "[network]\nca-bundle = 'own.pem'\n")
    assert config.load([path]).ca_bundle == tmp_path / "own.pem"


def test_certificates_of_the_environment_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with pytest.raises(RecipeError, match="SSL_CERT_FILE") as caught:
        config.load([])
    assert caught.value.where == "/no/such/file"
    assert caught.value.hint


def test_a_build_gets_the_configured_certificates_else_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, system = tmp_path / "own.pem", written(tmp_path, "x", "system.pem")
    monkeypatch.setattr(config, "_SYSTEM_CA_FILES", ("/no/such/file", str(system)))
    assert build_ca_bundle(Config(ca_bundle=own)) == own
    assert build_ca_bundle(Config()) == system
    monkeypatch.setattr(config, "_SYSTEM_CA_FILES", ())
    assert build_ca_bundle(Config()) is None


RULES = Config(
    registry_mirrors=(
        RegistryMirror(prefix="docker.io", mirror="short"),
        RegistryMirror(prefix="docker.io/library", mirror="long:5000/x"),
        RegistryMirror(prefix="docker.io/library/debian", mirror="exact/debian-mine"),
    )
)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("docker.io/library/debian:bookworm-slim", "exact/debian-mine:bookworm-slim"),
        ("docker.io/library/debian@sha256:0", "exact/debian-mine@sha256:0"),
        ("docker.io/library/debian", "exact/debian-mine"),
        ("docker.io/library/debianish", "long:5000/x/debianish"),
        ("docker.io/libraryx/y", "short/libraryx/y"),
        ("docker.iox/y", "docker.iox/y"),
        ("nvcr.io/nvidia/l4t-jetpack:r36.4.0", "nvcr.io/nvidia/l4t-jetpack:r36.4.0"),
    ],
)
def test_longest_prefix_of_whole_parts_applies(image: str, name: str) -> None:
    assert RULES.mirrored(image)[0] == name


def test_the_rule_comes_with_the_name() -> None:
    assert RULES.mirrored("docker.io/x/y")[1] == RULES.registry_mirrors[0]
    assert RULES.mirrored("quay.io/x/y")[1] is None


@given(st.permutations(RULES.registry_mirrors), st.sampled_from(["library/debian:1", "library/x", "a/b"]))
def test_the_order_of_rules_does_not_matter_where_prefixes_differ(rules: list[RegistryMirror], rest: str) -> None:
    image = f"docker.io/{rest}"
    assert Config(registry_mirrors=tuple(rules)).mirrored(image) == RULES.mirrored(image)


def test_every_setting_is_declared() -> None:
    declared = {field.argument for field in config._CONFIG.fields}
    # `builder` is another spelling, and families are read with the indexes.
    assert declared - {"builder", "families"} == {field.name for field in dataclasses.fields(Config)}
