"""A service as a compose file."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import yaml

from builder.device.service_records import CACHE, CPU_PERIOD_US, KEY_TARGET, bracketed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.device.service_records import Service

_SERVICE, _VOLUME = "vllm", "cache"
_SECRET = KEY_TARGET.rpartition("/")[2]
_MIB = 1 << 20
# Compose reads more strings as numbers than PyYAML does, such as 1e3 and 08: only these words stay unquoted.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_KEYWORDS = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null"})


def compose_file(
    service: Service, *, of: str, file: str, ask: str, remarks: Sequence[str] = (), docker: str = "docker"
) -> str:
    """Return the text of a compose file; the key's file is named relative to it.

    Its first lines name `of`, the cell, `file`, itself, and `ask`, a command that asks the server; then `remarks`.
    `docker` is the command that reaches the engine.
    """
    lines = [
        f"Written by jbuild for {of}: `jbuild compose` writes it again.",
        *remarks,
        "",
        f"  {docker} compose --file {file} up --detach --wait",
        f"  {ask}",
        f"  {docker} compose --file {file} down",
    ]
    comment = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return f"{comment}\n{to_yaml(_without_variables(document(service)))}"


def document(service: Service) -> dict[str, Any]:
    """Return a compose file's document, without the keys that keep the defaults of compose."""
    health = service.health
    server = {
        "image": service.image,
        "container_name": service.name,
        "platform": service.platform,
        **(service.gpu.compose() if service.nvidia else {}),
        "network_mode": "host" if service.host_network else None,
        "command": list(service.arguments) or None,
        "environment": service.container_environment or None,
        "secrets": [_SECRET] if service.key_file else None,
        "ports": None if service.host_network else [_port(service)],
        "volumes": [f"{_VOLUME}:{CACHE}"],
        "read_only": True,
        "tmpfs": [f"{path}:{options}" for path, options in service.tmpfs],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "shm_size": f"{service.shm_bytes // _MIB}m",
        "mem_limit": f"{service.memory_bytes // _MIB}m" if service.memory_bytes else None,
        "cpu_period": CPU_PERIOD_US if service.cpus else None,
        "cpu_quota": service.cpus * CPU_PERIOD_US if service.cpus else None,
        "restart": service.restart,
        "stop_grace_period": f"{service.stop_within_s}s",
        "healthcheck": {
            **({"test": ["CMD", *health.test]} if health.test else {}),
            "interval": f"{health.interval_s}s",
            "timeout": f"{health.timeout_s}s",
            "start_period": f"{health.start_period_s}s",
            "retries": health.retries,
        },
        "logging": {
            "driver": "json-file",
            "options": {"max-size": service.log_size, "max-file": str(service.log_files)},
        },
    }
    compose: dict[str, Any] = {
        "name": service.name,
        "services": {_SERVICE: {key: value for key, value in server.items() if value is not None}},
        "volumes": {_VOLUME: {"name": service.volume}},
    }
    if service.key_file:
        compose["secrets"] = {_SECRET: {"file": f"./{service.key_file}"}}
    return compose


def _port(service: Service) -> str:
    return f"{bracketed(service.published.address)}:{service.published.port or ''}:{service.port}"


class _Dumper(yaml.SafeDumper):
    """Indents lists, and repeats values instead of writing aliases."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _KEYWORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


_Dumper.add_representer(str, _string)


def to_yaml(document: Mapping[str, Any]) -> str:
    """Return a document as YAML in block style, its keys in their own order."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=sys.maxsize)


def _without_variables(value: Any) -> Any:
    """Double every dollar sign: compose reads a single one as the beginning of a variable."""
    if isinstance(value, dict):
        return {key: _without_variables(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_variables(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
