"""Patterns of a recipe's values, matched as a whole, so that no value can carry an instruction."""

from __future__ import annotations

# One line of text: no control characters, no line or paragraph separators, no bidirectional controls.
TEXT = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+"
OPTIONAL_TEXT = rf"({TEXT})?"
# Questions to a model may have lines and tabs.
LINES = r"[^\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+"

RECIPE_NAME = r"[a-z0-9][a-z0-9._-]{0,99}"
AXIS = r"[a-z][a-z0-9_-]{0,31}"
VALUE = r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}"
GLOB = r"[A-Za-z0-9._+~*?\[\]!-]{1,64}"

# A trailing hyphen would tell apt to remove the package.
APT = r"[a-z0-9][a-z0-9+.-]*[a-z0-9+](=[0-9][A-Za-z0-9.+:~-]*)?"
ENVIRONMENT = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
SECRET = r"(.*_)?(TOKEN|PASSWORD|PASSWD|SECRET|API_?KEY|ACCESS_KEY|CREDENTIALS?)"  # noqa: S105 - a pattern
LABEL = r"[a-z0-9]+([._-]+[a-z0-9]+)*"
RUNNER = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
TEMPLATE = r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.j2"

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
REPOSITORY = rf"{_COMPONENT}(?:/{_COMPONENT})*"
REGISTRY = rf"{_HOST}(?:/{REPOSITORY})?"
IMAGE = rf"(?:{_HOST}/)?{REPOSITORY}(?::{TAG})?(?:@sha256:[0-9a-f]{{64}})?"
PINNED_IMAGE = rf"(?:{_HOST}/)?{REPOSITORY}(?::{TAG}|(?::{TAG})?@sha256:[0-9a-f]{{64}})"

INDEX = r"[a-z0-9][a-z0-9-]{0,63}"
# A file of a wheel, relative to site-packages, or a glob.
WHEEL_FILE = r"(?!/)(?!(.*/)?\.\.(/|$))[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\\]{1,300}"
PACKAGE = r"[a-z0-9*?][a-z0-9*?-]{0,99}"

# A package's normalised name, and the source that it is built from.
PACKAGE_NAME = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
PROJECT_PATH = r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*"
# A user name may be part of an SSH address, a password of none.
GIT_URL = r"(?:(?:https?|ssh|git)://(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9.-]+(?::[0-9]{1,5})?|file://)/[A-Za-z0-9._~/+-]+"
GIT_COMMIT = r"[0-9a-f]{40}"
SHA256 = r"[0-9a-f]{64}"
ARCHIVE_URL = r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/[A-Za-z0-9._~%/+-]+\.(?:zip|tgz|tar\.(?:gz|bz2|xz))"

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
SERVED_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}"
HUB_SOURCE = r"hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9._/-]*"
# A name without a dot or a port would be an organisation of Docker Hub.
_OCI_HOST = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:))(?::[0-9]{1,5})?"
_DIGEST = r"sha256:[0-9a-f]{64}"
OCI_SOURCE = rf"oci://{_OCI_HOST}/{REPOSITORY}(?::{TAG}(?:@{_DIGEST})?|@{_DIGEST})"
MODEL_FILE = r"[A-Za-z0-9_*?\[][A-Za-z0-9._*?\[\]!-]*(/[A-Za-z0-9_*?\[][A-Za-z0-9._*?\[\]!-]*)*"
LICENCE = r"[A-Za-z0-9][A-Za-z0-9 .+()-]{0,99}"
QUANTIZATION = r"[a-z0-9][a-z0-9_-]{0,63}"

# Most requirements are a name and versions; others go to the library, which is slow to import.
_RELEASE = r"[0-9]+(?:\.[0-9]+)*"
_VERSION = rf"{_RELEASE}(?:(?:a|b|rc)[0-9]+)?(?:\.post[0-9]+)?(?:\.dev[0-9]+)?"
_LOCAL = r"(?:\+[a-z0-9]+(?:\.[a-z0-9]+)*)?"
_CLAUSE = rf"(?:(?:==|!=) *(?:{_RELEASE}\.\*|{_VERSION}{_LOCAL})|(?:>=|<=|>|<) *{_VERSION})"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
REQUIREMENT_NAME = _NAME
VERSION = rf"{_VERSION}{_LOCAL}"
PLAIN_REQUIREMENT = rf"{_NAME}(?:\[{_NAME}(?:,{_NAME})*\])? *(?:{_CLAUSE}(?: *, *{_CLAUSE})*)?"
