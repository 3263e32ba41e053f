"""``perfkit init``: a locustfile of a service that really answers, whatever its names are, and without its secrets."""

import ast
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command_line import invoke

from perfkit import RunStore
from perfkit.loadgen.locustfile import locustfile_text, read_openapi
from perfkit.report.formatting import clean

ASKED: list[str] = []


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        ASKED.append(self.path)
        status = 404 if "missing" in self.path else 302 if "moved" in self.path else 200
        content = json.dumps(DOCUMENT).encode() if self.path == "/openapi.json" else b"ok"
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://192.0.2.1/elsewhere")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


HOSTILE = '/x"""\n    import os; os.system("touch owned")  # \u202e\'\\{id}'
DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        "/items": {"get": {"parameters": [{"name": "page", "in": "query", "schema": {"default": 1}}]}, "post": {}},
        "/items/{id}": {
            "parameters": [{"$ref": "#/components/parameters/id"}],
            "get": {},
            "delete": {},
        },
        "/kinds/{kind}/{day}": {
            "get": {
                "parameters": [
                    {"name": "kind", "in": "path", "schema": {"enum": ["a b", "c"]}},
                    {"name": "day", "in": "path", "examples": {"one": {"value": "1/2"}}},
                    {"name": "all", "in": "query", "required": True, "schema": {"default": False}},
                ]
            }
        },
        "/users/{user}": {"get": {"parameters": [{"name": "user", "in": "path", "schema": {"type": "string"}}]}},
        "/search": {
            "get": {"parameters": [{"name": "api_key", "in": "query", "required": True, "example": "hunter22"}]}
        },
        "/circle/{c}": {"get": {"parameters": [{"$ref": "#/components/parameters/c"}]}},
        "/missing": {"get": {}},
        HOSTILE: {"get": {"parameters": [{"name": "id", "in": "path", "example": "');import os#"}]}},
        "no-slash": {"get": {}},
    },
    "components": {
        "parameters": {
            "id": {"name": "id", "in": "path", "required": True, "example": 42},
            "c": {"$ref": "#/components/parameters/c"},
        }
    },
}


@pytest.fixture(scope="module")
def host():
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ASKED.clear()
    return tmp_path


def calls(text):
    """Paths and names that the tasks of a locustfile ask for; comments do not count."""
    tree = ast.parse(text)
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return {call.args[0].value: [word.value.value for word in call.keywords] for call in found}


def test_an_openapi_document_becomes_a_locustfile_that_answers(here, host):
    code, out, err = invoke("init", "--openapi", f"{host}/openapi.json")
    assert code == 0, err
    text = Path("locustfile.py").read_text()
    assert out.splitlines()[-1] == "Next: perfkit run shop"
    assert "404 GET /missing" in out
    found = calls(text)
    assert found["/items"] == []
    assert found["/items/42"] == ["/items/{id}"]
    assert found["/kinds/a%20b/1%2F2?all=false"] == ["/kinds/{kind}/{day}"]
    (odd,) = (path for path, names in found.items() if names == [HOSTILE])
    assert len(found) == 4
    assert odd in ASKED
    assert [path for path in ASKED if path != "/openapi.json"] == list(dict.fromkeys(ASKED[1:]))  # each once
    assert "# TODO: needs a value for path parameter user\n" in text
    assert "# TODO: needs a value for query parameter api_key\n" in text
    assert "# TODO: POST may change something: check it first\n" in text
    assert "# TODO: answered 404 when it was tried\n" in text
    assert text.isascii()
    assert "hunter22" not in text
    code, out, err = invoke("run", "shop", "--users", "10", "--spawn-rate", "10", "--duration", "2s")
    (run,) = RunStore("data/runs")
    assert set(run.services) <= {"/items", "/items/{id}", "/kinds/{kind}/{day}", clean(HOSTILE), HOSTILE}
    assert sum(stats.count for stats in run.services.values()) > 2, (code, out, err)
    assert sum(stats.failures for stats in run.services.values()) == 0
    assert not Path("owned").exists()


@pytest.mark.parametrize("as_yaml", [False, True])
def test_json_and_yaml_say_the_same(here, as_yaml):
    import yaml

    text = yaml.safe_dump(DOCUMENT) if as_yaml else json.dumps(DOCUMENT)
    base, endpoints = read_openapi(text, "http://127.0.0.1:1", "api.yaml")
    assert (base, len(endpoints)) == ("http://127.0.0.1:1", 10)
    assert "GET /items/{id}" in [item.label for item in endpoints]
    compile(locustfile_text(endpoints), "locustfile.py", "exec")


def test_a_list_of_addresses_and_a_host(here, host):
    Path("urls.txt").write_text(f"# the shop\n/\n{host}/missing\n\n/moved?a=ä&b=1\n/\n")
    code, out, _ = invoke("init", "new", "--urls", "urls.txt", "--host", host)
    assert (code, "302 GET /moved" in out, out.splitlines()[-1]) == (0, True, "Next: cd new && perfkit run shop")
    assert list(calls(Path("new/locustfile.py").read_text())) == ["/", "/moved?a=%C3%A4&b=1"]
    assert ASKED == ["/", "/missing", "/moved?a=%C3%A4&b=1"]  # and not where it leads
    assert f'host = "{host}"' in Path("new/perfkit.toml").read_text()
    before = Path("new/locustfile.py").read_text()
    code, _, err = invoke("init", "new", "--host", host)
    assert (code, "exists, and is left alone" in err, Path("new/locustfile.py").read_text()) == (2, True, before)
    Path("new/locustfile.py").unlink()
    code, out, _ = invoke("init", "new", "--host", host)  # with the settings of somebody
    assert (code, "perfkit.toml exists, left alone" in out, f"--host {host}" in out) == (0, True, True)


def test_who_does_not_answer_loses_nothing(here, host):
    code, out, err = invoke("init", "--host", "http://127.0.0.1:1")
    assert (code, "refuses connections; the files are written" in err) == (4, True)
    assert "Next: start the service, then perfkit run shop" in out
    assert list(calls(Path("locustfile.py").read_text())) == ["/"]
    code, _, err = invoke("init", "other", "--host", f"{host}/missing")
    assert (code, "no path answers well" in err, list(calls(Path("other/locustfile.py").read_text()))) == (
        4,
        True,
        ["/"],
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--host", "http://me:hunter22@127.0.0.1:1"), "holds a user or password"),
        (("--host", "http://127.0.0.1:1/?token=hunter22"), "holds a query"),
        (("--host", "127.0.0.1:8000"), "expected an address such as"),
        (("--host", 'http://x"\nstore = "y'), "expected an address such as"),
        (("--urls", "secret.txt"), "secret.txt, line 2: holds a secret"),
        (("--urls", "user.txt"), "user.txt, line 1: holds a secret"),
        (("--urls", "paths.txt"), "has only paths; say of which host"),
        (("--urls", "two.txt"), "line 2: is of http://127.0.0.1:2, not of http://127.0.0.1:1"),
        (("--urls", "empty.txt"), "has no address"),
        (("--urls", "none.txt"), "cannot be read"),
        (("--openapi", "empty.txt"), "is no OpenAPI document"),
        (("--openapi", "swagger.json"), "is Swagger 2.0; OpenAPI 3 is needed"),
        (("--openapi", "broken.json"), "is no JSON"),
        (("--openapi", "broken.yaml"), "is no YAML"),
        (("--openapi", "hostless.json"), "names no host; say which"),
        (("--openapi", "foreign.json"), "say so if that may be loaded: --host https://api.example"),
        (("--openapi", "secret.json", "--host", "http://127.0.0.1:1"), "holds a secret"),
        (("--openapi", "http://me:hunter22@127.0.0.1:1/openapi.json"), "holds a user or password"),
        (("--openapi", "a.json", "--urls", "b.txt"), "give one of them"),
    ],
)
def test_what_cannot_be_used_writes_nothing_and_shows_no_secret(here, words, told):
    operation = {"/a": {"get": {}}}
    for name, content in {
        "secret.txt": "http://127.0.0.1:1/\nhttp://127.0.0.1:1/?access_token=hunter22\n",
        "user.txt": "http://me:hunter22@127.0.0.1:1/\n",
        "paths.txt": "/a\n",
        "two.txt": "http://127.0.0.1:1/a\nhttp://127.0.0.1:2/b\n",
        "empty.txt": "# nothing\n",
        "swagger.json": '{"swagger": "2.0"}',
        "broken.json": '{"openapi": ',
        "broken.yaml": "openapi: [3.0.0\n",
        "hostless.json": json.dumps({"openapi": "3.0.0", "paths": operation}),
        "foreign.json": json.dumps(
            {"openapi": "3.0.0", "servers": [{"url": "https://api.example"}], "paths": operation}
        ),
        "secret.json": json.dumps({"openapi": "3.0.0", "paths": {"/a?api_key=hunter22": {"get": {}}}}),
    }.items():
        Path(name).write_text(content)
    code, out, err = invoke("init", "new", *words)
    assert (code, told in err) == (2, True), err
    assert "hunter22" not in out + err
    assert not Path("new").exists()
