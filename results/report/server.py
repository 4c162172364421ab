"""A page over HTTP for who is at this machine: on the loopback alone, read-only, at an address that holds a token."""

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
"""The names by which the loopback may be asked for: a page elsewhere that has its own name point here is refused."""
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
IDLE_SECONDS = 30
"""After this long without a word a connection is closed."""


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
            UserError: The port is taken, or not to be had.
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
        """Returns the page, made anew where the last one is too old."""
        with self._making:  # of several requests at once the first makes it
            if not self._page or time.monotonic() - self._made > self._every:
                self._page, self._made = self._make_page().encode(), time.monotonic()
            return self._page

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints what went wrong with a request; a browser that left before it had all of its page is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of the page's path; everything else is refused, as is every method without a function."""

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
        """Returns why a request is refused; None where it is not."""
        if not ip_address(self.client_address[0]).is_loopback:
            return HTTPStatus.FORBIDDEN
        # A browser names the host that its user's page asked for: one that only resolves to this machine is a stranger.
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            return HTTPStatus.MISDIRECTED_REQUEST
        # Compared in a time that tells nothing of how much of the token is right.
        if not secrets.compare_digest(self.path.encode(), self.server.path.encode()):
            return HTTPStatus.NOT_FOUND
        return None

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the requests of one's own browser are no news, and they hold the token."""
