"""TLS with a verified certificate and name; there is no way around the check."""

from __future__ import annotations

import os
import socket

from libgm.errors import reason


class Untrusted(Exception):
    """TLS was not to be had; the text says why."""


def secure(plain: socket.socket, host: str) -> socket.socket:
    """plain under TLS, with the files that $GM_TLS_CA, $GM_TLS_CERT and $GM_TLS_KEY name. Raises Untrusted."""
    import ssl
    authority, certificate, key = (os.environ.get(name) or None for name in ("GM_TLS_CA", "GM_TLS_CERT", "GM_TLS_KEY"))
    try:
        context = ssl.create_default_context(cafile=authority)
        if certificate:
            context.load_cert_chain(certificate, key, password=lambda: b"")   # nobody is there to type one
    except OSError as error:
        names = " ".join(filter(None, (authority, certificate, key)))
        raise Untrusted(f"$GM_TLS_...: cannot use {names}: {reason(error)}") from None
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except OSError as error:
        raise Untrusted(f"cannot connect: {trouble(error)}") from None


def trouble(error: OSError) -> str:
    """Why a TLS connection could not be made."""
    import ssl
    verify = getattr(error, "verify_message", "")
    if verify:
        return f"its certificate cannot be trusted: {verify.lower().rstrip('.')}"
    if isinstance(error, (ssl.SSLError, ConnectionError)):
        why = getattr(error, "reason", None) or error.strerror or str(error)
        return f"no TLS there: {why.lower().replace('_', ' ')} (a plain port?)"
    return reason(error)
