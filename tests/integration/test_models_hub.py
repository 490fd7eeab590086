"""Models from a hub: a real HTTP server on loopback, a real hub client, faults of all kinds."""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from factories import make_session
from hub_stand_in import COMMIT, Asked, HubStandIn, small_model, weights
from layer_files import bake

from builder.errors import IntegrityError, JbuildError, ModelError, NetworkError
from builder.host.config import ModelMirror
from builder.model.recipes import Model
from builder.models.fetch import fetch_model
from builder.models.model_lock import lock_model
from builder.remote import http
from builder.remote.download import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from builder.model.model_files import LockedModel

MODEL = Model(name="tiny", source="hf://org/tiny@main")
BIG = 10_000_000
SHARD = "model-00002-of-00002.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 11421896\n" % (b"4" * 64)
TAKEN = (
    "LICENSE",
    "chat_template.jinja",
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token, proxy or hub of the user's; no long waits."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    from huggingface_hub import constants  # noqa: PLC0415

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(http, "Retry", functools.partial(http.Retry, first_wait_s=0.01))


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn(small_model()).running() as running:
        yield running


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models"


def lock(hub: HubStandIn, models: Path, model: Model = MODEL, **config: Any) -> LockedModel:
    return lock_model(model, models, make_session(models, hub_endpoint=hub.endpoint, **config))


def lock_without_headers(hub: HubStandIn, models: Path) -> LockedModel:
    """Lock while the store of the hub's weights does not answer."""
    hub.fails("/cdn/", status=503, times=99)
    locked = lock(hub, models)
    hub.faults.clear()
    return locked


def fetch(locked: LockedModel, hub: HubStandIn, models: Path) -> None:
    fetch_model(locked, models, make_session(models, hub_endpoint=hub.endpoint))


def begin_of(asked: Asked) -> int:
    """Return the byte from which a request asks."""
    return int((asked.headers.get("Range") or "bytes=0-")[len("bytes=") : -1])


def left_over(models: Path) -> list[str]:
    """Return what lies in the store beside blobs, memories and lock files."""
    return [p.name for p in (models / "partial").iterdir() if not p.name.endswith(".lock")]


def test_locks_fetches_and_bakes(hub: HubStandIn, models: Path, tmp_path: Path) -> None:
    locked = lock(hub, models)
    assert (locked.name, locked.source, locked.origin, locked.revision) == ("tiny", MODEL.source, "hub", COMMIT)
    assert (locked.licence, locked.stand_in) == ("apache-2.0", None)
    assert tuple(file.path for file in locked.files) == TAKEN
    for file in locked.files:
        data = hub.files[file.path]
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    asked = [asked.headers["Range"] for asked in hub.requests("/cdn/")]
    assert asked == ["bytes=0-65535"] * 2, "a lock needs the headers of weights only"

    fetch(locked, hub, models)
    assert left_over(models) == []
    bake(locked, models, tmp_path / "layer")
    baked = tmp_path / "layer" / "models" / "tiny"
    assert {p.name: p.read_bytes() for p in baked.iterdir()} == {path: hub.files[path] for path in TAKEN}


def test_what_is_here_is_not_asked_for_again(hub: HubStandIn, models: Path) -> None:
    locked = lock(hub, models)
    fetch(locked, hub, models)
    hub.asked.clear()
    fetch(locked, hub, models)
    assert hub.asked == []
    assert lock(hub, models) == locked
    assert [asked.path for asked in hub.asked] == ["/api/models/org/tiny/revision/main"]


def test_a_header_is_read_whole_however_long_it_is(hub: HubStandIn, models: Path) -> None:
    header = json.dumps({"b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).ljust(100_000).encode()
    hub.files[SHARD] = len(header).to_bytes(8, "little") + header + b"x"
    lock(hub, models)
    ranges = [asked.headers["Range"] for asked in hub.requests(f"/cdn/{SHARD}")]
    assert ranges == ["bytes=0-65535", "bytes=0-100007"]
    fetch(lock(hub, models), hub, models)
    hub.asked.clear()
    lock(hub, models)
    assert not hub.requests("/cdn/"), "the store has them"


def test_a_lock_can_be_fetched_by_another_cache(hub: HubStandIn, models: Path, tmp_path: Path) -> None:
    locked = lock(hub, models)
    hub.asked.clear()
    fetch(locked, hub, tmp_path / "other" / "models")
    assert len(hub.requests("/cdn/")) == 2


def test_a_commit_as_revision(hub: HubStandIn, models: Path) -> None:
    assert lock(hub, models, replace(MODEL, source=f"hf://org/tiny@{COMMIT}")).revision == COMMIT


def test_the_token_goes_to_the_hub_only(hub: HubStandIn, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(lock(hub, models), hub, models)
    for asked in hub.asked:
        sent = asked.headers.get("Authorization")
        assert sent == (None if asked.path.startswith("/cdn/") else "Bearer hf_secret"), asked.path


def test_the_recipes_licence_wins(hub: HubStandIn, models: Path) -> None:
    assert lock(hub, models, replace(MODEL, licence="MIT")).licence == "MIT"


def test_a_strange_licence_does_not_become_a_label(hub: HubStandIn, models: Path) -> None:
    hub.tags = ['license:x"\nLABEL y']
    assert lock(hub, models).licence is None


@pytest.mark.parametrize("status", [401, 403])
def test_refused_without_a_token(hub: HubStandIn, models: Path, status: int) -> None:
    hub.fails("/api/", status=status, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(ModelError) as caught:
        lock(hub, models)
    page = f"{hub.endpoint}/org/tiny"
    assert caught.value.message == f"the hub refuses hf://org/tiny@main ({status})"
    assert caught.value.where == page
    assert caught.value.hint == (
        f"accept the model's licence at {page}, then set HF_TOKEN to a token of that account; "
        "hubs also give this answer for names that do not exist"
    )
    assert len(hub.asked) == 1, "never tried again"


def test_refused_with_a_token(hub: HubStandIn, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.fails("/resolve/", status=403)
    with pytest.raises(ModelError) as caught:
        lock(hub, models)
    page = f"{hub.endpoint}/org/tiny"
    assert caught.value.hint == (
        f"accept the model's licence at {page} with the account of your HF_TOKEN, and let the token read it"
    )
    assert "hf_secret" not in str(caught.value.as_json())


def test_a_gated_model_is_refused_when_its_weights_are_fetched(hub: HubStandIn, models: Path) -> None:
    locked = lock(hub, models)
    hub.fails("/resolve/", status=401)
    with pytest.raises(ModelError, match=r"the hub refuses hf://org/tiny@0123456789abcdef\w+ \(401\)"):
        fetch(locked, hub, models)


def test_no_such_model(hub: HubStandIn, models: Path) -> None:
    with pytest.raises(ModelError) as caught:
        lock(hub, models, replace(MODEL, source="hf://org/tinny@main"))
    assert caught.value.message == "the hub has no model org/tinny (revision `main`)"
    assert caught.value.hint == "correct `source` in the recipe; if the model is private, set HF_TOKEN"


def test_no_such_revision(hub: HubStandIn, models: Path) -> None:
    with pytest.raises(ModelError) as caught:
        lock(hub, models, replace(MODEL, source="hf://org/tiny@v9"))
    assert caught.value.message == "the hub has no revision `v9` of org/tiny"
    assert caught.value.where == f"{hub.endpoint}/org/tiny"


def test_a_file_that_is_gone(hub: HubStandIn, models: Path) -> None:
    locked = lock(hub, models)
    del hub.files[SHARD]
    with pytest.raises(ModelError, match=f"a file of hf://org/tiny@{COMMIT} is no longer on the hub"):
        fetch(locked, hub, models)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_hub_in_trouble_is_asked_again(hub: HubStandIn, models: Path, status: int) -> None:
    hub.fails("/api/", status=status, times=2)
    hub.fails("/resolve/", status=status, times=2)
    locked = lock(hub, models)
    hub.fails("/cdn/", status=status, times=2)
    fetch(locked, hub, models)
    assert left_over(models) == []


def test_a_hub_that_stays_in_trouble(hub: HubStandIn, models: Path) -> None:
    hub.fails("/api/", status=503)
    with pytest.raises(NetworkError) as caught:
        lock(hub, models)
    assert caught.value.message == f"the hub at {hub.endpoint} answers 503"
    assert caught.value.hint == (
        "run it again later, or set HF_ENDPOINT, or hub.endpoint in jbuild.toml, to a hub that can be reached, "
        "or map the model to a folder with [[model-mirrors]]"
    )
    assert len(hub.asked) == 5


def test_too_many_requests(hub: HubStandIn, models: Path) -> None:
    hub.fails("/resolve/", status=429)
    with pytest.raises(NetworkError) as caught:
        lock(hub, models)
    assert caught.value.message == f"the hub at {hub.endpoint} limits requests (429)"
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("wait a few minutes and run it again; HF_TOKEN raises the limit")


def test_retry_after_longer_than_patience_ends_at_once(hub: HubStandIn, models: Path) -> None:
    hub.fails("/api/", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(NetworkError):
        lock(hub, models)
    assert len(hub.asked) == 1


def test_an_unreachable_hub(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NetworkError) as caught:
            lock_model(MODEL, models, make_session(models, hub_endpoint=endpoint))
    assert caught.value.message == f"the hub at {endpoint} cannot be reached: connection refused"
    assert caught.value.hint is not None
    assert "HF_ENDPOINT" in caught.value.hint


@pytest.mark.parametrize("endpoint", ["http://[", "http://127.0.0.1:99999999", "http://no.such.host.invalid"])
def test_an_endpoint_that_is_none(models: Path, endpoint: str) -> None:
    with pytest.raises(NetworkError, match="the hub at"):
        lock_model(MODEL, models, make_session(models, hub_endpoint=endpoint))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>log in</html>",
        b"[]",
        b'{"id": "x"}',
        b'{"sha": 5, "id": "x"}',
        b'{"sha": "x", "id": "x", "siblings": 7}',
        b'{"sha": "%s", "siblings": [{"rfilename": "a", "size": -1}]}' % COMMIT.encode(),
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=range(7),
)
def test_something_else_than_a_hub(hub: HubStandIn, models: Path, body: bytes) -> None:
    hub.fails("/api/", body=body)
    with pytest.raises(NetworkError) as caught:
        lock(hub, models)
    assert caught.value.message == f"the server at {hub.endpoint} is not a model hub"
    assert len(hub.asked) == 1


@pytest.mark.parametrize("path", ["/api/", "/resolve/"])
@pytest.mark.parametrize("address", ["http://[::1/x", "http://127.0.0.1:99999/x", "http://h:port/x"])
def test_a_redirect_to_a_malformed_address(hub: HubStandIn, models: Path, path: str, address: str) -> None:
    hub.fails(path, status=302, headers={"Location": address})
    with pytest.raises(NetworkError, match="cannot be reached: it redirects to a malformed address"):
        lock(hub, models)


@pytest.mark.parametrize("status", [200, 401, 403, 404])
def test_a_web_page_instead_of_a_hub(hub: HubStandIn, models: Path, status: int) -> None:
    page = b"<!doctype html><title>Sign in</title>"
    hub.fails("/api/", status=status, headers={"Content-Type": "text/html"}, body=page)
    with pytest.raises(NetworkError) as caught:
        lock(hub, models)
    assert caught.value.message == f"the server at {hub.endpoint} is not a model hub"
    assert f"a web page answers ({status} text/html) titled “Sign in”" in (caught.value.log or "")
    assert "in a browser" in (caught.value.hint or "")


def test_a_web_page_instead_of_a_models_file(hub: HubStandIn, models: Path) -> None:
    locked = lock(hub, models)
    hub.fails(f"/cdn/{SHARD}", status=200, headers={"Content-Type": "text/html"}, body=b"<title>Sign in</title>")
    with pytest.raises(NetworkError) as caught:
        fetch(locked, hub, models)
    assert "a web page answers" in (caught.value.log or "")


def test_offline(hub: HubStandIn, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = lock(hub, models)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for work in (lambda: lock(hub, models), lambda: fetch(locked, hub, models)):
        with pytest.raises(NetworkError, match="HF_HUB_OFFLINE is set"):
            work()


def test_a_line_that_is_cut_goes_on_where_it_was(hub: HubStandIn, models: Path) -> None:
    hub.files[SHARD] = weights(BIG)
    locked = lock(hub, models)
    hub.asked.clear()
    hub.fails(f"/cdn/{SHARD}", cut_at=0.9, times=3)
    fetch(locked, hub, models)
    begins = [begin_of(asked) for asked in hub.requests(f"/cdn/{SHARD}")]
    assert begins[0] == 0
    assert all(begin >= BIG * 0.9 - BLOCK for begin in begins[1:])
    assert left_over(models) == []


def test_the_next_run_goes_on_where_a_killed_one_was(hub: HubStandIn, models: Path) -> None:
    hub.files[SHARD] = weights(BIG)
    locked = lock(hub, models)
    hub.fails(f"/cdn/{SHARD}", cut_at=0.9, times=1)
    hub.fails(f"/cdn/{SHARD}", status=503, times=4)
    with pytest.raises(NetworkError):
        fetch(locked, hub, models)
    assert left_over(models) == [hashlib.sha256(hub.files[SHARD]).hexdigest()]
    hub.asked.clear()
    fetch(locked, hub, models)
    assert [begin_of(asked) >= BIG * 0.9 - BLOCK for asked in hub.requests(f"/cdn/{SHARD}")] == [True]


def test_a_server_without_ranges_starts_over(hub: HubStandIn, models: Path) -> None:
    locked = lock(hub, models)
    hub.fails(f"/cdn/{SHARD}", cut_at=0.5, times=1)
    hub.fails(f"/cdn/{SHARD}", no_ranges=True)
    fetch(locked, hub, models)


def test_a_server_without_ranges_that_always_cuts_is_given_up(hub: HubStandIn, models: Path) -> None:
    locked = lock(hub, models)
    hub.fails(f"/cdn/{SHARD}", cut_at=0.9, no_ranges=True)
    with pytest.raises(NetworkError, match="cannot be reached: the connection was cut"):
        fetch(locked, hub, models)
    assert len(hub.requests(f"/cdn/{SHARD}")) <= 6


def test_a_damaged_beginning_is_fetched_again(hub: HubStandIn, models: Path) -> None:
    locked = lock(hub, models)
    data = hub.files[SHARD]
    partial = models / "partial" / hashlib.sha256(data).hexdigest()
    for damage in (b"x" * 1000, data + b"too long", b"x" * len(data)):
        partial.write_bytes(damage)
        fetch(locked, hub, models)
        (models / "sha256" / partial.name[:2] / partial.name).unlink()


@pytest.mark.parametrize("path", [SHARD, "tokenizer.json"])
def test_wrong_content(hub: HubStandIn, models: Path, path: str) -> None:
    data = hub.files[path]
    hub.fails(path, corrupt=True)
    wrong = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(IntegrityError) as caught:
        fetch(lock(hub, models), hub, models)
    got, expected = hashlib.sha256(wrong).hexdigest(), hashlib.sha256(data).hexdigest()
    where = f"{hub.endpoint}/org/tiny/resolve/{COMMIT}/{path}"
    if path == SHARD:
        text = f"{path} of hf://org/tiny@{COMMIT} does not have its hash or size: sha256 {got}, expected {expected}"
        assert caught.value.message == text
    assert "git id " in caught.value.message or path == SHARD
    assert caught.value.where == where
    assert caught.value.hint == (
        "a proxy or mirror may have changed it: run it again, or set HF_ENDPOINT to another hub"
    )
    assert not any(name for name in left_over(models) if (models / "partial" / name).stat().st_size == len(data))


def test_an_endless_answer_is_cut_off(hub: HubStandIn, models: Path) -> None:
    locked = lock(hub, models)
    hub.files[SHARD] = weights(5_000_000)
    with pytest.raises(IntegrityError, match="bytes or more, expected"):
        fetch(locked, hub, models)


def test_weights_that_are_truncated_on_the_hub(hub: HubStandIn, models: Path) -> None:
    hub.files[SHARD] = weights(100_000)[:90_000]
    with pytest.raises(ModelError, match=f"model tiny: {SHARD} is truncated: its tensors take 100000 bytes, "):
        lock(hub, models)
    locked = lock_without_headers(hub, models)
    with pytest.raises(ModelError, match=f"model tiny: {SHARD} is truncated: its tensors take 100000 bytes, "):
        fetch(locked, hub, models)
    assert SHARD not in str(left_over(models))


def test_shards_that_do_not_agree_with_their_index(hub: HubStandIn, models: Path) -> None:
    hub.files[SHARD] = weights(200_000, tensor="other")
    with pytest.raises(ModelError, match="puts tensor 'b' into"):
        lock(hub, models)
    locked = lock_without_headers(hub, models)
    for _ in ("fetched", "found in the store"):
        with pytest.raises(ModelError) as caught:
            fetch(locked, hub, models)
        assert caught.value.message == (
            f"model tiny: model.safetensors.index.json puts tensor 'b' into {SHARD}, whose header lacks it"
        )
        assert caught.value.exit_code == 9


@pytest.mark.parametrize(
    ("path", "data", "flaw"),
    [
        ("tokenizer.json", POINTER, "is a Git LFS pointer to a file of 11421896 bytes"),
        (SHARD, POINTER, "is a Git LFS pointer to a file of 11421896 bytes"),
        ("tokenizer.json", b"<!doctype html>Sign in", "is an HTML page"),
        ("generation_config.json", b"{", "is not JSON"),
    ],
)
def test_small_files_with_other_content(hub: HubStandIn, models: Path, path: str, data: bytes, flaw: str) -> None:
    hub.files[path] = data
    with pytest.raises(ModelError, match=f"model tiny: {path} {flaw}") as caught:
        lock(hub, models)
    if data == POINTER:
        assert (caught.value.where, caught.value.hint) == (
            f"hf://org/tiny@{COMMIT}",
            "upload the files themselves: run `git lfs pull` in the folder that was uploaded, then upload it again",
        )


@pytest.mark.parametrize(
    ("data", "flaw"), [(b"<html>" + b" " * (2 << 20), "is an HTML page"), (b"{" * (2 << 20), "is not JSON")]
)
def test_large_files_are_checked_when_they_are_fetched(hub: HubStandIn, models: Path, data: bytes, flaw: str) -> None:
    hub.files["tokenizer.json"] = data
    locked = lock(hub, models)
    with pytest.raises(ModelError, match=f"model tiny: tokenizer.json {flaw}"):
        fetch(locked, hub, models)


def test_an_adapter_on_the_hub(hub: HubStandIn, models: Path) -> None:
    config = b'{"peft_type": "LORA", "base_model_name_or_path": "acme/base"}'
    hub.files = {"adapter_config.json": config, "adapter_model.safetensors": weights()}
    with pytest.raises(ModelError, match="model tiny: this is a LoRA adapter for acme/base"):
        lock(hub, models)
    assert not hub.requests("/cdn/")


def test_a_shard_missing_on_the_hub(hub: HubStandIn, models: Path) -> None:
    del hub.files[SHARD]
    with pytest.raises(ModelError, match=f"shard '{SHARD}' named in model.safetensors.index.json is missing"):
        lock(hub, models)


def test_only_pickles_on_the_hub(hub: HubStandIn, models: Path) -> None:
    hub.files = {path: data for path, data in hub.files.items() if ".safetensors" not in path}
    with pytest.raises(ModelError, match=r"does not allow: pytorch_model.bin \(allowed: safetensors\)"):
        lock(hub, models)


@pytest.mark.parametrize("path", ["../up.json", "/etc/x.json", "a/../../x.json", "new\nline.json"])
def test_a_hub_that_lists_paths_leading_elsewhere(hub: HubStandIn, models: Path, path: str) -> None:
    hub.files[path] = b"{}"
    with pytest.raises(ModelError, match="the hub lists a file that"):
        lock(hub, models)
    assert not hub.requests("/resolve/")


def test_a_mirror_in_a_folder(
    hub: HubStandIn, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mirror"
    folder.mkdir()
    for path, data in hub.files.items():
        (folder / path).write_bytes(data)
    whole = ModelMirror(source="hf://org/tiny", folder=folder)
    exact = ModelMirror(source=MODEL.source, folder=folder, stand_in="no network here")
    other = ModelMirror(source="hf://org/tiny", folder=tmp_path / "never")

    locked = lock_model(
        replace(MODEL, source=f"hf://org/tiny@{COMMIT}"), tmp_path, make_session(models, model_mirrors=(whole,))
    )
    assert (locked.origin, locked.revision, locked.stand_in) == ("folder", COMMIT, None)
    assert locked.files == lock(hub, models).files
    fetch(locked, hub, models)  # a faithful mirror's lock can be fetched from the hub itself

    stood_in = lock_model(MODEL, tmp_path, make_session(models, model_mirrors=(other, exact)))
    assert (stood_in.origin, stood_in.revision, stood_in.stand_in) == ("folder", None, "no network here")
    assert f"warning: model tiny: {folder} stands in for hf://org/tiny@main: no network here" in capsys.readouterr().err
    with pytest.raises(ModelError, match="was locked from a folder instead of hf://org/tiny@main, which is not conf"):
        fetch(stood_in, hub, tmp_path / "empty" / "models")


def test_a_mirrors_folder_that_is_not_there(models: Path, tmp_path: Path) -> None:
    gone = ModelMirror(source="hf://org/tiny", folder=tmp_path / "gone")
    with pytest.raises(ModelError) as caught:
        lock_model(MODEL, tmp_path, make_session(models, model_mirrors=(gone,)))
    assert caught.value.message == "model tiny: the folder does not exist"
    assert caught.value.hint == "correct the folder that [[model-mirrors]] in jbuild.toml gives for hf://org/tiny"


def _fetch_elsewhere(locked: LockedModel, endpoint: str, models: Path, outcome: Any) -> None:
    try:
        fetch_model(locked, models, make_session(models, hub_endpoint=endpoint))
        outcome.put("")
    except JbuildError as error:
        outcome.put(error.message)


def test_two_processes_fetch_each_file_once(hub: HubStandIn, models: Path) -> None:
    hub.files["model-00001-of-00002.safetensors"] = weights(20_000_000, tensor="a")
    locked = lock(hub, models)
    hub.asked.clear()
    context = multiprocessing.get_context("spawn")
    outcome = context.Queue()
    given = (locked, hub.endpoint, models, outcome)
    both = [context.Process(target=_fetch_elsewhere, args=given, daemon=True) for _ in "ab"]
    for process in both:
        process.start()
    assert [outcome.get(timeout=60) for _ in both] == ["", ""]
    for process in both:
        process.join(10)
    assert sorted(asked.path for asked in hub.requests("/cdn/")) == [
        "/cdn/model-00001-of-00002.safetensors",
        "/cdn/model-00002-of-00002.safetensors",
    ]


def test_a_stop_keeps_what_has_arrived(hub: HubStandIn, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files[SHARD] = weights(20_000_000)
    locked = lock(hub, models)
    seen = 0.0

    def interrupt(_: object, amount: float) -> None:
        nonlocal seen
        seen += amount
        if seen > 5_000_000:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("builder.host.console.Task.advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(locked, hub, models)
    kept = [(models / "partial" / name).stat().st_size for name in left_over(models)]
    assert 1_000_000 < max(kept) < 20_000_000
    fetch(locked, hub, models)
    assert any(asked.headers.get("Range") for asked in hub.requests("/cdn/"))
