"""Receivers of notifications: an HTTP server that answers as told, and a mail server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from aiosmtpd.controller import Controller

from tests.support import free_port


class Request(NamedTuple):
    """What was posted."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Takes webhooks. ``answers`` are statuses, one for each; then it answers 204.

    ``None``: it does not answer before it is closed. A tuple: a status and headers.
    """

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            """Answers as the receiver says."""

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(length)
                answer = receiver.answers.pop(0) if receiver.answers else 204
                receiver.requests.append(Request(self.path, headers, body))
                if answer is None:
                    receiver.closing.wait(30)
                    return
                status, more = answer if isinstance(answer, tuple) else (answer, {})
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Write nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    @contextlib.contextmanager
    def running(self) -> Iterator[Receiver]:
        """Take webhooks meanwhile."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class Mailbox:
    """A mail server that keeps what it takes; ``refuse`` so many before."""

    def __init__(self, refuse: int = 0) -> None:
        self.refuse = refuse
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.port = free_port()
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep a mail, or refuse it for now."""
        if self.refuse:
            self.refuse -= 1
            return "451 try again later"
        mail = BytesParser(EmailMessage, policy=default).parsebytes(envelope.content)
        self.recipients.append(envelope.rcpt_tos)
        self.mails.append(mail)
        return "250 OK"

    @contextlib.contextmanager
    def running(self) -> Iterator[Mailbox]:
        """Take mails meanwhile."""
        self._controller.start()
        try:
            yield self
        finally:
            self._controller.stop()
