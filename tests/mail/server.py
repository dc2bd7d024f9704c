"""A mail server that takes everything, unless it is told otherwise. Started by tests/it/notify_mail.rs.

    server.py FOLDER CERTIFICATE KEY USER PASSWORD STARTTLS_PORT IMPLICIT_PORT

Both ports want TLS and a login. Each mail is written to FOLDER/mails as one line of JSON. While FOLDER/behave is there,
what it holds is answered instead of taking a mail, such as `451 later`; `hang` answers nothing at all.
"""

import asyncio
import json
import os
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

folder, certificate, key, user, password, starttls_port, implicit_port = sys.argv[1:]


class Takes:
    async def handle_DATA(self, server, session, envelope):
        try:
            with open(os.path.join(folder, "behave")) as file:
                behave = file.read().strip()
        except FileNotFoundError:
            behave = ""
        line = json.dumps({
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "content": envelope.content.decode("utf-8", "surrogateescape"),
            "tls": server.transport.get_extra_info("ssl_object") is not None,
            "answer": behave,
        })
        with open(os.path.join(folder, "mails"), "a") as file:
            file.write(line + "\n")
        if behave == "hang":
            await asyncio.sleep(3600)
        return behave or "250 taken"


def check(server, session, envelope, mechanism, data):
    right = (user.encode(), password.encode())
    fits = isinstance(data, LoginPassword) and (data.login, data.password) == right
    # What is not handled is answered with 535.
    return AuthResult(success=fits, handled=False)


tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(certificate, key)
common = {"hostname": "127.0.0.1", "authenticator": check, "auth_required": True}
# The second port has TLS from the first byte on, which the library does not count as TLS for a login.
for controller in [
    Controller(Takes(), port=int(starttls_port), tls_context=tls, require_starttls=True, **common),
    Controller(Takes(), port=int(implicit_port), ssl_context=tls, auth_require_tls=False, **common),
]:
    controller.start()
print("ready", flush=True)
try:
    asyncio.new_event_loop().run_forever()
except KeyboardInterrupt:
    pass
