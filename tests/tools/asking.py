"""For tests of the pages' servers: answers without models, requests without a browser."""

import http.client
import json
import threading
from contextlib import contextmanager

from tools import label
from tools.web import server
from tools.web.labels import Labels


class QuickAnswers:
    """Stands in for answers.Answers: k fixed answers to each prompt, or `texts`, {i: answers}."""

    def __init__(self, k=4, texts=None):
        self.k, self.texts, self.asked = k, texts or {}, []

    def of(self, i):
        self.asked.append(i)
        texts = self.texts.get(i, [f" answer {letter} to {i}" for letter in "abcdefghi"[: self.k]])
        return [(text, ["gpt" if j else "sft"]) for j, text in enumerate(texts)]

    def prepare(self, rows):
        pass


def labels(out, n=50, **options):
    k = options.pop("k", 4)
    records = [{"prompt": f"question {i}\n", "use_case": "chat"} for i in range(n)]
    return Labels(out, records, QuickAnswers(k, options.pop("texts", None)), **options)


@contextmanager
def serving(html, routes, token=None):
    """Runs a server in a thread; yields its port."""
    running, listener = server.prepare("127.0.0.1", 0, html, routes, token)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield port
    finally:
        running.should_exit = True
        thread.join()


@contextmanager
def labelling(asked):
    with serving(server.page("label"), label.routes(asked)) as port:
        yield port


def ask(port, path, question=None, method="POST", body=None, **headers):
    """(status, answer) of a request with the page's headers; **headers replaces some, and None leaves one out."""
    usual = {"Host": f"127.0.0.1:{port}", "Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
    body = json.dumps(question).encode() if body is None and question is not None else body
    usual |= {"Content-Length": str(len(body or b""))} | {name.replace("_", "-"): v for name, v in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in usual.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders()
    try:
        connection.send(body or b"")
        response = connection.getresponse()
        text = response.read()
    except (ConnectionError, http.client.HTTPException):
        return 0, {}
    finally:
        connection.close()
    lines = "json" in response.headers["Content-Type"]
    return response.status, [json.loads(line) for line in text.splitlines()] if lines else text
