import { once } from "node:events";
import { afterEach, describe, expect, test } from "vitest";
import { craft, craftedKey, nameOf } from "../../test/support/crafted-certificate.ts";
import { rawFrame, uint32 } from "../../test/support/http2-raw.ts";
import { ask } from "../../test/support/http2-pair.ts";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { makeTestPki } from "../../test/support/pki.ts";
import {
  announcement,
  attack,
  attackServer,
  ourClient,
  ourServer,
  PROOF,
  type Attacker,
  type Closers,
  type End,
  type OurClient,
  type OurServer,
} from "../../test/support/proof-scene.ts";
import type { Certificate } from "../x509/certificate.ts";
import type { ProofRole } from "../x509/proof.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { ProofPace } from "./proof.ts";

const orders = "spiffe://mesh.local/ns/default/sa/orders";
const web = "spiffe://mesh.local/ns/default/sa/web";
const hourMs = 3_600_000;
const inadequateSecurity = 0xc;

// OpenSSL judges handshakes by this machine's clock; ours starts there and is moved by hand.
const startMs = Date.now();
const pki = await makeTestPki({ wallMs: startMs });
/** The same trust domain under other roots. */
const others = await makeTestPki({ wallMs: startMs + 1 });

const closers: Closers = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close();
});

let generation = 1_000;
/** A certificate that replaces another, good until so many hours from the start. */
function renewal(id: string, hours: number, more: Partial<TlsIdentity> = {}): TlsIdentity {
  return { ...pki.issue(id, { notAfterMs: startMs + hours * hourMs }), generation: ++generation, ...more };
}

function serialOf(identity: TlsIdentity): string {
  return (identity.chain[0] as Certificate).serial;
}

/** When a certificate of so many hours ends: those have whole seconds. */
function endOf(identity: TlsIdentity): number {
  return (identity.chain[0] as Certificate).notAfterMs;
}

interface Both {
  readonly clock: ManualClock;
  readonly server: OurServer;
  readonly client: OurClient;
  readonly first: { readonly server: TlsIdentity; readonly client: TlsIdentity };
}

async function bothOurs(wish: { announces?: boolean; idle?: boolean } = {}): Promise<Both> {
  const clock = new ManualClock(startMs);
  const first = { server: renewal(orders, 1), client: renewal(web, 1) };
  const server = await ourServer(first.server, { clock, closers, ...wish });
  const client = await ourClient(
    first.client,
    { port: server.listener.port, expect: orders },
    { clock, closers, ...wish },
  );
  return { clock, server, client, first };
}

/** Lets what is ready between both ends arrive: a PING there and back. */
async function quiet(turns = 20): Promise<void> {
  for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Both ends have proven one certificate, and know that it was taken. */
async function settled(...ends: readonly End[]): Promise<void> {
  for (const end of ends) {
    while (end.steps.length < 3) await new Promise((resolve) => setImmediate(resolve));
    expect(end.steps.toSorted()).toEqual(["accepted", "acknowledged", "sent"]);
  }
}

async function closed(end: End): Promise<string> {
  while (end.ended() === undefined) await new Promise((resolve) => setImmediate(resolve));
  return end.ended() as string;
}

describe("a connection with something under way goes on", () => {
  test("with each pair of certificates that both ends prove, and each end knows the other by its newest", async () => {
    const { clock, server, client } = await bothOurs();
    const peer = server.facts().peer;
    for (let round = 1; round <= 3; round++) {
      const next = { server: renewal(orders, 1 + round), client: renewal(web, 1 + round) };
      server.identity.publish(next.server);
      await client.reached(...steps("accepted", round - 1), "accepted");
      client.identity.publish(next.client);
      client.tenure.renewed();
      await server.reached(...serverSteps(round));
      await client.reached(...clientSteps(round));
      expect([server.endsAtMs(), client.endsAtMs()]).toEqual([endOf(next.client), endOf(next.client)]);
      expect([server.peerSerial(), client.peerSerial()]).toEqual([serialOf(next.client), serialOf(next.server)]);
      clock.advance(50 * 60_000);
      await quiet();
      expect([client.socket.destroyed, client.heard.loss]).toEqual([false, undefined]);
    }
    // The requests that are under way hold the same object as before.
    expect([server.facts().peer, peer?.leaf.serial]).toEqual([peer, server.peerSerial()]);
    expect(clock.wallMs()).toBeGreaterThan(startMs + 2 * hourMs);
    // And without further proofs it ends with the last pair.
    clock.advance(endOf(server.identity.read()) - clock.wallMs() - 1);
    expect(client.socket.destroyed).toBe(true);
  });

  test("until the certificate ends that was not proven anew, where only one end renews", async () => {
    const { server, client, first } = await bothOurs();
    client.identity.publish(renewal(web, 5));
    client.tenure.renewed();
    await client.reached("sent", "acknowledged");
    expect([server.endsAtMs(), client.endsAtMs()]).toEqual([endOf(first.server), endOf(first.server)]);
    server.identity.publish(renewal(orders, 3));
    await server.reached("accepted", "sent", "acknowledged");
    expect([server.endsAtMs(), client.endsAtMs()]).toEqual([startMs, startMs].map((ms) => seconds(ms + 3 * hourMs)));
  });

  test("only as long as a shorter certificate that is proven later", async () => {
    const { server, client } = await bothOurs();
    client.identity.publish(renewal(web, 0.5));
    client.tenure.renewed();
    await server.reached("accepted");
    expect(server.endsAtMs()).toBe(endOf(client.identity.read()));
  });

  test("and of several renewals before an acknowledgement the newest is proven after the first", async () => {
    const { server, client } = await bothOurs();
    for (const hours of [2, 3, 4]) {
      client.identity.publish(renewal(web, hours));
      client.tenure.renewed();
    }
    client.tenure.renewed();
    await client.reached("sent", "acknowledged", "sent", "acknowledged");
    expect(server.peerSerial()).toBe(serialOf(client.identity.read()));
    expect(server.steps).toEqual(["accepted", "accepted"]);
  });
});

describe("nothing is proven", () => {
  test("where nothing is under way: such a connection is retired, and closes", async () => {
    const { server, client } = await bothOurs({ idle: true });
    server.identity.publish(renewal(orders, 2));
    client.identity.publish(renewal(web, 2));
    client.tenure.renewed();
    await quiet();
    expect([server.steps, client.steps]).toEqual([[], []]);
    server.listener.retireWhere((_, of) => of < server.identity.read().generation);
    await Promise.all([once(client.socket, "close"), closed(server)]);
  });

  test("where only the roots changed and the leaf is the same", async () => {
    const { server, client, first } = await bothOurs();
    client.identity.publish({ ...first.client, bundleSequence: 2, generation: ++generation });
    client.tenure.renewed();
    await quiet();
    expect([client.steps, client.tenure.own.generation]).toEqual([[], generation]);
    expect(server.steps).toEqual([]);
  });

  test("to a peer that announced nothing: the connection ends before its certificate, as ever", async () => {
    const { clock, server, client, first } = await bothOurs({ announces: false });
    server.identity.publish(renewal(orders, 2));
    client.identity.publish(renewal(web, 2));
    client.tenure.renewed();
    client.tenure.retire();
    await quiet();
    expect([server.steps, client.steps]).toEqual([[], []]);
    clock.advance(endOf(first.server) - startMs - 1);
    expect(client.socket.destroyed).toBe(true);
    expect((await client.heard.over()).loss?.kind).toBe("lost");
  });

  test("a stream that began after the renewal is found when the connection is retired, or at the latest near its end", async () => {
    const { clock, server, client } = await bothOurs({ idle: true });
    client.identity.publish(renewal(web, 2));
    server.identity.publish(renewal(orders, 2));
    client.tenure.renewed();
    await quiet();
    const head = { method: "GET", scheme: "https", authority: "orders", path: "/", fields: [], bodyLength: 0 };
    const { heard } = ask(client.connection, head);
    await heard.until(() => heard.heads.length > 0);
    client.tenure.retire();
    await client.reached("sent", "acknowledged");
    expect([client.connection.open, client.socket.destroyed]).toEqual([false, false]);
    // The server was not asked to retire it; its last half minute begins.
    clock.advance(hourMs - 25_000);
    await server.reached("accepted", "sent", "acknowledged");
    clock.advance(60_000);
    await quiet();
    expect([client.socket.destroyed, heard.loss]).toEqual([false, undefined]);
  });
});

describe("a connection that takes nothing new", () => {
  test("goes on when it was retired, ends with its last exchange, and never takes another", async () => {
    const { clock, server, client } = await bothOurs();
    client.identity.publish(renewal(web, 3));
    server.identity.publish(renewal(orders, 3));
    server.listener.retireWhere(() => true);
    client.tenure.retire();
    await settled(server, client);
    clock.advance(2 * hourMs);
    await quiet();
    expect([client.connection.open, client.socket.destroyed]).toEqual([false, false]);
    // It was given the rest of the first certificates, then of each pair that was proven.
    const rest = (hours: number): number => seconds(startMs + hours * hourMs) - 500 - startMs;
    expect(server.drains).toEqual([rest(1), rest(1), rest(3)]);
    client.heard.consumes = undefined;
    client.connection.destroy("the last exchange has ended");
    await closed(server);
  });

  test("is gone in its time when it was drained, whatever is proven meanwhile", async () => {
    const { clock, server, client } = await bothOurs();
    server.listener.drainWhere((peer) => peer.leaf.serial === client.identity.read().chain[0]?.serial, 20_000);
    client.identity.publish(renewal(web, 3));
    client.tenure.renewed();
    await server.reached("accepted");
    // And this side has nothing more to prove.
    server.identity.publish(renewal(orders, 3));
    clock.advance(19_000);
    await quiet();
    expect([client.socket.destroyed, server.steps]).toEqual([false, ["accepted"]]);
    clock.advance(2_000);
    await once(client.socket, "close");
  });

  test("is found by the serial of the leaf that was proven last, not of the first", async () => {
    const { server, client, first } = await bothOurs();
    client.identity.publish(renewal(web, 3));
    client.tenure.renewed();
    await server.reached("accepted");
    server.listener.drainWhere((peer) => peer.leaf.serial === serialOf(first.client), 0);
    await quiet();
    expect(client.socket.destroyed).toBe(false);
    server.listener.drainWhere((peer) => peer.leaf.serial === serialOf(client.identity.read()), 0);
    await once(client.socket, "close");
  });
});

describe("when the roots change", () => {
  const bothRoots = [pki.root, others.root];
  const underOthers = (id: string, hours: number): TlsIdentity => ({
    ...others.issue(id, { notAfterMs: startMs + hours * hourMs }),
    roots: bothRoots,
    bundleSequence: 2,
    generation: ++generation,
  });
  /** A root is added: what both ends hold goes on, and only the bundle is another. */
  const widened = (identity: TlsIdentity): TlsIdentity => ({
    ...identity,
    roots: bothRoots,
    bundleSequence: 2,
    generation: ++generation,
  });
  const narrowed = (identity: TlsIdentity, root: Certificate): TlsIdentity => ({
    ...identity,
    roots: [root],
    bundleSequence: 3,
    generation: ++generation,
  });

  test("a whole rotation cuts no stream: the new root is added, both ends prove under it, the old one goes", async () => {
    const { clock, server, client, first } = await bothOurs();
    const rotate = async (next: { server: TlsIdentity; client: TlsIdentity }): Promise<void> => {
      const changed = server.identity.read().bundleSequence !== next.server.bundleSequence;
      server.identity.publish(next.server);
      client.identity.publish(next.client);
      if (changed) {
        server.listener.rejudge(5_000);
        client.tenure.rejudge(5_000);
      }
      client.tenure.renewed();
      await quiet(40);
      clock.advance(10_000);
      await quiet();
      expect([client.socket.destroyed, client.heard.loss]).toEqual([false, undefined]);
    };
    await rotate({ server: widened(first.server), client: widened(first.client) });
    const next = { server: underOthers(orders, 5), client: underOthers(web, 5) };
    await rotate(next);
    expect([server.peerSerial(), client.peerSerial()]).toEqual([serialOf(next.client), serialOf(next.server)]);
    await rotate({ server: narrowed(next.server, others.root), client: narrowed(next.client, others.root) });
    clock.advance(4 * hourMs);
    await quiet();
    expect(client.heard.loss).toBeUndefined();
  });

  test("a peer whose chain no longer stands is gone in the time of a drain", async () => {
    const { clock, server, client, first } = await bothOurs();
    client.identity.publish(widened(first.client));
    server.identity.publish(narrowed(underOthers(orders, 3), others.root));
    server.listener.rejudge(5_000);
    await quiet();
    clock.advance(4_000);
    await quiet();
    expect(client.socket.destroyed).toBe(false);
    clock.advance(2_000);
    await once(client.socket, "close");
  });

  test("and stays if it proves one that does within that time", async () => {
    const { clock, server, client, first } = await bothOurs();
    client.identity.publish(widened(first.client));
    server.identity.publish(narrowed(underOthers(orders, 3), others.root));
    server.listener.rejudge(5_000);
    await client.reached("accepted");
    clock.advance(4_000);
    client.identity.publish(underOthers(web, 3));
    client.tenure.renewed();
    await settled(server, client);
    clock.advance(2 * hourMs);
    await quiet();
    expect([client.socket.destroyed, client.heard.loss]).toEqual([false, undefined]);
  });

  test("and stays if the roots under which it stands come back within that time", async () => {
    const { clock, server, client, first } = await bothOurs();
    client.identity.publish(widened(first.client));
    for (const roots of [others.root, pki.root]) {
      server.identity.publish(narrowed(first.server, roots));
      server.listener.rejudge(5_000);
      await quiet();
      clock.advance(4_000);
    }
    clock.advance(30 * 60_000);
    await quiet();
    expect([server.ended(), client.heard.loss, server.steps]).toEqual([undefined, undefined, []]);
  });

  test("what is under way with a peer that stands goes on, and nothing new begins", async () => {
    const { clock, client, first } = await bothOurs();
    client.identity.publish(widened(first.client));
    client.tenure.rejudge(5_000);
    expect(client.connection.open).toBe(false);
    clock.advance(30 * 60_000);
    await quiet();
    expect(client.heard.loss).toBeUndefined();
  });
});

/** What an attacker does with a valid identity, and a part of why it is shut out. */
interface Row {
  readonly does: string;
  readonly says: RegExp;
  readonly code?: number;
  readonly settings?: Buffer;
  /** Steps of the victim before the end; "refused" alone by default, nothing where no proof was judged. */
  readonly steps?: readonly string[];
  act(attacker: Attacker, id: string, victim: End): unknown;
}

const minutes = (count: number): number => startMs + count * 60_000;

const rows: readonly Row[] = [
  {
    does: "replays a proof of another connection",
    says: /signature is wrong for this connection/,
    act: async (attacker, id) => {
      const identity = renewal(id, 2);
      const elsewhere = await otherConnection(attacker, id);
      attacker.raw.send(rawFrame(PROOF, 0, 0, elsewhere.proof(identity)));
    },
  },
  {
    does: "replays its own proof on the same connection",
    says: /number is 1, wanted 2/,
    steps: ["accepted", "refused"],
    act: async (attacker, id) => {
      const frame = rawFrame(PROOF, 0, 0, attacker.proof(renewal(id, 2)));
      attacker.raw.send(frame);
      await attacker.acknowledged(1);
      attacker.raw.send(frame);
    },
  },
  {
    does: "sends one proof twice in one write",
    says: /number is 1, wanted 2/,
    steps: ["accepted", "refused"],
    act: (attacker, id) => {
      const frame = rawFrame(PROOF, 0, 0, attacker.proof(renewal(id, 2)));
      attacker.raw.send(frame, frame);
    },
  },
  {
    does: "leaves out a number",
    says: /number is 2, wanted 1/,
    act: (attacker, id) => attacker.prove(renewal(id, 2), { counter: 2 }),
  },
  {
    does: "proves another identity of the trust domain",
    says: /wanted "spiffe:/,
    act: (attacker) => attacker.prove(pki.issue("spiffe://mesh.local/ns/default/sa/billing")),
  },
  {
    does: "proves the control plane's identity",
    says: /wanted "spiffe:/,
    act: (attacker) => attacker.prove(pki.issue("spiffe://mesh.local/hauberk/control")),
  },
  {
    does: "proves a certificate that has ended",
    says: /ended at/,
    act: (attacker, id) => attacker.prove(pki.issue(id, { notBeforeMs: minutes(-20), notAfterMs: minutes(-10) })),
  },
  {
    does: "proves a certificate that is not valid yet",
    says: /not valid before/,
    act: (attacker, id) => attacker.prove(pki.issue(id, { notBeforeMs: minutes(10), notAfterMs: minutes(20) })),
  },
  {
    does: "proves its own name under other roots",
    says: /a signature in its chain is wrong|key identifiers|ends in no root/,
    act: (attacker, id) => attacker.prove(others.issue(id)),
  },
  {
    does: "proves a leaf without its intermediate",
    says: /ends in no root/,
    act: (attacker, id) => {
      const { chain, key } = renewal(id, 2);
      attacker.prove({ chain: chain.slice(0, 1), key });
    },
  },
  {
    does: "proves an intermediate's certificate, whose key it stole",
    says: /SPIFFE ID has no path/,
    act: (attacker) => attacker.prove({ chain: [pki.intermediate], key: pki.issuer.key }),
  },
  {
    does: "proves a leaf of the right name that is an authority",
    says: /authority/,
    act: (attacker, id) => {
      const life = { notBeforeMs: minutes(-1), notAfterMs: minutes(90) };
      const subject = nameOf("an authority");
      const leaf = craft({ issuer: pki.issuer, uris: [id], ca: true, subject, ...life });
      attacker.prove({ chain: [leaf, pki.intermediate], key: craftedKey });
    },
  },
  {
    does: "proves a leaf with two names",
    says: /2 URI names/,
    act: (attacker, id) => {
      const life = { notBeforeMs: minutes(-1), notAfterMs: minutes(90) };
      const leaf = craft({ issuer: pki.issuer, uris: [id, `${id}x`], ...life });
      attacker.prove({ chain: [leaf, pki.intermediate], key: craftedKey });
    },
  },
  {
    does: "signs somebody's renewed chain with the key that it has",
    says: /signature is wrong for this connection/,
    act: (attacker, id) => attacker.prove({ chain: renewal(id, 2).chain, key: attacker.identity.key }),
  },
  {
    does: "changes one bit of the signature",
    says: /signature is wrong for this connection/,
    act: (attacker, id) => {
      const payload = attacker.proof(renewal(id, 2));
      payload[payload.length - 1] = (payload.at(-1) as number) ^ 1;
      attacker.raw.send(rawFrame(PROOF, 0, 0, payload));
    },
  },
  {
    does: "signs for the other end's role",
    says: /signature is wrong for this connection/,
    act: (attacker, id) => attacker.prove(renewal(id, 2), { role: attacker.role === "client" ? "server" : "client" }),
  },
  {
    does: "signs for another trust domain",
    says: /signature is wrong for this connection/,
    act: (attacker, id) => attacker.prove(renewal(id, 2), { trustDomain: "mesh.other" }),
  },
  {
    does: "sends back the proof that the other end sent",
    says: /signature is wrong for this connection|wanted "spiffe:/,
    steps: ["sent", "refused"],
    act: async (attacker, _id, victim) => {
      victim.identity.publish(renewal(victim.identity.read().id.text, 2));
      if ("tenure" in victim) (victim as OurClient).tenure.renewed();
      const { payload } = await attacker.raw.frame(({ type }) => type === PROOF);
      attacker.raw.send(rawFrame(PROOF, 0, 0, payload));
    },
  },
  {
    does: "sends an empty proof",
    says: /it is cut off/,
    act: (attacker) => attacker.raw.send(rawFrame(PROOF, 0, 0)),
  },
  {
    does: "sends half a proof",
    says: /cut off/,
    act: (attacker, id) => {
      const payload = attacker.proof(renewal(id, 2));
      attacker.raw.send(rawFrame(PROOF, 0, 0, payload.subarray(0, payload.length / 2)));
    },
  },
  {
    does: "sends a proof with a byte too many",
    says: /something follows it/,
    act: (attacker, id) =>
      attacker.raw.send(rawFrame(PROOF, 0, 0, Buffer.concat([attacker.proof(renewal(id, 2)), Buffer.of(0)]))),
  },
  {
    does: "sends a frame above the size of frames",
    says: /a frame of 16385 bytes/,
    code: 6,
    steps: [],
    act: (attacker) => attacker.raw.send(rawFrame(PROOF, 0, 0, Buffer.alloc(16_385))),
  },
  {
    does: "sends a proof on a stream",
    says: /a connection's frame on a stream/,
    code: 1,
    steps: [],
    act: (attacker, id) => attacker.raw.send(rawFrame(PROOF, 0, 1, attacker.proof(renewal(id, 2)))),
  },
  {
    does: "sends a proof inside a header block",
    says: /inside a header block/,
    code: 1,
    steps: [],
    act: (attacker, id) =>
      attacker.raw.send(rawFrame(1, 0, 1, "82"), rawFrame(PROOF, 0, 0, attacker.proof(renewal(id, 2)))),
  },
  {
    does: "sends a proof that it had not announced",
    says: /which was not announced/,
    code: 1,
    settings: rawFrame(4, 0, 0),
    steps: [],
    act: (attacker, id) => attacker.prove(renewal(id, 2)),
  },
  {
    does: "takes its announcement back",
    says: /were taken back/,
    code: 1,
    steps: [],
    act: (attacker) => attacker.raw.send(rawFrame(4, 0, 0, "f9b5 00000000")),
  },
  {
    does: "acknowledges what was not sent",
    says: /a proof that was not sent/,
    steps: [],
    act: (attacker) => attacker.raw.send(rawFrame(PROOF, 1, 0, uint32(0))),
  },
  {
    does: "acknowledges another number than was sent",
    says: /a proof that was not sent/,
    steps: ["sent"],
    act: async (attacker, _id, victim) => {
      victim.identity.publish(renewal(victim.identity.read().id.text, 2));
      if ("tenure" in victim) (victim as OurClient).tenure.renewed();
      await attacker.raw.frame(({ type }) => type === PROOF);
      attacker.raw.send(rawFrame(PROOF, 1, 0, uint32(2)));
    },
  },
  {
    does: "acknowledges twice",
    says: /a proof that was not sent/,
    steps: ["sent", "acknowledged"],
    act: async (attacker, _id, victim) => {
      victim.identity.publish(renewal(victim.identity.read().id.text, 2));
      if ("tenure" in victim) (victim as OurClient).tenure.renewed();
      await attacker.raw.frame(({ type }) => type === PROOF);
      attacker.raw.send(rawFrame(PROOF, 1, 0, uint32(1)), rawFrame(PROOF, 1, 0, uint32(1)));
    },
  },
  {
    does: "acknowledges with a byte too many",
    says: /a proof that was not sent/,
    steps: ["sent"],
    act: async (attacker, _id, victim) => {
      victim.identity.publish(renewal(victim.identity.read().id.text, 2));
      if ("tenure" in victim) (victim as OurClient).tenure.renewed();
      await attacker.raw.frame(({ type }) => type === PROOF);
      attacker.raw.send(rawFrame(PROOF, 1, 0, "0000000100"));
    },
  },
  {
    does: "proves good certificates without end",
    says: /there are too many/,
    steps: [...Array.from({ length: 4 }, () => "accepted"), "refused"],
    act: (attacker, id) => {
      const identity = renewal(id, 2);
      for (let counter = 1; counter <= 40; counter++) attacker.prove(identity, { counter });
    },
  },
  {
    does: "floods with what is no proof",
    says: /it is cut off/,
    act: (attacker) => attacker.raw.send(...Array.from({ length: 5_000 }, () => rawFrame(PROOF, 0, 0))),
  },
];

for (const role of ["client", "server"] as const satisfies readonly ProofRole[]) {
  describe(`an attacker that is a ${role} with a valid identity is shut out when it`, () => {
    test.each(rows)("$does", async (row) => {
      const clock = new ManualClock(startMs);
      const id = role === "client" ? web : orders;
      const identities = { attacker: renewal(id, 1), victim: renewal(role === "client" ? orders : web, 1) };
      const { settings } = row;
      const { attacker, victim } = await attack(role, identities, {
        clock,
        closers,
        ...(settings === undefined ? {} : { settings }),
      });
      const before = victim.endsAtMs();
      await row.act(attacker, id, victim);
      const because = await closed(victim);
      expect(because).toMatch(row.says);
      expect(await attacker.shutOut()).toBe(row.code ?? inadequateSecurity);
      expect(victim.steps).toEqual(row.steps ?? ["refused"]);
      expect(victim.refusals).toHaveLength(victim.steps.includes("refused") ? 1 : 0);
      if (!victim.steps.includes("accepted")) expect(victim.endsAtMs()).toBe(before);
    });
  });
}

test("a proof that is reflected between two ends of one identity is refused by its role", async () => {
  const clock = new ManualClock(startMs);
  const identities = { attacker: renewal(web, 1), victim: renewal(web, 1) };
  for (const role of ["client", "server"] as const) {
    const { attacker, victim } = await attack(role, identities, { clock, closers });
    victim.identity.publish(renewal(web, 2));
    if ("tenure" in victim) victim.tenure.renewed();
    const { payload } = await attacker.raw.frame(({ type }) => type === PROOF);
    attacker.raw.send(rawFrame(PROOF, 0, 0, payload));
    expect(await closed(victim)).toContain("signature is wrong for this connection");
  }
});

test("an end that never acknowledges and never proves loses its connection with the first certificate", async () => {
  for (const role of ["client", "server"] as const) {
    const clock = new ManualClock(startMs);
    const identities = { attacker: renewal(role === "client" ? web : orders, 5), victim: renewal(orders, 1) };
    const { attacker, victim } = await attack(role, identities, { clock, closers });
    for (const hours of [2, 3]) {
      victim.identity.publish(renewal(orders, hours));
      if ("tenure" in victim) victim.tenure.renewed();
      await attacker.raw.frame(({ type }) => type === PROOF);
    }
    expect([victim.steps, victim.endsAtMs()]).toEqual([["sent"], endOf(identities.victim)]);
    clock.advance(hourMs);
    await attacker.raw.end();
  }
});

test("who took no proofs gets none, ignores the frames as unknown, and ends them as a flood", async () => {
  const clock = new ManualClock(startMs);
  const server = await ourServer(renewal(orders, 1), { clock, closers, announces: false });
  const identity = renewal(web, 1);
  const attacker = await attackServer(identity, server, { closers });
  const first = attacker.raw.frames.find(({ type }) => type === 4)?.payload.toString("hex") ?? "";
  expect(first).not.toContain("f9b5");
  attacker.prove(renewal(web, 2));
  attacker.raw.send(rawFrame(PROOF, 0, 7), rawFrame(6, 0, 0, Buffer.alloc(8)));
  await attacker.raw.frame(({ type, flags }) => type === 6 && flags === 1);
  expect([server.steps, server.peerSerial()]).toEqual([[], serialOf(identity)]);
  attacker.raw.send(...Array.from({ length: 2_000 }, () => rawFrame(PROOF, 0, 0)));
  expect(await attacker.shutOut()).toBe(0xb);
});

test("a side that has no identity of its own left takes no proof", async () => {
  const clock = new ManualClock(startMs);
  const identities = { attacker: renewal(web, 1), victim: renewal(orders, 1) };
  const { attacker, victim } = await attack(
    "server",
    { attacker: identities.victim, victim: identities.attacker },
    { clock, closers },
  );
  victim.identity.publish(undefined as never);
  attacker.prove(renewal(orders, 2));
  expect(await closed(victim)).toContain("this side has no identity now");
});

test.each([
  { lifeMs: 5_000, everyMs: 2_500, taken: 1_000 },
  { lifeMs: 24 * hourMs, everyMs: 60_000, taken: 1_000 },
  { lifeMs: 24 * hourMs, everyMs: 5_000, taken: 4 },
  { lifeMs: 1, everyMs: 900, taken: 30 },
])("of proofs that come every $everyMs ms for lives of $lifeMs ms, $taken are taken", ({ lifeMs, everyMs, taken }) => {
  const pace = new ProofPace(0);
  let rounds = 0;
  while (rounds < 1_000 && pace.take(rounds * everyMs)) {
    rounds++;
    pace.proven(lifeMs);
  }
  expect(rounds).toBe(taken);
});

test("an announcement of a later version is one of ours too", async () => {
  const clock = new ManualClock(startMs);
  const identities = { attacker: renewal(web, 1), victim: renewal(orders, 3) };
  const { attacker, victim } = await attack("client", identities, {
    clock,
    closers,
    settings: rawFrame(4, 0, 0, "f9b5 00000007"),
  });
  expect(announcement.toString("hex")).toContain("f9b500000001");
  attacker.prove(renewal(web, 2));
  await attacker.acknowledged(1);
  await victim.reached("accepted");
  expect(victim.endsAtMs()).toBe(seconds(startMs + 2 * hourMs));
});

/** A second connection of the same attacker, in the same role, to an end of its own. */
async function otherConnection(attacker: Attacker, id: string): Promise<Attacker> {
  const clock = new ManualClock(startMs);
  const victim = renewal(attacker.role === "client" ? orders : web, 1);
  return (
    await attack(
      attacker.role,
      { attacker: { ...attacker.identity, id: renewal(id, 1).id }, victim },
      { clock, closers },
    )
  ).attacker;
}

function seconds(ms: number): number {
  return Math.floor(ms / 1_000) * 1_000;
}

function steps(step: "accepted", rounds: number): ("accepted" | "sent" | "acknowledged")[] {
  return Array.from({ length: rounds }, () => [step, "sent", "acknowledged"] as const).flat();
}

/** What the client says in a round: it takes the server's proof, and sends its own. */
function clientSteps(rounds: number): ("accepted" | "sent" | "acknowledged")[] {
  return steps("accepted", rounds);
}

function serverSteps(rounds: number): ("accepted" | "sent" | "acknowledged")[] {
  return Array.from({ length: rounds }, () => ["sent", "acknowledged", "accepted"] as const).flat();
}
