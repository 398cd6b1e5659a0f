import { execFile, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { allow, applyText, exportIdentity, freePort, openRoutee, type Routee } from "../scenario/routees.ts";
import { eventually, Mesh } from "../support/mesh.ts";
import { openBridge, type Bridge } from "./tls-bridge.ts";

/** nghttp and h2load (nghttp2-client) against both listeners: HTTP/2 as another implementation speaks it. */

const missing = ["nghttp", "h2load"].filter((name) => spawnSync(name, ["--version"]).error !== undefined);

let mesh: Mesh;
let routee: Routee;
/** Where web reaches orders, where orders listens, and where a bridge takes TLS without a certificate to that. */
let outboundPort = 0;
let inboundPort = 0;
let bridge: Bridge;
let certFile = "";
let keyFile = "";

beforeAll(async () => {
  if (missing.length > 0) return;
  mesh = await Mesh.create();
  await mesh.control();
  routee = await openRoutee({ answer: (seen, response) => response.end(`${seen.method} ${seen.path}\n`) });
  outboundPort = await freePort();
  const [, orders] = await Promise.all([
    mesh.sidecar("web", ["--to", `orders=${outboundPort}`]),
    mesh.sidecar("orders", ["--app", `http:${routee.port}`]),
    applyText(mesh, allow("web", "orders")),
  ]);
  inboundPort = Number(orders.ready["inbound"]);
  const identity = await exportIdentity(mesh, "web");
  certFile = join(mesh.folder, "web.crt");
  keyFile = join(mesh.folder, "web.key");
  writeFileSync(certFile, identity.cert);
  writeFileSync(keyFile, identity.key, { mode: 0o600 });
  bridge = await openBridge({
    listen: { host: "127.0.0.1", port: 0 },
    to: { host: "127.0.0.1", port: inboundPort },
    identity,
    alpn: ["h2"],
  });
  await eventually("web reaches orders", 10_000, async () => {
    const { out } = await run("nghttp", [`http://127.0.0.1:${outboundPort}/`]);
    return out === "GET /\n" ? true : undefined;
  });
});

afterAll(async () => {
  if (missing.length > 0) return;
  await bridge.close();
  await mesh.end();
  await routee.close();
});

function run(program: string, args: readonly string[]): Promise<{ out: string; err: string; code: unknown }> {
  return new Promise((resolve) => {
    execFile(program, [...args], (error, out, err) => resolve({ out, err, code: error === null ? 0 : error.code }));
  });
}

function withPeers(name: string, body: () => Promise<void>): void {
  test(name, async ({ skip }) => {
    skip(missing.length > 0, `${missing.join(" and ")} is not installed (nghttp2-client)`);
    await body();
  });
}

withPeers("nghttp is answered by the outbound listener, which knows HTTP/2 by its first bytes", async () => {
  const { out, code } = await run("nghttp", [`http://127.0.0.1:${outboundPort}/a?b=c`]);
  expect([out, code]).toEqual(["GET /a?b=c\n", 0]);
});

withPeers("nghttp with an SVID of its own is answered by the inbound listener, and without one by nobody", async () => {
  const url = `https://127.0.0.1:${inboundPort}/own`;
  const asked = ["--no-verify-peer", "-H", ":authority: orders"];
  const shown = await run("nghttp", [...asked, `--cert=${certFile}`, `--key=${keyFile}`, url]);
  expect([shown.out, shown.code]).toEqual(["GET /own\n", 0]);
  const bare = await run("nghttp", [...asked, url]);
  expect(bare.out).toBe("");
});

withPeers("nghttp uploads a body with padding, in one stream of several with weights", async () => {
  const file = join(mesh.folder, "upload");
  writeFileSync(file, Buffer.alloc(200_000, "u"));
  const url = `http://127.0.0.1:${outboundPort}/up`;
  const { out, code } = await run("nghttp", ["-d", file, "-b", "17", "-m", "5", url]);
  expect([out, code]).toEqual(["POST /up\n".repeat(5), 0]);
  expect(routee.requests.filter(({ path, body }) => path === "/up" && body.length === 200_000)).toHaveLength(5);
});

const load = ["-n", "2000", "-c", "4", "-m", "16"];

/** What h2load counted: requests by their end, and answers by their status. */
function countsOf(out: string): { requests: string | undefined; statuses: string | undefined } {
  return { requests: /^requests: (.*)$/m.exec(out)?.[1], statuses: /^status codes: (.*)$/m.exec(out)?.[1] };
}

const allFine = {
  requests: "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout",
  statuses: "2000 2xx, 0 3xx, 0 4xx, 0 5xx",
};

withPeers("each of 2,000 requests of h2load through both sidecars is answered 2xx", async () => {
  const { out } = await run("h2load", [...load, `http://127.0.0.1:${outboundPort}/load`]);
  expect(countsOf(out)).toEqual(allFine);
});

withPeers("each of 2,000 requests of h2load over mutual TLS is answered 2xx", async () => {
  const { out } = await run("h2load", [...load, `--connect-to=127.0.0.1:${bridge.port}`, "https://orders/load"]);
  expect(countsOf(out)).toEqual(allFine);
});
