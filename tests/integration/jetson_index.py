"""A stand-in for the Jetson AI Lab index: small generated wheels, served on loopback as devpi serves the real ones.

As there: sha256 in the fragment of relative links, no metadata files, no upload times, and 410 for a file that was
replaced or removed. Files come with ranges and ETag, as from the nginx that devpi is run behind.
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent.with_name("unit")), str(Path(__file__).parents[2])]

import jetson_pages as pages
from jetson_faults import KINDS, Fault, Kind, hang_up, huge_page, pieces, spoil
from jetson_pages import HTML, Answer
from jetson_shelf import Shelf
from jetson_wheels import make_sets
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PAGE = re.compile(r"/(?P<set>[^/+]+/[^/+]+)(?P<simple>/\+simple)?(?:/(?P<project>[^/+]+))?(?P<slash>/?)")
_FILE = re.compile(r"/[^/+]+/[^/+]+/\+f/[0-9a-f]{3}/[0-9a-f]{13}/[^/]+")
_NOTE = "a stand-in for the Jetson AI Lab index: generated wheels of a few kilobytes, which import nothing useful"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request and the status that it got. Of a log-in it tells only that there was one."""

    method: str
    path: str
    range: str | None
    agent: str
    accept: str
    authorized: bool
    status: int

    def __str__(self) -> str:
        """Return it as one line of a log."""
        span = f" ({self.range})" if self.range else ""
        log_in = ", with a log-in" if self.authorized else ""
        return f"{self.status} {self.method} {self.path}{span} by {self.agent or 'nobody'}{log_in}"


class JetsonIndex(ThreadingHTTPServer):
    """Serves a shelf. It may be changed, and `faults` added, while the server runs."""

    daemon_threads = True

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        plain: bool = False,
        answers_json: bool = False,
        user: str | None = None,
        echo: bool = False,
    ) -> None:
        """Listen on loopback.

        `plain` takes ranges and ETag away, as devpi-server itself has none. `answers_json` answers clients that prefer
        it as PEP 691 says, which newer devpi does. `user` (`name:password`) locks the index. `echo` prints the log.
        """
        super().__init__(("127.0.0.1", port), _Handler)
        self.shelf, self.user = Shelf(folder=folder), user
        self.plain, self.answers_json, self.echo = plain, answers_json, echo
        self.faults: list[Fault] = []
        self.log: list[Asked] = []
        self.mutex = threading.Lock()
        self.ending = threading.Event()

    @property
    def host(self) -> str:
        """Address and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def url(self, name: str) -> str:
        """Return the address of a set, as recipes and installers name it."""
        return f"http://{self.host}/{name}/+simple/"

    def fails(self, match: str, kind: str, **details: Any) -> None:
        """Switch a fault on; see `Fault`. A number as `kind` is a status."""
        if kind.isdigit():
            kind, details["status"] = "status", int(kind)
        with self.mutex:
            self.faults.append(Fault(match=match, kind=cast("Kind", kind), **details))

    def fault_for(self, line: str) -> Fault | None:
        """Take the first fault that is left for a request."""
        with self.mutex:
            return next((fault for fault in self.faults if fault.take(line)), None)

    def note(self, asked: Asked) -> None:
        """Add a request to the log."""
        with self.mutex:
            self.log.append(asked)
        if self.echo:
            print(asked, file=sys.stderr)  # noqa: T201

    def asked(self, pattern: str = "") -> list[Asked]:
        """Return the requests so far whose `METHOD path` holds a regular expression."""
        with self.mutex:
            return [each for each in self.log if re.search(pattern, f"{each.method} {each.path}")]

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: clients that are interrupted go away in the middle."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "jetson-index-stand-in"
    sys_version = ""
    server: JetsonIndex

    def log_message(self, *args: object) -> None:
        pass

    def handle_one(self) -> None:
        path = unquote(urlsplit(self.path).path)
        fault = self.server.fault_for(f"{self.command} {path}")
        if fault and fault.kind == "slow":
            self.server.ending.wait(fault.seconds)
        answer = spoil(self.answer(path), fault)
        self.server.note(self.asked(path, answer.status))
        if fault and fault.kind == "huge":
            self.begin(answer, fault.size)
            self.send(huge_page(fault.size))
        else:
            self.begin(answer, len(answer.body))
            self.send(pieces(answer.body, fault, self.server.ending))
        if fault and fault.kind in ("reset", "cut"):
            hang_up(self, fault)

    do_GET = do_HEAD = handle_one  # noqa: N815  # http.server's names

    def answer(self, path: str) -> Answer:
        if not self.is_authorized():
            return pages.message(401, "Unauthorized", "Log in.", **{"WWW-Authenticate": 'Basic realm="pypi"'})
        if _FILE.fullmatch(path):
            return self.file(path.lstrip("/"))
        page = _PAGE.fullmatch(path)
        return self.page(page) if page else pages.not_found("The resource could not be found.")

    def is_authorized(self) -> bool:
        user = self.server.user
        return not user or self.given("Authorization") == "Basic " + base64.b64encode(user.encode()).decode()

    def page(self, asked: re.Match[str]) -> Answer:
        """Answer for a set's list or a project's page; installers get them without `+simple` too."""
        name, project, shelf = asked["set"], asked["project"], self.server.shelf
        if not shelf.has(name):
            return pages.not_found(f"The stage {name} could not be found.")
        if not asked["simple"] and not self.is_installer():
            return pages.unwanted(415, "unsupported media type")
        place = self.better_place(asked)
        if place:
            address = f"http://{self.headers['Host']}{place}"
            return pages.message(302, "Found", f"The resource was found at {address}", Location=address)
        return self.project(name, project, asked.string) if project else pages.listing(name, shelf.projects(name))

    def better_place(self, asked: re.Match[str]) -> str | None:
        """Return where devpi sends a client: to the normalised name, and people to the slash at the end."""
        project = canonicalize_name(asked["project"] or "")
        if project != (asked["project"] or ""):
            return f"/{asked['set']}/+simple/{project}/" if asked["simple"] else f"/{asked['set']}/{project}"
        return None if asked["slash"] or self.is_installer() else f"{asked.string}/"

    def project(self, name: str, project: str, at: str) -> Answer:
        links = self.server.shelf.links(name, project)
        if not links:
            return pages.not_found(f"The project {project} does not exist.")
        if self.server.answers_json and pages.prefers_json(self.given("Accept")):
            return pages.project_json(project, links, at)
        return pages.project_page(name, project, links, at)

    def file(self, address: str) -> Answer:
        if address.endswith(".metadata"):
            return pages.unwanted(404, "core-metadata is disabled")
        found = self.server.shelf.file(address)
        if found:
            return self.content(found)
        if self.server.shelf.was_there(address):
            return pages.message(410, "Gone", "file existed, deleted in later serial")
        return pages.not_found("no such file")

    def content(self, path: Path) -> Answer:
        body, stat = path.read_bytes(), path.stat()
        headers = {"Content-Type": "application/octet-stream", "Last-Modified": formatdate(stat.st_mtime, usegmt=True)}
        if self.server.plain:
            return Answer(status=200, headers=headers, body=body)
        tag = f'"{stat.st_mtime_ns:x}-{len(body):x}"'
        headers |= {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "max-age=315360000"}
        if self.given("If-None-Match") == tag:
            return Answer(status=304, headers=headers)
        return pages.part(body, headers, self.headers["Range"] if self.given("If-Range") in ("", tag) else None)

    def is_installer(self) -> bool:
        return pages.is_installer(self.given("User-Agent"), self.given("Accept"))

    def given(self, header: str) -> str:
        return str(self.headers.get(header, ""))

    def asked(self, path: str, status: int) -> Asked:
        return Asked(
            method=self.command,
            path=path,
            range=self.headers["Range"],
            agent=self.given("User-Agent"),
            accept=self.given("Accept"),
            authorized="Authorization" in self.headers,
            status=status,
        )

    def begin(self, answer: Answer, length: int) -> None:
        self.send_response(answer.status)
        headers = {"X-Devpi-Api-Version": "2", "Content-Type": HTML, **answer.headers, "Content-Length": str(length)}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, body: Iterable[bytes]) -> None:
        if self.command != "HEAD":
            for piece in body:
                self.wfile.write(piece)


@contextmanager
def running_jetson_index(folder: Path, **options: Any) -> Iterator[JetsonIndex]:
    """Serve the sets in a folder, which are made first if it has none; `options` are those of `JetsonIndex`."""
    if not folder.is_dir() or not any(folder.iterdir()):
        make_sets(folder)
    server = JetsonIndex(folder, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serve a folder until Ctrl-C or SIGTERM; the log goes to standard error."""
    parser = argparse.ArgumentParser(prog="scripts/stand-in index", description=f"Serves {_NOTE}.")
    parser.add_argument("folder", type=Path, help="where the sets lie; they are made if it is empty or not there")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--user", metavar="NAME:PASSWORD", help="ask for this log-in")
    parser.add_argument("--json", action="store_true", dest="answers_json", help="PEP 691 for clients that prefer it")
    parser.add_argument("--plain", action="store_true", help="no ranges and no ETag")
    faults = f"what always goes wrong with requests whose `METHOD path` matches: a status, or {', '.join(KINDS)}"
    parser.add_argument("--fault", nargs=2, metavar=("KIND", "REGEX"), action="append", default=[], help=faults)
    options = vars(parser.parse_args())
    folder, switched_on = options.pop("folder").absolute(), options.pop("fault")
    for kind, _ in switched_on:
        if kind not in KINDS and not re.fullmatch(r"[2-5]\d\d", kind):
            parser.error(f"{kind} is no status and none of {', '.join(KINDS)}")
    with running_jetson_index(folder, echo=True, **options) as server:
        for kind, pattern in switched_on:
            server.fails(pattern, kind, times=None)
        print("\n".join((f"This is {_NOTE}.", *map(server.url, server.shelf.names()))), flush=True)  # noqa: T201
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
