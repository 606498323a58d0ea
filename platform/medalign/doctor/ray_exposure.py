"""Who may talk to Ray: whoever reaches its dashboard or jobs API runs code, unless a token is asked for."""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

from medalign.doctor.finding import Finding, broken, fine, note

MODE = "RAY_AUTH_MODE"
ANSWER_S = 5.0
_HOST, _PORT = re.compile(r"--host=(\S+)"), re.compile(r"--port=(\d+)")


def authentication(environment: Mapping[str, str] | None = None, *, has_token: bool | None = None) -> Finding:
    """Check whether this process asks for, and sends, Ray's token.

    Args:
        environment: variables; this process's if None.
        has_token: whether a token is at hand; looked for if None.
    """
    environment = os.environ if environment is None else environment
    mode = environment.get(MODE, "").lower()
    if has_token is None:
        places = (environment.get("RAY_AUTH_TOKEN_PATH") or "", str(Path.home() / ".ray" / "auth_token"))
        has_token = bool(environment.get("RAY_AUTH_TOKEN")) or any(p and Path(p).is_file() for p in places)
    if mode == "disabled":
        fix = f"unset {MODE}, or export {MODE}=token: without it whoever reaches the cluster runs code on it."
        return broken("ray authentication", f"{MODE}=disabled", fix)
    if mode == "token" and not has_token:
        fix = "ray get-auth-token --generate, and give the same token to every node and client."
        return broken("ray authentication", f"{MODE}=token, and no token is here", fix)
    if not mode:
        fix = f"export {MODE}=token in shells that submit jobs; without it a cluster with a token refuses them."
        return note("ray authentication", f"{MODE} is not set" + (", a token is here" if has_token else ""), fix)
    return fine("ray authentication", f"{MODE}={mode}, a token is here")


def dashboards(commands: Iterable[str] | None = None, environment: Mapping[str, str] | None = None) -> list[Finding]:
    """Check on what addresses the dashboards that run on this machine listen.

    Args:
        commands: command lines of processes; those of this machine if None.
        environment: variables; this process's if None.
    """
    environment = os.environ if environment is None else environment
    found = []
    for command in _commands() if commands is None else commands:
        host, port = _HOST.search(command), _PORT.search(command)
        if "dashboard/dashboard.py" not in command or host is None or port is None:
            continue
        where = f"{host[1]}:{port[1]}"
        if _is_loopback(host[1]):
            found.append(fine("ray dashboard", f"listens on {where} alone"))
        elif environment.get(MODE, "").lower() == "token":
            fix = "keep it so: a token is asked for; a network policy or a tunnel besides is better."
            found.append(note("ray dashboard", f"listens on {where}, with a token", fix))
        else:
            fix = "start Ray with --dashboard-host=127.0.0.1 and tunnel to it, or with RAY_AUTH_MODE=token everywhere."
            found.append(broken("ray dashboard", f"listens on {where}, and no token is set here", fix))
    return found or [fine("ray dashboard", "none runs here")]


def reachable(address: str) -> Finding:
    """Ask a cluster's dashboard for its version without a token: it must answer that it wants one.

    Args:
        address: http://HOST:PORT of the dashboard.
    """
    where = address.rstrip("/")
    if not where.startswith(("http://", "https://")):
        return broken("ray cluster", f"{address}: no http address", "give http://HOST:8265, the dashboard's.")
    try:
        with urllib.request.urlopen(f"{where}/api/version", timeout=ANSWER_S) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, ValueError) as error:
        fix = "check the address, the port and the network; on Kubernetes `kubectl port-forward` to the head first."
        return broken("ray cluster", f"{where} does not answer ({' '.join(str(error).split())[:120]})", fix)
    if status in (401, 403):
        return fine("ray cluster", f"{where} asks for a token")
    host = re.sub(r"^https?://|[:/].*$", "", where)
    seen = f"{where} answers without a token"
    if _is_loopback(host):
        return note("ray cluster", seen, "fine on this machine alone; with others on it, export RAY_AUTH_MODE=token.")
    fix = "start the cluster with RAY_AUTH_MODE=token: whoever reaches this address runs code on it."
    return broken("ray cluster", seen, fix)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _commands() -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended, or is another user's
            continue
    return found
