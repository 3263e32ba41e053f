"""Git repositories as tests need them, and a service with its load script to commit there."""

import subprocess

SERVICE = """
import http.server, sys, time
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for an answer; two would wait for each other
    def do_GET(self):
        time.sleep(SECONDS)
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
LOCUSTFILE = """
from locust import FastHttpUser, constant, task
class Caller(FastHttpUser):
    wait_time = constant(0.01)
    @task
    def call(self):
        self.client.get("/", name="front")
"""


def git(folder, *words):
    """What git says, as Ann."""
    given = ["-c", "user.name=Ann", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *given, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder, subject):
    """The id of a commit of what is staged, if anything is."""
    git(folder, "commit", "-q", "--allow-empty", "-m", subject)
    return git(folder, "rev-parse", "HEAD")
