"""Secrets of the URIs that this process read: what must never be printed."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

SECRET_OPTION = re.compile(
    r"[?&;](?:tlsCertificateKeyFilePassword|proxyPassword)=([^&;]+)|AWS_SESSION_TOKEN:([^&;,]+)",
    re.IGNORECASE,
)

remembered: set[str] = set()
"""Every secret in each form in which it may be printed: as written, and decoded."""


def remember(uri: str) -> None:
    """Keep the secrets of a URI, well-formed or not, out of everything that `scrub` sees from now on."""
    secrets = [password or token for password, token in SECRET_OPTION.findall(uri)]
    userinfo = uri.partition("://")[2].rpartition("@")[0]
    if ":" in userinfo:
        secrets += [userinfo, userinfo.partition(":")[2]]
    for secret in secrets:
        # Shorter ones are in every word.
        remembered.update(form for form in (secret, unquote(secret), unquote_plus(secret)) if len(form) > 3)


def scrub(text: str) -> str:
    """`text` without the user and password of any URI, and without each secret that is remembered."""
    text = re.sub(r"(mongodb(?:\+srv)?://)[^@/\s]*@", r"\1***@", text)
    for secret in sorted(remembered, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
