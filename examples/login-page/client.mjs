// Asks Portcullis before a password is checked. Node 20, no packages; any fault lets the client in.
//
//   EDGE_KEY=… node client.mjs http://127.0.0.1:8470 shop 203.0.113.9 ada@example.com [device]

import { pathToFileURL } from "node:url";

// How long a login waits at most, from the question to the whole answer.
export const TIMEOUT_MS = 300;
const VERDICTS = ["allow", "challenge", "deny"];
const POLICIES = ["NOBODY", "ATTACKED_TRAITS", "UNKNOWN_PAIRS", "EVERYBODY"];

export class Portcullis {
  constructor(url, tenant, key) {
    Object.assign(this, { url, tenant, key });
  }

  // `allow`, `challenge` or `deny`, and whether that is an answer and not the lack of one.
  async check(ip, account, device) {
    const body = JSON.stringify({ tenant: this.tenant, ip, account, device });
    const { verdict } = await this.#ask("/v1/check", { method: "POST", body });
    return VERDICTS.includes(verdict) ? { verdict, answered: true } : { verdict: "allow", answered: false };
  }

  // Whom to challenge now: `NOBODY`, `UNKNOWN_PAIRS`, …; for a page that does not know the account yet.
  async challenge() {
    const { challenge } = await this.#ask(`/v1/attack-status/${encodeURIComponent(this.tenant)}`, {});
    return POLICIES.includes(challenge) ? challenge : "NOBODY";
  }

  async #ask(path, request) {
    try {
      const answer = await fetch(new URL(path, this.url), {
        ...request,
        headers: { "X-Api-Key": this.key, "Content-Type": "application/json" },
        redirect: "error",
        // Of the question, the answer's head and its body together.
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      return answer.status === 200 ? ((await answer.json()) ?? {}) : {};
    } catch {
      return {}; // whatever it is, nobody is locked out by it
    }
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [url, tenant, ip, account, device] = process.argv.slice(2);
  const portcullis = new Portcullis(url, tenant, process.env.EDGE_KEY);
  const began = performance.now();
  const { verdict, answered } = await portcullis.check(ip, account, device);
  const took = Math.round(performance.now() - began);
  console.log(verdict, answered ? "answered" : "open", took, await portcullis.challenge());
  process.exit(0);
}
