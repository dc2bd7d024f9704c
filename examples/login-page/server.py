#!/usr/bin/env python3
"""A login page that asks Portcullis before it checks a password. Standard library only.

    EDGE_KEY=… server.py PORT http://127.0.0.1:8470 shop

Who logged in before from this device or address logs in as ever; a stranger is asked for a challenge while there is an
attack, or as long as something stands against the account; who is denied sees the page of a wrong password. Each attempt is
printed as a login event, to be published:

    server.py … | kcat -b localhost:9092 -P -t login-events
"""

import hashlib
import hmac
import html
import json
import os
import re
import secrets
import sys
import time
import urllib.parse
from http import cookies
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from client import Portcullis

# The passwords of this example; a service has hashes of them in its own store.
ACCOUNTS = {"ada@example.com": "correct horse", "eve@example.com": "battery staple"}
FORM_BYTES_MAX = 16 << 10
COOKIE = "device"
DEVICE = re.compile("[A-Za-z0-9_-]{1,64}")
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Log in</title>
<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">
<style>body {{ font: 1rem sans-serif; max-width: 22rem; margin: 3rem auto }} label, button {{ display: block; margin: 1rem 0 }}
input {{ display: block; width: 100%; font: inherit }}</style></head><body><main>
<h1>Log in</h1>{said}<form method="post" action="/login">
<label>E-mail address <input name="account" id="account" autocomplete="username" value="{account}"></label>
<label>Password <input name="password" id="password" type="password" autocomplete="current-password"></label>
{challenge}<button id="send">Log in</button></form></main></body></html>"""
# A real page puts its CAPTCHA or second step here.
CHALLENGE = """<fieldset id="challenge"><legend>Please show that you are a person</legend>
<label>{question} <input name="answer" id="answer" autocomplete="off" inputmode="numeric"></label>
<input type="hidden" name="proof" value="{proof}"></fieldset>"""

SECRET = secrets.token_bytes(32)
CHALLENGE_S = 300


def sign(text):
    return hmac.new(SECRET, text.encode(), hashlib.sha256).hexdigest()


def new_challenge():
    a, b = secrets.randbelow(9) + 1, secrets.randbelow(9) + 1
    until = int(time.time()) + CHALLENGE_S
    # The answer stands in no part of the page.
    proof = f"{until}.{secrets.token_hex(8)}"
    proof = f"{proof}.{sign(f'{proof}.{a + b}')}"
    return CHALLENGE.format(question=f"{a} plus {b} is", proof=proof)


def is_solved(proof, answer, used):
    until, nonce, signature = (proof.split(".") + ["", ""])[:3]
    right = sign(f"{until}.{nonce}.{answer.strip()}")
    if not hmac.compare_digest(right.encode(), signature.encode()) or int(until) < time.time() or nonce in used:
        return False
    for old in [old for old, end in used.items() if end < time.time()]:
        used.pop(old, None)
    used[nonce] = int(until)
    return True


class LoginPage(BaseHTTPRequestHandler):
    portcullis, tenant, used = None, "", {}

    def do_GET(self):
        if urllib.parse.urlsplit(self.path).path != "/login":
            return self.show(404, "<p>There is nothing here.</p>")
        self.show(200)

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= FORM_BYTES_MAX:
            return self.show(400, "<p role=alert>This is no form.</p>")
        form = urllib.parse.parse_qs(self.rfile.read(length).decode("utf-8", "replace"))
        field = lambda name: form.get(name, [""])[0]
        account, device, ip = field("account").strip(), self.device(), self.client_address[0]
        verdict, _ = self.portcullis.check(ip, account, device)
        if verdict == "challenge" and not is_solved(field("proof"), field("answer"), self.used):
            self.publish(account, device, "CHALLENGED")
            return self.show(200, "<p>One more step.</p>", account, new_challenge())
        right = ACCOUNTS.get(account.lower(), "")
        is_right = hmac.compare_digest(field("password").encode(), right.encode()) and right != ""
        if verdict == "deny" or not is_right:
            # Who is denied learns nothing: not that it is denied, and not whether the password was right.
            reason = None if verdict == "deny" else "WRONG_PASSWORD"
            self.publish(account, device, "BLOCKED" if verdict == "deny" else "FAILURE", reason)
            challenge = new_challenge() if verdict == "challenge" else ""
            return self.show(200, "<p role=alert>That is not right.</p>", account, challenge)
        device = device or secrets.token_urlsafe(16)
        self.publish(account, device, "SUCCESS")
        self.show(200, f"<p id=welcome>Welcome, {html.escape(account)}.</p>", device=device)

    def device(self):
        try:
            held = cookies.SimpleCookie(self.headers.get("Cookie", ""))
            # Whatever is not one of ours is none: it would go out again as a header.
            return held[COOKIE].value if COOKIE in held and DEVICE.fullmatch(held[COOKIE].value) else None
        except cookies.CookieError:
            return None

    def publish(self, account, device, outcome, reason=None):
        event = {
            "event_id": secrets.token_hex(16), "occurred_at": int(time.time() * 1000), "tenant": self.tenant,
            "account": account, "outcome": outcome, "failure_reason": reason,
            "source_ip": self.client_address[0], "device_id": device, "user_agent": self.headers.get("User-Agent"),
        }
        print(json.dumps({name: value for name, value in event.items() if value is not None}), flush=True)

    def show(self, status, said="", account="", challenge="", device=None):
        page = PAGE.format(said=said, account=html.escape(account), challenge=challenge).encode()
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if device:
            # Behind TLS also: Secure.
            self.send_header("Set-Cookie", f"{COOKIE}={device}; HttpOnly; SameSite=Lax; Path=/; Max-Age=31536000")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


def main(port, url, tenant):
    LoginPage.portcullis, LoginPage.tenant = Portcullis(url, tenant, os.environ["EDGE_KEY"]), tenant
    ThreadingHTTPServer(("127.0.0.1", int(port)), LoginPage).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
