"""Addresses as text: which are this machine's own, and what of them may be shown."""

from __future__ import annotations

import ipaddress
import re


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's loopback."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def scrub(text: str) -> str:
    """Remove user names, passwords and query strings (which may hold signatures) from the addresses in a text."""
    bare = re.sub(r"(?i)\b(https?://)[^/\s?#\"']*@", r"\1", text)
    return re.sub(r"(?i)\b(https?://[^\s?#\"']*)\?[^\s\"']*", r"\1", bare)
