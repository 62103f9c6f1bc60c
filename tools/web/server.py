"""A page and the questions that it asks, served by Starlette on uvicorn.

The server answers the page that it served and nobody else. Of a request only the path is looked up, in a table; nothing
of it reaches the disk. What is refused is refused with one line of text and has changed nothing.
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
except ImportError:  # both are optional: open_page says what is missing
    uvicorn, H11Protocol = None, object

MOST = 64 * 1024  # bytes of a question
AT_ONCE = 32  # connections; Starlette's pool has 40 threads, so whoever holds a lock gets one even if all others wait
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


def demand(condition, status, message):
    """Refuses a request unless the condition holds."""
    if not condition:
        raise HTTPException(status, message)


def application(html, routes, token=None):
    """The Starlette application. html: the page, at /. routes: {"/name": function}, which takes the question, a dict,
    and returns the answer, or yields several, sent as they come; it runs in threads. token: a secret that questions
    must bring, or None."""

    async def respond(request):
        own = token or OWN_NAME.fullmatch(request.headers.get("Host", ""))  # or another site had its name lead here
        demand(own, 403, "this server answers to 127.0.0.1 and localhost")
        path = None if request.scope["query_string"] else request.scope["raw_path"].decode()  # exactly as it was sent
        if request.method != "POST":
            demand(path == "/", 404, "there is one page here, at /")
            return HTMLResponse(html)
        demand(path in routes, 404, "no such question")
        question = await question_of(request, token)
        try:
            answer = await run_in_threadpool(routes[path], question)
        except Refused as refused:
            raise HTTPException(409, str(refused)) from None
        if not isinstance(answer, GeneratorType):
            return as_json(answer)
        lines = (json.dumps(part) + "\n" for part in answer)
        closing = BackgroundTask(answer.close)  # runs also when the window is closed in the middle of the answer
        return StreamingResponse(lines, media_type="application/x-ndjson", background=closing)

    async def refuse(request, error):
        return as_json({"error": error.detail}, error.status_code)

    async def fail(request, error):
        traceback.print_exception(error)
        return as_json({"error": "something went wrong here; the server's own window says what"}, 500)

    handlers = {HTTPException: refuse, Exception: fail}
    return Starlette(routes=[Route("/{path:path}", respond, methods=["GET", "POST"])], exception_handlers=handlers)


async def question_of(request, token):
    """The JSON object that a request of our own page brings; any other request is refused."""
    headers, name = request.headers, f"http://{request.headers.get('Host')}"
    demand(headers.get("Origin") == name, 403, "this question comes from another page than this server's own")
    brought = headers.get("Authorization", "").removeprefix("Bearer ")
    known = not token or hmac.compare_digest(brought.encode(), token.encode())
    demand(known, 401, "the token is missing or wrong; open the address that was printed at the start")
    demand(headers.get("Content-Type") == "application/json", 415, "a question is JSON")
    length = headers.get("Content-Length", "")
    plain = re.fullmatch("[0-9]{1,9}", length) and "Transfer-Encoding" not in headers
    demand(plain, 411, "a question says its length")
    demand(int(length) <= MOST, 413, f"a question has {MOST:,} bytes at the most")
    try:
        question = json.loads((await request.body()).decode())
    except (ValueError, RecursionError, ClientDisconnect):
        question = None
    demand(isinstance(question, dict), 400, "this is no JSON object")
    return question


def as_json(answer, status=200):
    return Response(json.dumps(answer), status, media_type="application/json")


class Connection(H11Protocol):
    """uvicorn's HTTP connection, with the time limits that it lacks: PATIENCE seconds for a request to arrive whole,
    and as many for the client to take what is sent."""

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # calls pause_writing as soon as anything has to wait
        self.loop.call_later(PATIENCE, self.check_request)

    def check_request(self):
        if self.cycle is None or self.cycle.more_body:
            self.transport.abort()

    def pause_writing(self):
        super().pause_writing()
        self.unsent = self.loop.call_later(PATIENCE, self.transport.abort)

    def resume_writing(self):
        super().resume_writing()
        self.unsent.cancel()

    def shutdown(self):
        """Ctrl-C does not wait for the rest of an answer."""
        self.transport.abort()


def prepare(host, port, html, routes, token=None):
    """(a uvicorn server, the socket that it shall listen on)."""
    require(uvicorn, 'the pages need starlette and uvicorn; pip install "minirlhf[web]"')
    require(token or host in LOOPBACK, f"--host {host}: open to others; a token is needed")
    try:
        listener = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: {error}; take another port, 0 for any") from None
    headers = [
        ("Content-Security-Policy", policy(html)),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),  # after one request
    ]
    app, limit = application(html, routes, token), AT_ONCE + 1  # uvicorn counts the connection that asks, too
    config = uvicorn.Config(app, http=Connection, ws="none", headers=headers, server_header=False, log_level="critical",
                            limit_concurrency=limit)  # fmt: skip
    return uvicorn.Server(config), listener


def open_page(html, routes, host, port, about):
    """Serves a page until Ctrl-C, and says where it is. Open to others, it takes a token, which is in the address."""
    token = None if host in LOOPBACK else secrets.token_urlsafe(16)
    own, listener = prepare(host, port, html, routes, token)
    address = f"http://{host}:{listener.getsockname()[1]}/" + (f"#{token}" if token else "")
    print(f"open {address} in a browser; {about}; Ctrl-C ends", flush=True)
    try:
        own.run(sockets=[listener])
    except KeyboardInterrupt:
        print("ended; all that was saved is saved")
