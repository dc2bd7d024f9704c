#!/usr/bin/env python3
"""Takes the webhooks of `portcullis notify`: checks who sent them, and takes each once. Standard library only.

    receiver.py PORT SECRET_FILE

One line is printed for each message that is taken.
"""

import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE_S = 300
BODY_BYTES_MAX = 1 << 20
SEEN_MAX = 10_000


def is_genuine(key: bytes, headers, body: bytes, now: float) -> bool:
    """Whether whoever sent this has the key, and sent it now."""
    try:
        message_id, seconds = headers["webhook-id"], headers["webhook-timestamp"]
        if abs(now - int(seconds)) > TOLERANCE_S:
            return False
        signed = f"{message_id}.{seconds}.".encode() + body
        right = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        given = headers["webhook-signature"].split(" ")
        return any(hmac.compare_digest(right.encode(), one.encode()) for one in given)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def main(port: str, secret_file: str) -> None:
    with open(secret_file) as file:
        secret = file.readline().strip()
    key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    seen: dict[str, None] = {}

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers.get("content-length", 0))
            body = self.rfile.read(min(length, BODY_BYTES_MAX))
            if not is_genuine(key, self.headers, body, time.time()):
                return self.answer(401)
            message_id = self.headers["webhook-id"]
            if message_id not in seen:
                message = json.loads(body)
                print(json.dumps([message_id, message["headline"]]), flush=True)
                seen[message_id] = None
                if len(seen) > SEEN_MAX:
                    seen.pop(next(iter(seen)))
            self.answer(204)

        def answer(self, status):
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    ThreadingHTTPServer(("127.0.0.1", int(port)), Receiver).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
