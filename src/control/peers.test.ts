import { X509Certificate } from "node:crypto";
import { EventEmitter } from "node:events";
import type { Socket } from "node:net";
import { beforeAll, expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { makeTestPki, type TestPki } from "../../test/support/pki.ts";
import type { Authority, Standing } from "../authority/authority.ts";
import { HauberkError } from "../base/errors.ts";
import { Published } from "../base/published.ts";
import { Peers } from "./peers.ts";

let pki: TestPki;

beforeAll(async () => {
  pki = await makeTestPki();
});

const identity = "spiffe://mesh.local/ns/default/sa/web";

/** A connection that showed a leaf of `web`, and an authority that answers as `seen` says. */
function scene(seen: () => Promise<Standing>) {
  const clock = new ManualClock();
  const leaf = pki.issue(identity);
  const events = new EventEmitter();
  const socket = Object.assign(events, {
    destroyed: false,
    remoteAddress: "10.0.0.1",
    localAddress: "10.0.0.2",
    getPeerX509Certificate: () => new X509Certificate(leaf.chain[0]?.der ?? ""),
    destroy() {
      this.destroyed = true;
      events.emit("close");
    },
  });
  const authority = { trustDomain: "mesh.local", seen } as unknown as Authority;
  const own = new Published(pki.issue("spiffe://mesh.local/hauberk/control"));
  const peers = new Peers({ authority, identity: own, clock, shutOut: () => undefined });
  return { clock, socket, of: () => peers.of(socket as unknown as Socket) };
}

const standing: Standing = {
  is: "workload",
  serial: "01",
  instance: "i1",
  identity,
  service: "web",
  namespace: "default",
  issuedAtMs: 0,
  notAfterMs: 0,
};

test("a connection whose peer could not be looked up is asked about again, one that was is not", async () => {
  let asked = 0;
  const { of } = scene(() => {
    asked++;
    const failed = new HauberkError("STORE_FAILED", "Cannot read the store: the disk stands still", "Wait");
    return asked === 1 ? Promise.reject(failed) : Promise.resolve(standing);
  });
  await expect(of()).rejects.toMatchObject({ code: "STORE_FAILED" });
  expect(await of()).toMatchObject({ rateKey: "i1" });
  expect(await of()).toMatchObject({ rateKey: "i1" });
  expect(asked).toBe(2);
});

test("a connection that went while its peer was looked up leaves no timer behind, nor does one that goes later", async () => {
  const gone = scene(() => {
    gone.socket.destroy();
    return Promise.resolve(standing);
  });
  await gone.of();
  expect(gone.clock.waiting).toBe(0);
  const stays = scene(() => Promise.resolve(standing));
  await stays.of();
  expect(stays.clock.waiting).toBe(1);
  stays.socket.destroy();
  expect(stays.clock.waiting).toBe(0);
});
