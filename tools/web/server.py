"""Serves a page and answers its requests, with Starlette on uvicorn.

It accepts requests only from the page that it served. A request's path is looked up in a table and never used as a
file name. A refused request gets one line of text and changes nothing.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import socket
import traceback
from pathlib import Path
from types import GeneratorType

from minirlhf.support.errors import InputError, require

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.responses import HTMLResponse, Response, StreamingResponse
    from starlette.routing import Route
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError:  # both are optional; prepare raises an InputError that names them
    uvicorn, H11Protocol = None, object

MOST = 64 * 1024  # bytes of a request
AT_ONCE = 32  # connections; fewer than the 40 threads of Starlette's pool, so that a lock's holder always gets one
TIMEOUT = 20  # seconds
LOOPBACK = ("127.0.0.1", "localhost")
OWN_NAME = re.compile(rf"({'|'.join(map(re.escape, LOOPBACK))})(:[0-9]{{1,5}})?")


def page(name):
    """The HTML file of that name in this folder, with common.html inserted."""
    folder = Path(__file__).parent
    common = (folder / "common.html").read_text(encoding="utf-8")
    return (folder / f"{name}.html").read_text(encoding="utf-8").replace("<!-- common.html -->", common)


def policy(html):
    """The page's Content-Security-Policy: allows its own scripts and styles, by hash, and requests to this server."""

    def hashes(tag):
        texts = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def demand(condition, status, message):
    """Refuses the request unless the condition holds."""
    if not condition:
        raise HTTPException(status, message)


def application(html, routes, token=None):
    """The Starlette application. html: the page, at /. routes: {"/name": function}; a function takes the request's JSON
    object and returns the answer, or yields a stream of answers, in a thread. token: requests' secret, or None."""

    async def respond(request):
        is_own = token or OWN_NAME.fullmatch(request.headers.get("Host", ""))  # else DNS rebinding
        demand(is_own, 403, "this server's name is 127.0.0.1 or localhost")
        path = None if request.scope["query_string"] else request.scope["raw_path"].decode()  # as sent, not decoded
        if request.method != "POST":
            demand(path == "/", 404, "the only page here is /")
            return HTMLResponse(html)
        demand(path in routes, 404, "no such request")
        question = await read_json(request, token)
        try:
            answer = await run_in_threadpool(routes[path], question)
        except InputError as error:  # the page shows it
            raise HTTPException(409, str(error)) from None
        if not isinstance(answer, GeneratorType):
            return as_json(answer)
        lines = (json.dumps(part) + "\n" for part in answer)
        closing = BackgroundTask(answer.close)  # also runs if the page is closed while the answer is streamed
        return StreamingResponse(lines, media_type="application/x-ndjson", background=closing)

    async def refuse(request, error):
        return as_json({"error": error.detail}, error.status_code)

    async def fail(request, error):
        traceback.print_exception(error)
        return as_json({"error": "internal error; see the terminal in which the server runs"}, 500)

    handlers = {HTTPException: refuse, Exception: fail}
    return Starlette(routes=[Route("/{path:path}", respond, methods=["GET", "POST"])], exception_handlers=handlers)


async def read_json(request, token):
    """The request's JSON object. Refuses requests that did not come from our own page."""
    headers, name = request.headers, f"http://{request.headers.get('Host')}"
    demand(headers.get("Origin") == name, 403, "the request comes from another page than this server's own")
    brought = headers.get("Authorization", "").removeprefix("Bearer ")
    known = not token or hmac.compare_digest(brought.encode(), token.encode())
    demand(known, 401, "the token is missing or wrong; open the address that the server printed at its start")
    demand(headers.get("Content-Type") == "application/json", 415, "the request must be JSON")
    length = headers.get("Content-Length", "")
    plain = re.fullmatch("[0-9]{1,9}", length) and "Transfer-Encoding" not in headers
    demand(plain, 411, "the request must have a Content-Length")
    demand(int(length) <= MOST, 413, f"a request has at most {MOST:,} bytes")
    try:
        question = json.loads((await request.body()).decode())
    except (ValueError, RecursionError, ClientDisconnect):
        question = None
    demand(isinstance(question, dict), 400, "the request is not a JSON object")
    return question


def as_json(answer, status=200):
    return Response(json.dumps(answer), status, media_type="application/json")


class Connection(H11Protocol):
    """uvicorn's HTTP connection with two time limits of TIMEOUT seconds that it lacks: for a request to arrive
    completely, and for the client to read what was sent."""

    def connection_made(self, transport):
        super().connection_made(transport)
        if len(self.connections) > 2 * AT_ONCE:  # uvicorn answers 503 beyond AT_ONCE, but only if there is a request
            return transport.abort()
        transport.set_write_buffer_limits(0)  # pause_writing is called as soon as data is unsent
        self.loop.call_later(TIMEOUT, self.check_request)

    def check_request(self):
        if self.cycle is None or self.cycle.more_body:
            self.transport.abort()

    def pause_writing(self):
        super().pause_writing()
        self.unsent = self.loop.call_later(TIMEOUT, self.transport.abort)

    def resume_writing(self):
        super().resume_writing()
        self.unsent.cancel()

    def shutdown(self):
        """On Ctrl-C: does not wait for the rest of an answer."""
        self.transport.abort()


def prepare(host, port, html, routes, token=None):
    """(a uvicorn server, its listening socket)."""
    require(uvicorn, 'the pages need starlette and uvicorn; pip install "minirlhf[web]"')
    require(host, "--host: is empty; leave it out, or name an address")
    require(token or host in LOOPBACK, f"--host {host}: serves other machines; a token is needed")
    try:
        listener = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: {error}; choose others (port 0: any free one)") from None
    headers = [
        ("Content-Security-Policy", policy(html)),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),  # one request per connection
    ]
    app, limit = application(html, routes, token), AT_ONCE + 1  # uvicorn counts the asking connection, too
    config = uvicorn.Config(app, http=Connection, ws="none", headers=headers, server_header=False, log_level="critical",
                            limit_concurrency=limit)  # fmt: skip
    return uvicorn.Server(config), listener


def open_page(html, routes, host, port, about):
    """Prints the page's address and serves it until Ctrl-C. If other machines are served, the address has a token."""
    token = None if host in LOOPBACK else secrets.token_urlsafe(16)
    running, listener = prepare(host, port, html, routes, token)
    address = f"http://{host}:{listener.getsockname()[1]}/" + (f"#{token}" if token else "")
    print(f"open {address} in a browser; {about}; Ctrl-C ends", flush=True)
    try:
        running.run(sockets=[listener])
    except KeyboardInterrupt:
        print("ended; everything saved is on the disk")
