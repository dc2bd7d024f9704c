"""Asks Portcullis before a password is checked. Standard library only; any fault lets the client in.

    EDGE_KEY=… client.py http://127.0.0.1:8470 shop 203.0.113.9 ada@example.com [device]
"""

import http.client
import json
import os
import sys
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

# How long a login waits at most, from the question to the whole answer.
TIMEOUT_S = 0.3
VERDICTS = ("allow", "challenge", "deny")
POLICIES = ("NOBODY", "ATTACKED_TRAITS", "UNKNOWN_PAIRS", "EVERYBODY")
# A server that hangs holds up so many threads; who asks beyond them is let in.
ASKING = ThreadPoolExecutor(max_workers=16)


class Portcullis:
    def __init__(self, url, tenant, key):
        self.url, self.tenant, self.key = urllib.parse.urlsplit(url), tenant, key

    def check(self, ip, account, device=None):
        """`allow`, `challenge` or `deny`, and whether that is an answer and not the lack of one."""
        question = {"tenant": self.tenant, "ip": ip, "account": account, "device": device}
        verdict = self._ask("POST", "/v1/check", json.dumps(question)).get("verdict")
        return (verdict, True) if verdict in VERDICTS else ("allow", False)

    def challenge(self):
        """Whom to challenge now: `NOBODY`, `UNKNOWN_PAIRS`, …; for a page that does not know the account yet."""
        path = "/v1/attack-status/" + urllib.parse.quote(self.tenant, safe="")
        policy = self._ask("GET", path, None).get("challenge")
        return policy if policy in POLICIES else "NOBODY"

    def _ask(self, method, path, body):
        # A timeout of a socket is one for each step; this one is for all of them.
        try:
            asking = ASKING.submit(self._call, method, path, body)
            answer = asking.result(timeout=TIMEOUT_S)
            return answer if isinstance(answer, dict) else {}
        except Exception:  # whatever it is, nobody is locked out by it
            return {}

    def _call(self, method, path, body):
        kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.url.netloc, timeout=TIMEOUT_S)
        try:
            headers = {"X-Api-Key": self.key, "Content-Type": "application/json"}
            connection.request(method, path, body and body.encode(), headers)
            answer = connection.getresponse()
            return json.loads(answer.read(1 << 16)) if answer.status == 200 else {}
        finally:
            connection.close()


def main(url, tenant, ip, account, device=None):
    portcullis = Portcullis(url, tenant, os.environ["EDGE_KEY"])
    began = time.monotonic()
    verdict, answered = portcullis.check(ip, account, device)
    took = round((time.monotonic() - began) * 1000)
    print(verdict, "answered" if answered else "open", took, portcullis.challenge(), flush=True)
    os._exit(0)  # threads that still wait are not waited for


if __name__ == "__main__":
    main(*sys.argv[1:])
