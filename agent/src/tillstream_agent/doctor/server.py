"""The way to the server: its name, the line, the certificate, who answers, and what time it is there.

Each step needs the one before, so the first that fails is the one that is told.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tillstream_protocol.codec import encode
from tillstream_protocol.errors import TillstreamError
from tillstream_protocol.messages import Hello, Introduction, decode_introduction, introduction_bytes
from tillstream_protocol.signing import verify
from tillstream_protocol.versions import PROTOCOL

from ..clock import MAX_SKEW_MS, Clock
from ..folder import Identity
from ..sync.asking import Asker
from ..sync.transport import Client, Response, Unreachable, is_loopback, server_address, tls_context
from .finding import Finding, ok, patiently, problem

STEP_S: Final = 2.0
"""Seconds that one step may take."""
EXPIRES_SOON_S: Final = 14 * 86_400
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")

_EXPIRED: Final = 10
"""Verify codes of OpenSSL's x509_vfy.h."""
_NOT_YET: Final = 9
_HOSTNAME: Final = (62, 64)
_NO_WAY: Final = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")
"""As asyncio writes down what every address of a name failed with."""
_UNKNOWN: Final = (2, 18, 19, 20, 21)


@dataclass(frozen=True, slots=True)
class Way:
    """Goes the way from a till to its server. `timer` measures seconds."""

    identity: Identity
    ca_file: str
    timeout_s: float
    clock: Clock
    randomness: Callable[[int], bytes]
    timer: Callable[[], float]
    resolve: Callable[[str, int], Iterable[str]]
    """The addresses of a name; raises `OSError`. It may block."""
    environment: Mapping[str, str]

    async def go(self) -> list[Finding]:
        """Everything on the way, up to the first step that fails."""
        try:
            address = server_address(self.identity.server)
            tls = tls_context(address, self.ca_file)
        except TillstreamError as error:
            return [problem("server", error.message, "the identity or the settings were altered", error.hint or "")]
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
        client = Asker(address, tls=tls, timeout=min(self.timeout_s, STEP_S))
        findings: list[Finding] = []
        steps: tuple[Callable[[], Awaitable[list[Finding]]], ...] = (
            lambda: self._name(host, port),
            lambda: self._line(host, port),
            lambda: self._certificate(host, port, tls),
            lambda: self._hello(client),
        )
        for step in steps:
            findings += await step()
            if any(finding.verdict == "problem" for finding in findings):
                break
        await client.close()
        return findings

    async def _name(self, host: str, port: int) -> list[Finding]:
        if _is_number(host) or is_loopback(host):
            return []
        try:
            found = await patiently(lambda: list(self.resolve(host, port)), STEP_S)
        except TimeoutError:
            return [_no_name(host, "no name server answers in time")]
        except OSError as error:
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
                return [_no_name(host, "no name server answers")]
            cause = "the name is not known: it was mistyped at enrolment, or its entry is gone"
            fix = f"try: getent hosts {host}; have the entry made again, or put the name into /etc/hosts"
            return [problem("dns", f"{host} has no address", cause, fix)]
        return [ok("dns", f"{host} has {len(found)} addresses")]

    async def _line(self, host: str, port: int) -> list[Finding]:
        try:
            async with asyncio.timeout(STEP_S):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
        except TimeoutError:
            cause = "a firewall lets nothing through, or the address is a machine that is off"
            fix = f"let this till out to port {port} of {host}, and look whether that machine runs"
            return [self._no_line(f"{host}:{port} does not answer", cause, fix)]
        except OSError as error:
            return [self._no_line(f"{host}:{port}: {error.strerror or error}", *_line_fault(error, host, port))]
        return []

    def _no_line(self, detail: str, cause: str, fix: str) -> Finding:
        """A proxy in the environment is the likelier cause: who set it meant that nothing gets out without it."""
        proxies = [name for name in PROXIES if self.environment.get(name)]
        if not proxies:
            return problem("connection", detail, cause, fix)
        why = f"{proxies[0]} is set, so this network may let nothing out but by its proxy; the agent uses none"
        way = "let the firewall pass the till to the server directly: what it sends is sealed and signed"
        return problem("proxy", detail, f"{why}; or {cause}", f"{way}; or {fix}")

    async def _certificate(self, host: str, port: int, tls: ssl.SSLContext | None) -> list[Finding]:
        if tls is None:
            return []
        try:
            async with asyncio.timeout(STEP_S):
                _, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            return [problem("certificate", f"{host}: {error.verify_message}", *_untrusted(error.verify_code, host))]
        except (OSError, TimeoutError, EOFError) as error:
            cause = "what answers there does not speak TLS: another service, or a proxy that breaks it"
            fix = "check the port; have the proxy let this connection through unopened"
            return [problem("certificate", f"{host}:{port}: {str(error) or 'no answer'}", cause, fix)]
        certificate = writer.get_extra_info("peercert") or {}
        writer.transport.abort()
        left = ssl.cert_time_to_seconds(certificate["notAfter"]) - self.clock.now_ms() / 1000
        detail = f"valid for {left / 86_400:.0f} more days"
        if left < EXPIRES_SOON_S:
            fix = "renew it at the server, and look why nothing did so by itself; till then all goes on"
            return [problem("certificate", detail, "the server's certificate runs out soon", fix)]
        return [ok("certificate", detail)]

    async def _hello(self, client: Client) -> list[Finding]:
        nonce = self.randomness(16)
        started = self.timer()
        response: Response | None = None
        try:
            response = await client.post("/till/v1/hello", encode(Hello(nonce, PROTOCOL)))
            server = decode_introduction(response.require_ok())
        except TillstreamError as error:
            return [_no_hello(error, response)]
        took = (self.timer() - started) * 1000
        if not _is_ours(server, nonce, self.identity):
            cause = "another server answers there, or its signing key was made anew"
            fix = "ask head office; never enrol anew because of it"
            return [problem("server", "the server is not the one that was joined", cause, fix)]
        kind = "plain HTTP on this machine" if self.identity.server.startswith("http:") else "TLS"
        answers = ok("server", f"{self.identity.server} answers in {took:.0f} ms over {kind}")
        return [answers, *_spoken(server), self._time(response.server_ms)]

    def _time(self, server_ms: int | None) -> Finding:
        if server_ms is None:
            return ok("clock", "the server does not tell the time")
        offset = self.clock.now_ms() - server_ms
        if abs(offset) > MAX_SKEW_MS:
            detail = f"{abs(offset) // 1000} s {'ahead of' if offset > 0 else 'behind'} the server"
            cause = "the till's clock or the server's is wrong; offers that expire are off"
            return problem("clock", detail, cause, "set the clock, and keep it by NTP: timedatectl set-ntp true")
        return ok("clock", "within 5 minutes of the server's")


def addresses(host: str, port: int) -> list[str]:
    """What the machine's resolver knows of a name. Raises `OSError`."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _no_name(host: str, cause: str) -> Finding:
    fix = "check cable or Wi-Fi, then the name server in /etc/resolv.conf; capturing goes on meanwhile"
    return problem("dns", f"{host} cannot be looked up", cause, fix)


def _line_fault(error: OSError, host: str, port: int) -> tuple[str, str]:
    found = {error.errno, *(int(number) for number in _ERRNO.findall(str(error)))}
    if found & _NO_WAY and errno.ECONNREFUSED not in found:
        return "this machine has no way there", "check cable or Wi-Fi, address and router of the till"
    cause = "nothing listens there: the server is down, or the port is another"
    return cause, f"start tillstream-server on {host}, and look that it listens on port {port}"


def _untrusted(code: int, host: str) -> tuple[str, str]:
    """Cause and fix for a certificate that was not accepted."""
    if code == _EXPIRED:
        return "the server's certificate has run out, or the till's clock is ahead", "renew it at the server"
    if code == _NOT_YET:
        return "the certificate is not valid yet: mostly the till's clock is behind", "set the till's clock"
    if code in _HOSTNAME:
        cause = "the certificate is for another name than the till was enrolled with"
        return cause, f"have it made for {host} too, or enrol by the name that it has"
    if code in _UNKNOWN:
        cause = "no authority that this till trusts has signed it: a private one, or a proxy that opens TLS"
        return (
            cause,
            "put the authority's certificate into a file that sync.ca_file names; keep proxies from opening it",
        )
    return "the certificate is not accepted", "see what the server presents: openssl s_client -connect"


def _no_hello(error: TillstreamError, response: Response | None) -> Finding:
    if response is not None and (response.body.lstrip()[:1] == b"<" or 300 <= response.status < 400):
        cause = "a proxy, or the sign-in page of a network, answers in the server's place"
        fix = "let the till through without signing in, and make the server's address an exception of the proxy"
        return problem("server", f"a web page answers, with status {response.status}", cause, fix)
    if isinstance(error, Unreachable) and response is not None:
        fix = "see the server's log; capturing goes on meanwhile"
        return problem("server", error.message, "the server, or a proxy before it, is in trouble itself", fix)
    if response is not None:
        fix = "look at the address: does tillstream-server answer there? what is queued is kept"
        return problem("server", error.message, "what answers there is not a Tillstream server", fix)
    fix = "see the server's log, and what stands between; capturing goes on meanwhile"
    return problem("server", error.message, "the server hangs, or something cuts the connection", fix)


def _is_ours(server: Introduction, nonce: bytes, identity: Identity) -> bool:
    """Whether the server holds the signing key that was joined; its other keys may change, and packs bring them."""
    keys = (server.server_public_key, server.box_public_key, server.escrow_public_key)
    claim = introduction_bytes(nonce, *keys, server.protocol_from, server.protocol_to)
    try:
        verify(identity.server_public, claim, server.signature)
    except TillstreamError:
        return False
    return True


def _spoken(server: Introduction) -> list[Finding]:
    spoken = f"protocol {PROTOCOL} here, {server.protocol_from} to {server.protocol_to} at the server"
    if server.protocol_from <= PROTOCOL <= server.protocol_to:
        return [ok("version", spoken)]
    older = "the server" if server.protocol_to < PROTOCOL else "this agent"
    return [problem("version", spoken, f"{older} is too old for the other", f"upgrade {older}")]
