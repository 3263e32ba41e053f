"""A real S3-compatible server on loopback, for tests of stores elsewhere.

It serves one request at a time: the server's own check that an object does not exist yet, and the creation of it, are
two steps, which Amazon's are not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SERVER = """
import logging, sys
from werkzeug.serving import make_server
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
logging.disable(logging.CRITICAL)
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
print(server.port, flush=True)
server.serve_forever()
"""
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """Environment variables under which ``s3://`` addresses lead to a server of their own, with no bucket in it."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    forget_connections()
    try:
        port = int(process.stdout.readline())
        yield {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    finally:
        forget_connections()
        process.kill()
        process.wait()
        process.stdout.close()


def forget_connections() -> None:
    """Let the next ``s3://`` address be opened with the environment of then: s3fs keeps what it opened before."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def make_bucket(name: str) -> None:
    """Make a bucket where the environment's ``s3://`` addresses lead."""
    import s3fs

    s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], skip_instance_cache=True).mkdir(name)
