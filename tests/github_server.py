"""A GitHub that fits into a test: issues and comments over HTTP, with its limits and its failures.

Every request and every answer is held against ``github_api.json``, the part of GitHub's published API description that
perfkit uses; what does not fit stands in `violations`.
"""

import json
import re
import socket
import struct
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from openapi_schema_validator import OAS30Validator

TOKEN = "ghp_0123456789abcdefSECRET"
REPOSITORY = "octo/shop"
MOST_BODY = 65_536
TIME = "2026-11-01T00:00:00Z"
_API = json.loads(Path(__file__).with_name("github_api.json").read_text("utf-8"))


def _resolved(value):
    """The description without references."""
    if isinstance(value, list):
        return [_resolved(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        found = _API
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return _resolved(found)
    resolved = {key: _resolved(item) for key, item in value.items()}
    if resolved.get("nullable") is True and "enum" in resolved:  # GitHub means null to be one of them
        resolved["enum"] = [*resolved["enum"], None]
    return resolved


@lru_cache(maxsize=1)
def _operations():
    """Method, pattern of paths, and the description of each operation."""
    paths = _resolved(_API["paths"])
    patterns = {path: re.compile(re.sub(r"\{\w+\}", r"([^/]+)", path)) for path in paths}
    return [(method.upper(), patterns[path], what) for path, every in paths.items() for method, what in every.items()]


def _schema_errors(content, value):
    schema = content.get("application/json", {}).get("schema", {})
    return [f"{'/'.join(map(str, one.path))}: {one.message}"[:300] for one in OAS30Validator(schema).iter_errors(value)]


@dataclass
class Fault:
    """What goes wrong with the next request that fits.

    ``acts``: whether the server does what it was asked before it fails.  ``how``: ``reset``, ``half`` (an answer that
    is cut off), ``broken`` (whole, but half of its JSON), ``page`` (HTML), ``silent`` (until the server stops),
    ``redirect`` or ``status``.
    """

    how: str = "status"
    method: str = "POST"
    path: str = ""
    acts: bool = False
    status: int = 502
    message: str = "Server Error"
    headers: dict = field(default_factory=dict)
    times: int = 1
    after: int = 0  # requests that fit and are served well before


class GitHub(ThreadingHTTPServer):
    """One repository; `login` and `is_bot` say whose token it is."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.issues, self.comments = {}, {}
        self.requests, self.violations = [], []
        self.faults = deque()
        self.users = ("octocat",)
        self.login, self.is_bot, self.association = "github-actions[bot]", True, "NONE"
        self.enabled, self.may_write = True, True
        self.after_issue = None  # called with the server after each new issue, as another client would act

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def writes(self):
        """Method and path of the requests that changed something."""
        return [(method, path) for method, path, status in self.requests if method != "GET" and 200 <= status < 300]

    def environment(self, **more):
        """What a workflow's step would see."""
        return {"GITHUB_API_URL": self.url, "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_TOKEN": TOKEN, **more}

    def failing(self, **fault):
        self.faults.append(Fault(**fault))

    def said(self, number):
        """The texts of the comments of an issue."""
        return [one["body"] for one in self.comments.get(number, [])]

    def add_issue(self, title="Another one", body="", **more):
        """An issue as a person or an older call left it."""
        with self.lock:
            number = len(self.issues) + 1
            of = f"{self.url}/repos/{REPOSITORY}"
            plain = {
                "id": 1000 + number,
                "node_id": f"I_{number}",
                "number": number,
                "title": title,
                "body": body,
                "state": "open",
                "state_reason": None,
                "locked": False,
                "labels": [],
                "assignees": [],
                "assignee": None,
                "milestone": None,
                "comments": 0,
                "user": self._user(self.login, "Bot" if self.is_bot else "User"),
                "author_association": self.association,
                "closed_at": None,
                "created_at": TIME,
                "updated_at": TIME,
                "url": f"{of}/issues/{number}",
                "repository_url": of,
                "html_url": f"https://github.com/{REPOSITORY}/issues/{number}",
                **{f"{what}_url": f"{of}/issues/{number}/{what}" for what in ("labels", "comments", "events")},
                **more,
            }
            self.issues[number] = plain
            return plain

    def _user(self, login, kind="User"):
        urls = "avatar events followers following gists html organizations received_events repos starred subscriptions"
        of = f"{self.url}/users/{login}"
        return {
            "login": login,
            "id": 7,
            "node_id": "U_7",
            "gravatar_id": "",
            "type": kind,
            "site_admin": False,
            "url": of,
            **{f"{name}_url": of for name in urls.split()},
        }

    def answer(self, method, path, query, payload):
        """Status and content of the answer, after doing what was asked."""
        if path == "/user":
            return (403, _message("Resource not accessible by integration")) if self.is_bot else (200, self._own())
        match = re.fullmatch(rf"/repos/{REPOSITORY}/issues(?:/(\d+)(/comments)?|/comments/(\d+))?", path)
        if match is None:
            return 404, _message("Not Found")
        if not self.enabled:
            return 410, _message("Issues are disabled for this repo")
        if method != "GET" and not self.may_write:
            return 403, _message("Resource not accessible by integration")
        number, inside, comment = match[1], match[2], match[3]
        if method != "GET" and (wrong := _refused(payload, self.users)):
            return 422, wrong
        if comment is not None:
            return self._change_comment(int(comment), payload)
        if number is None:
            return (200, self._listed(query)) if method == "GET" else (201, self._opened(payload))
        if int(number) not in self.issues:
            return 404, _message("Not Found")
        if inside:
            return self._comments(method, int(number), payload)
        return 200, self._changed(self.issues[int(number)], payload)

    def _own(self):
        return self._user(self.login)

    def _listed(self, query):
        found = [one for one in self.issues.values() if query.get("state", "open") in ("all", one["state"])]
        if "labels" in query:
            wanted = set(query["labels"].split(","))
            found = [one for one in found if wanted <= {label["name"] for label in one["labels"]}]
        return sorted(found, key=lambda one: one["number"], reverse=query.get("direction", "desc") == "desc")

    def _opened(self, payload):
        labels = [{"id": 5, "name": name, "color": "ededed"} for name in payload.get("labels", ())]
        assignees = [self._user(name) for name in payload.get("assignees", ())]
        plain = self.add_issue(payload["title"], payload.get("body"), labels=labels, assignees=assignees)
        if self.after_issue is not None:
            self.after_issue(self)
        return plain

    def _changed(self, plain, payload):
        for name in ("title", "body", "state", "state_reason"):
            if name in payload:
                plain[name] = payload[name]
        plain["closed_at"] = TIME if plain["state"] == "closed" else None
        return plain

    def _comments(self, method, number, payload):
        every = self.comments.setdefault(number, [])
        if method == "GET":
            return 200, every
        of = f"{self.url}/repos/{REPOSITORY}/issues"
        ident = 1 + sum(map(len, self.comments.values()))
        every.append(
            {
                "id": ident,
                "node_id": f"C_{ident}",
                "body": payload["body"],
                "user": self._user(self.login, "Bot" if self.is_bot else "User"),
                "author_association": self.association,
                "created_at": TIME,
                "updated_at": TIME,
                "url": f"{of}/comments/{ident}",
                "html_url": f"https://github.com/{REPOSITORY}/issues/{number}#issuecomment-{ident}",
                "issue_url": f"{of}/{number}",
            }
        )
        self.issues[number]["comments"] = len(every)
        return 201, every[-1]

    def _change_comment(self, ident, payload):
        for one in (one for every in self.comments.values() for one in every if one["id"] == ident):
            one["body"] = payload["body"]
            return 200, one
        return 404, _message("Not Found")

    def fault_for(self, method, path):
        """The next fault that fits, used up."""
        with self.lock:
            for fault in self.faults:
                if fault.method not in (method, "*") or fault.path not in path or fault.times <= 0:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None


def _message(text):
    return {"message": text, "documentation_url": "https://docs.github.com/rest"}


def _refused(payload, users):
    """What GitHub says of a payload that is too long or names nobody."""
    errors = []
    if len(payload.get("body") or "") > MOST_BODY:
        errors.append({"resource": "Issue", "field": "body", "code": "custom", "message": "body is too long"})
    if len(payload.get("title", "")) > 256:
        errors.append({"resource": "Issue", "field": "title", "code": "custom", "message": "title is too long"})
    for name in payload.get("assignees", ()):
        if name not in users:
            errors.append({"resource": "Issue", "field": "assignees", "code": "invalid", "value": name})
    return {**_message("Validation Failed"), "errors": errors} if errors else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self):
        method, parts = self.command, urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        length = int(self.headers.get("Content-Length") or 0)
        payload = json.loads(self.rfile.read(length)) if length else {}
        fault = self.server.fault_for(method, parts.path)
        if fault is not None and not fault.acts:
            self._fail(fault, method, parts.path, b"{}")
            return
        status, content = self._answer(method, parts.path, query, payload)
        self.server.requests.append((method, parts.path, status))
        headers = {}
        if isinstance(content, list):
            content, headers = self._page(content, parts.path, query)
        body = json.dumps(content).encode()
        if fault is not None:
            self._fail(fault, method, parts.path, body)
        else:
            self._send(status, body, headers)

    do_GET = do_POST = do_PATCH = _serve

    def _answer(self, method, path, query, payload):
        server = self.server
        if self.headers.get("Authorization") not in (f"token {TOKEN}", f"Bearer {TOKEN}"):
            return 401, _message("Bad credentials")
        found = next((what for verb, like, what in _operations() if verb == method and like.fullmatch(path)), None)
        with server.lock:
            if found is not None:
                known = {one["name"] for one in found["parameters"] if one["in"] == "query"}
                server.violations += [f"{method} {path}: query {name}" for name in query if name not in known]
                wanted = found.get("requestBody", {}).get("content", {})
                server.violations += [f"{method} {path}: {one}" for one in _schema_errors(wanted, payload)]
            elif path != "/user":
                server.violations.append(f"{method} {path}: no such operation")
            status, content = server.answer(method, path, query, payload)
            content = json.loads(json.dumps(content))
            described = (found or {}).get("responses", {}).get(str(status), {}).get("content", {})
            server.violations += [f"answer {status} of {path}: {one}" for one in _schema_errors(described, content)]
            return status, content

    def _page(self, content, path, query):
        size, page = int(query.get("per_page", 30)), int(query.get("page", 1))
        rest = content[page * size :]
        following = urlencode({**query, "page": page + 1})
        link = {"Link": f'<{self.server.url}{path}?{following}>; rel="next"'} if rest else {}
        return content[(page - 1) * size : page * size], link

    def _fail(self, fault, method, path, body):
        self.close_connection = True
        if not fault.acts:
            self.server.requests.append((method, path, 0))
        if fault.how == "reset":  # at once, with what was not sent yet thrown away
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif fault.how == "silent":
            self.server.closing.wait(30)
        elif fault.how in ("half", "broken"):
            cut = body[: max(len(body) // 2, 1)]
            self._send(200, cut, {"Content-Length": str(len(body) if fault.how == "half" else len(cut))})
        elif fault.how == "page":
            self._send(200, b"<html>sign in</html>", {"Content-Type": "text/html"})
        elif fault.how == "redirect":
            self._send(301, b"{}", {"Location": "https://elsewhere.example/x"})
        elif fault.how == "status":
            self._send(
                fault.status, json.dumps(_message(fault.message)).encode(), {"Connection": "close", **fault.headers}
            )

    def _send(self, status, body, headers):
        every = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in every.items()), "", ""]
        self.wfile.write("\r\n".join(lines).encode() + body)

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    """Serve on a free port of 127.0.0.1; what does not fit the description fails the test."""
    with GitHub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
    assert not server.violations, server.violations[:3]
