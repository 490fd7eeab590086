"""Index, hub, clock and registries, against servers on loopback that answer as real ones do, or not at all."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from doctor_parts import make_case, named, serving
from factories import make_job, make_spec

from builder.host.config import Config, RegistryMirror
from builder.host.session import Session
from builder.model.recipes import Model, PublishSpec, TagRule
from builder.project.doctor import base_check, network_check
from builder.remote.registry.registry_client import INDEXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.model.locks import Job
    from builder.project.doctor.check_table import Check


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_check, "_WITHIN_S", (0.5, 0.5))


@pytest.fixture
def closed() -> str:
    """An address that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return f"127.0.0.1:{gone.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where a connection is taken and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def look(session: Session, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Check]]:
    def examine(index: str, *, jobs: tuple[Job, ...] = (), **settings: object) -> list[Check]:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://{index}/simple")
        config = Config(**({"hub_endpoint": f"http://{index}"} | settings))  # type: ignore[arg-type]
        own = Session(workspace=session.workspace, config=config, console=session.console)
        return list(network_check.check(make_case(own, jobs=jobs, recipe=jobs[0].recipe if jobs else None)))

    return examine


def ahead(**by: float) -> str:
    return format_datetime(datetime.now(timezone.utc) + timedelta(**by), usegmt=True)


def test_everybody_answers(look: Callable[..., list[Check]]) -> None:
    with serving() as server:
        checks = look(server.host)
        assert {check.name: check.state for check in checks} == {"index": "ok", "hub": "ok", "clock": "ok"}
        assert "GET /simple/packaging/" in server.asked


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [(503, "warning", "503"), (401, "warning", "log in"), (404, "ok", ""), (301, "ok", "")],
)
def test_an_index_that_refuses(look: Callable[..., list[Check]], status: int, kind: str, said: str) -> None:
    with serving(status) as server:
        found = named(look(server.host), "index")
    assert found.state == kind
    assert said in f"{found.found} {found.mend}"


def test_a_web_page_is_neither_an_index_nor_a_hub(look: Callable[..., list[Check]]) -> None:
    with serving(headers={"Content-Type": "text/html"}) as server:
        checks = look(server.host)
        for name in ("index", "hub"):
            found = named(checks, name)
            assert found.state == "warning"
            assert "a web page answers" in found.found
            assert "in a browser" in (found.mend or "")


def test_nobody_listens(look: Callable[..., list[Check]], closed: str) -> None:
    checks = look(closed)
    assert "connection refused" in named(checks, "index").found
    assert named(checks, "index").state == named(checks, "hub").state == "warning"
    assert named(checks, "clock").state == "not applicable"


def test_a_server_that_says_nothing_ends_within_its_limit(look: Callable[..., list[Check]], silent: str) -> None:
    assert "no answer within the time limit" in named(look(silent), "index").found


def test_an_index_that_uv_finds_nothing_on(look: Callable[..., list[Check]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_check, "default_address", lambda *_, **__: None)
    with serving() as server:
        assert named(look(server.host), "index").found == "uv's own: uv cannot fetch a package from it"


@pytest.mark.parametrize(
    ("by", "state", "words"),
    [
        ({"minutes": 10}, "error", "600 s behind"),
        ({"minutes": -10}, "error", "600 s ahead of"),
        ({"minutes": 1}, "warning", "60 s behind"),
        ({"seconds": 5}, "ok", "5 s behind"),
    ],
)
def test_a_clock_that_is_off(look: Callable[..., list[Check]], by: dict[str, float], state: str, words: str) -> None:
    with serving(date=ahead(**by)) as server:
        found = named(look(server.host), "clock")
    assert found.state == state
    seconds, _, rest = words.partition(" s ")
    assert abs(int(found.found.split(" s ")[0]) - int(seconds)) <= 1
    assert rest in found.found


def test_one_server_with_a_wrong_clock_does_not_make_ours_wrong(look: Callable[..., list[Check]]) -> None:
    with serving(date=ahead(hours=5)) as wrong, serving() as right:
        assert named(look(wrong.host, registries=(f"{right.host}/team",)), "clock").state == "ok"


def test_what_a_cache_answers_tells_no_time(look: Callable[..., list[Check]]) -> None:
    with serving(headers={"Age": "900"}, date=ahead(minutes=-15)) as server:
        assert named(look(server.host), "clock").state == "not applicable"


def job_with(source: str) -> Job:
    return make_job(spec=make_spec(models=(Model(name="tiny", source=source),)))


def test_the_hub_is_asked_only_for_models_that_come_from_it(
    look: Callable[..., list[Check]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as server:
        assert named(look(server.host, jobs=(job_with("hf://org/tiny@main"),)), "hub").state == "ok"
        assert named(look(server.host, jobs=(job_with("models/tiny"),)), "hub").state == "not applicable"
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        found = named(look(server.host, jobs=(job_with("hf://org/tiny@main"),)), "hub")
        assert (found.state, found.found) == ("not applicable", "HF_HUB_OFFLINE is set")


def pushes(session: Session, *registries: str, jobs: tuple[Job, ...] = ()) -> list[Check]:
    own = Session(workspace=session.workspace, config=Config(registries=registries), console=session.console)
    return list(network_check.registries(make_case(own, jobs=jobs)))


def test_no_registry(session: Session) -> None:
    assert pushes(session)[0].state == "warning"


def test_an_upload_is_begun_and_cancelled(session: Session) -> None:
    with serving(202, {"Location": "/v2/team/vllm/blobs/uploads/1?state=x"}) as server:
        (found,) = pushes(session, f"{server.host}/team")
        assert (found.state, found.found) == ("ok", f"{server.host}/team/vllm accepts uploads")
        upload = "/v2/team/vllm/blobs/uploads/"
        assert server.asked == [f"POST {upload}", f"DELETE {upload}1?state=x", "GET /v2/team/vllm/manifests/latest"]


def test_each_place_of_a_recipe_once(session: Session) -> None:
    job = make_job(spec=make_spec(publish=PublishSpec(repository="own/name", tags=(TagRule(name="1"),))))
    with serving(202, {"Location": "/v2/u"}) as server:
        (found,) = pushes(session, f"{server.host}/team", jobs=(job, replace(job)))
        assert found.found.startswith(f"{server.host}/team/own/name")


@pytest.mark.parametrize(
    ("status", "mend"), [(401, "docker login"), (403, "get the right"), (507, "the registry is full")]
)
def test_a_registry_that_refuses(session: Session, status: int, mend: str) -> None:
    with serving(status) as server:
        (found,) = pushes(session, f"{server.host}/team")
    assert found.state == "error"
    assert mend in (found.mend or "")


def test_a_registry_that_is_not_there(session: Session, closed: str) -> None:
    (found,) = pushes(session, f"{closed}/team")
    assert found.state == "error"
    assert "is the registry running" in (found.mend or "")


@pytest.mark.parametrize("status", [200, 202, 404])
def test_a_web_page_takes_no_uploads(session: Session, status: int) -> None:
    with serving(status, {"Content-Type": "text/html", "Location": "/v2/u"}) as server:
        (found,) = pushes(session, f"{server.host}/team")
    assert found.state == "error"
    assert "a web page" in found.found
    assert f"http://{server.host}/v2/ in a browser" in (found.mend or "")


def test_an_answer_without_a_location_opens_no_upload(session: Session) -> None:
    with serving(200) as server:
        (found,) = pushes(session, f"{server.host}/team")
    assert found.state == "error"
    assert "without a Location header (it answers 200)" in found.found


def test_an_upload_whose_address_does_not_answer(session: Session, closed: str) -> None:
    with serving(202, {"Location": f"http://{closed}/v2/u"}) as server:
        (found,) = pushes(session, f"{server.host}/team")
    assert found.state == "error"
    assert f"connection refused at http://{closed}/v2/u (from the registry's Location header)" in found.found


def bases(session: Session, image: str, *jobs: Job) -> list[Check]:
    config = Config(registry_mirrors=(RegistryMirror(prefix="docker.io/library", mirror=image),))
    own = Session(workspace=session.workspace, config=config, console=session.console)
    return list(base_check.check(make_case(own, jobs=jobs)))


def test_without_a_recipe_there_is_no_base_image_to_check(session: Session) -> None:
    assert bases(session, "127.0.0.1:1/x") == []


def test_each_base_image_is_looked_up_once(session: Session) -> None:
    platforms = [{"platform": {"os": "linux", "architecture": "arm64"}}]
    content = json.dumps({"manifests": platforms}).encode()
    with serving(200, {"Content-Type": INDEXES[0]}, content=content) as server:
        (looked,) = bases(session, f"{server.host}/mirror", make_job(), make_job())
        assert looked.state == "ok"
        assert looked.found.endswith(f", from {server.host}/mirror/debian:bookworm-slim")
        assert server.asked == ["GET /v2/mirror/debian/manifests/bookworm-slim"]


def test_a_base_image_whose_registry_does_not_answer(session: Session, closed: str) -> None:
    (looked,) = bases(session, f"{closed}/mirror", make_job())
    assert looked.state == "warning"
    assert "connection refused" in looked.found
    assert "a mirror rule sends docker.io/library" in (looked.mend or "")


def test_a_base_image_that_the_registry_lacks(session: Session) -> None:
    with serving(404) as server:
        (looked,) = bases(session, f"{server.host}/mirror", make_job())
    assert looked.state == "error"
    assert "correct `image` under [base]" in (looked.mend or "")
