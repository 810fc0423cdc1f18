"""A server from Python's standard library: HTTP/1.0, one request on each connection.

usage: wsgi_server.py ADDRESS PORT
"""

import hashlib
import json
import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    def log_message(self, *_arguments):
        pass


def application(environment, start_response):
    length = int(environment.get("CONTENT_LENGTH") or 0)
    body = environment["wsgi.input"].read(length)
    answer = {
        "method": environment["REQUEST_METHOD"],
        "target": environment["PATH_INFO"],
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


with make_server(sys.argv[1], int(sys.argv[2]), application, handler_class=Quiet) as server:
    server.serve_forever()
