"""A server for one page and the questions that it asks, by the standard library.

It answers the page that it served and nobody else. Of a request only the path's name is looked up, in a table; nothing
of it reaches the disk. What is refused is refused with one line of text and has changed nothing.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import socket
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import GeneratorType

from minirlhf.support.errors import InputError, require

MOST = 64 * 1024  # bytes of a question
AT_ONCE = 32  # connections
PATIENCE = 20  # seconds
LOOPBACK = ("127.0.0.1", "localhost")
HOST_HELP = "other than this machine's own, it opens the page to all who have the token that is printed [127.0.0.1]"
OWN_NAME = re.compile(rf"({'|'.join(map(re.escape, LOOPBACK))})(:[0-9]{{1,5}})?")


class Refused(Exception):
    """What a person should read in place of an answer."""


def page(name):
    """The HTML file of that name in this folder, with what all pages have in common."""
    folder = Path(__file__).parent
    common = (folder / "common.html").read_text(encoding="utf-8")
    return (folder / f"{name}.html").read_text(encoding="utf-8").replace("<!-- common.html -->", common)


def policy(html):
    """The page's Content-Security-Policy: its own scripts and styles, by their hashes, and questions to this server."""

    def hashes(tag):
        texts = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Server(ThreadingHTTPServer):
    """html: the page, at /. routes: {"/name": function}, which takes the question, a dict, and returns the answer, or
    yields several, sent as they come. token: a secret that questions must bring, or None."""

    daemon_threads = True

    def __init__(self, address, html, routes, token=None):
        require(token or address[0] in LOOPBACK, f"--host {address[0]}: open to others; a token is needed")
        self.html, self.policy, self.routes, self.token = html.encode(), policy(html), routes, token
        self.free = threading.BoundedSemaphore(AT_ONCE)
        super().__init__(address, Handler)

    def process_request(self, request, client_address):
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request, client_address):
        """A window that was closed in the middle of an answer is no error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE  # with a connection that says nothing
    server_version = sys_version = ""

    def setup(self):
        """A question that comes a letter at a time is cut off, too."""
        super().setup()
        self.deadline = threading.Timer(PATIENCE, self.hang_up)
        self.deadline.daemon = True
        self.deadline.start()

    def hang_up(self):
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def finish(self):
        self.deadline.cancel()
        super().finish()

    def do_GET(self):
        if not self.refused():
            if self.path == "/":
                self.answer(200, "text/html; charset=utf-8", self.server.html)
            else:
                self.refuse(404, "there is one page here, at /")

    def do_POST(self):
        if self.refused():
            return
        if self.path not in self.server.routes:
            return self.refuse(404, "no such question")
        if self.headers["Origin"] != f"http://{self.headers['Host']}":
            return self.refuse(403, "this question comes from another page than this server's own")
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ").encode()
        if self.server.token and not hmac.compare_digest(token, self.server.token.encode()):
            return self.refuse(401, "the token is missing or wrong; open the address that was printed at the start")
        if self.headers["Content-Type"] != "application/json":
            return self.refuse(415, "a question is JSON")
        length = self.headers["Content-Length"] or ""
        if not re.fullmatch("[0-9]{1,9}", length) or "Transfer-Encoding" in self.headers:
            return self.refuse(411, "a question says its length")
        if int(length) > MOST:
            return self.refuse(413, f"a question has {MOST:,} bytes at the most")
        try:
            question = json.loads(self.rfile.read(int(length)).decode())
            self.deadline.cancel()  # an answer may take its time
            if not isinstance(question, dict):
                raise ValueError
        except (ValueError, RecursionError):
            return self.refuse(400, "this is no JSON object")
        try:
            answer = self.server.routes[self.path](question)
        except Refused as refused:
            return self.refuse(409, str(refused))
        except Exception:
            self.refuse(500, "something went wrong here; the server's own window says what")
            raise
        if not isinstance(answer, GeneratorType):
            return self.answer(200, "application/json", json.dumps(answer).encode())
        self.begin(200, "application/x-ndjson")
        for part in answer:
            self.wfile.write(json.dumps(part).encode() + b"\n")
            self.wfile.flush()

    def refused(self):
        """Whether this is no request for this server: then another site had its own name lead here."""
        if self.server.token is None and not OWN_NAME.fullmatch(self.headers["Host"] or ""):
            self.refuse(403, "this server answers to 127.0.0.1 and localhost")
            return True
        return False

    def refuse(self, status, message):
        self.close_connection = True
        self.answer(status, "application/json", json.dumps({"error": message}).encode())

    def send_error(self, code, message=None, explain=None):
        """What the standard library refuses: an unknown method, a request that is none."""
        self.refuse(code, "this is no request that is answered here")

    def answer(self, status, kind, body):
        self.begin(status, kind, ("Content-Length", str(len(body))))
        self.wfile.write(body)

    def begin(self, status, kind, *more):
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Security-Policy", self.server.policy),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
            *more,
        ):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args):
        """Nothing: what people ask is theirs."""


def open_page(html, routes, host, port, about):
    """Serves a page until Ctrl-C, and says where it is. Open to others, it takes a token, which is in the address."""
    token = None if host in LOOPBACK else secrets.token_urlsafe(16)
    try:
        own = Server((host, port), html, routes, token)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: {error}; take another port, 0 for any") from None
    address = f"http://{host}:{own.server_address[1]}/" + (f"#{token}" if token else "")
    print(f"open {address} in a browser; {about}; Ctrl-C ends", flush=True)
    try:
        own.serve_forever()
    except KeyboardInterrupt:
        print("ended; all that was saved is saved")
    finally:
        own.server_close()
