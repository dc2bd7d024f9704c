// A browser that does what it is told: one command a line on standard input, one answer a line on standard output, both
// JSON. It ends when standard input does. Started by tests/it/console_browser.rs.
//
//   node driver.mjs MODULES CHROMIUM BASE
//
// MODULES is the folder that holds node_modules, CHROMIUM the program, BASE what every path is under.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [modules, executablePath, base] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const WAIT_MS = 60_000;
const browser = await chromium.launch({ executablePath, args: ["--disable-gpu", "--disable-dev-shm-usage"] });
const context = await browser.newContext({ baseURL: base, acceptDownloads: true });
const page = await context.newPage();
page.setDefaultTimeout(WAIT_MS);

// Whatever a page must never do.
const problems = [];
page.on("dialog", async (dialog) => {
  problems.push(`dialog: ${dialog.message()}`);
  await dialog.dismiss();
});
page.on("pageerror", (error) => problems.push(`error: ${error.message}`));
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type())) problems.push(`console: ${message.text()}`);
});
page.on("request", (request) => {
  if (!request.url().startsWith(base)) problems.push(`request: ${request.url()}`);
});

const commands = {
  goto: async ({ path }) => {
    const answer = await page.goto(path, { waitUntil: "domcontentloaded" });
    return answer.status();
  },
  // The text of the first element that a selector finds, once there is one.
  wait: async ({ selector }) => page.locator(selector).first().innerText(),
  text: async ({ selector }) => page.locator(selector).allInnerTexts(),
  count: async ({ selector }) => page.locator(selector).count(),
  fill: async ({ selector, text }) => page.locator(selector).fill(text),
  // Presses a button, and waits for the page that comes of it.
  submit: async ({ selector }) => {
    const answer = page.waitForResponse((response) => response.request().isNavigationRequest());
    await page.locator(selector).click();
    await answer;
    await page.waitForLoadState("domcontentloaded");
  },
  press: async ({ key }) => page.keyboard.press(key),
  // What has the focus, as its text or its name.
  focused: async () => page.evaluate(() => document.activeElement.innerText || document.activeElement.getAttribute("aria-label") || document.activeElement.id),
  scheme: async ({ scheme }) => page.emulateMedia({ colorScheme: scheme }),
  size: async ({ width, height }) => page.setViewportSize({ width, height }),
  // By how much the page is wider than what it is shown in.
  overflow: async () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth),
  shot: async ({ file, fullPage }) => page.screenshot({ path: file, fullPage }),
  // What an accessibility check finds, as `rule: selector`.
  axe: async () => {
    await page.evaluate(axe);
    const found = await page.evaluate(() => globalThis.axe.run(document, {
      runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }));
    return found.violations.flatMap((rule) => rule.nodes.map((node) => `${rule.id}: ${node.target.join(" ")} ${node.failureSummary}`));
  },
  problems: async () => problems.splice(0),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { what, ...rest } = JSON.parse(line);
  try {
    const answer = (await commands[what](rest)) ?? null;
    process.stdout.write(`${JSON.stringify({ answer: Buffer.isBuffer(answer) ? null : answer })}\n`);
  } catch (error) {
    process.stdout.write(`${JSON.stringify({ error: String(error.message) })}\n`);
  }
}
await browser.close();
