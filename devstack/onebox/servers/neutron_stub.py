# SPDX-License-Identifier: Apache-2.0
# Copyright ovc_plugin contributors
"""The little of neutron's API that nova asks for when guests have no network: empty lists.

neutron_stub.py PORT. Without an answer there, nova fails to list servers.
"""
import json
import sys

import waitress


def answer(method: str, path: str) -> tuple[str, dict]:
    """(HTTP status, body) for one request."""
    parts = [part for part in path.removesuffix(".json").split("/") if part]
    if parts in ([], ["v2.0"]):
        return "200 OK", {"versions": [{"id": "v2.0", "status": "CURRENT", "links": []}], "resources": []}
    if method == "GET" and len(parts) == 2:
        return "200 OK", {parts[1].replace("-", "_"): []}
    return "404 Not Found", {"NeutronError": {"type": "NotFound", "message": f"no {method} {path} here", "detail": ""}}


def application(environ, start_response):
    status, body = answer(environ["REQUEST_METHOD"], environ["PATH_INFO"])
    print(environ["REQUEST_METHOD"], environ["PATH_INFO"], status, file=sys.stderr, flush=True)
    payload = json.dumps(body).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(payload)))])
    return [payload]


if __name__ == "__main__":
    waitress.serve(application, listen=f"127.0.0.1:{sys.argv[1]}", threads=4, ident=None)
