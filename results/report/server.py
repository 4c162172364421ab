"""Serves a page over HTTP on this machine: on the loopback only, read-only, at an address that contains a token."""

import secrets
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

from repro.errors import UserError

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""The hosts that a request may name. Any other name that resolves to the loopback is refused (DNS rebinding)."""
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
IDLE_SECONDS = 30
"""Seconds without data after which a connection is closed."""


class PageServer(ThreadingHTTPServer):
    """Serves one page.

    Attributes:
        address: Where the page is, with the token.
    """

    daemon_threads = True

    def __init__(self, make_page: Callable[[], str], *, port: int = 0, every: float = 30.0) -> None:
        """Begins to listen.

        Args:
            make_page: Makes the page; called for a request, by one thread at a time.
            port: On which to listen; 0: any that is free.
            every: Seconds for which a page that was made serves further requests.

        Raises:
            UserError: The port is taken, or may not be used.
        """
        self._make_page, self._every = make_page, every
        self._making = threading.Lock()
        self._page, self._made = b"", 0.0
        self.path = f"/{secrets.token_urlsafe(24)}/"
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(
                f"cannot listen on port {port}: {error.strerror or error}", mend="another --port, or --out FILE"
            ) from error
        self.address = f"http://{HOST}:{self.server_port}{self.path}"

    @property
    def hosts(self) -> frozenset[str]:
        """What a request may name as its host."""
        return frozenset(f"{name}:{self.server_port}" for name in NAMES)

    def page(self) -> bytes:
        """Returns the page, made anew if the last one is too old."""
        with self._making:  # the first of several simultaneous requests makes it, the others wait
            if not self._page or time.monotonic() - self._made > self._every:
                self._page, self._made = self._make_page().encode(), time.monotonic()
            return self._page

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints what went wrong with a request; a browser that disconnects early is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the page's path; other paths and methods are refused."""

    server: PageServer
    server_version, sys_version = "salmask", ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Sends the page."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Sends the page's headers."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        refusal = self._refusal()
        if refusal is not None:
            self.send_error(refusal)
            return
        try:
            page = self.server.page()
        except UserError as error:
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=str(error))
            return
        self.send_response(HTTPStatus.OK)
        for name, value in {**HEADERS, "Content-Length": str(len(page))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(page)

    def _refusal(self) -> HTTPStatus | None:
        """Returns why a request is refused; None if it is not."""
        if not ip_address(self.client_address[0]).is_loopback:
            return HTTPStatus.FORBIDDEN
        # Against DNS rebinding: a browser sends the name that a foreign page asked for, even if it resolves to here.
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            return HTTPStatus.MISDIRECTED_REQUEST
        # Compared in constant time, which does not tell how much of the token is right.
        if not secrets.compare_digest(self.path.encode(), self.server.path.encode()):
            return HTTPStatus.NOT_FOUND
        return None

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing, because requests contain the token."""
