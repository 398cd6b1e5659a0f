import { X509Certificate, generateKeyPairSync } from "node:crypto";
import { expect, test } from "vitest";
import {
  clientAuth,
  craft,
  craftAuthority,
  craftedKey,
  extension,
  nameOf,
  serverAuth,
  uriName,
  dnsName,
  workload,
  type Crafted,
} from "../../test/support/crafted-certificate.ts";
import { makeTestPki } from "../../test/support/pki.ts";
import { isRefusal } from "../base/errors.ts";
import { readCertificate, type Certificate } from "./certificate.ts";
import { contextTag, tags } from "./der-reader.ts";
import { der, sequence } from "./der-writer.ts";
import { extensionOids } from "./extensions.ts";
import { generateKey, spkiOf } from "./keys.ts";
import { signLeaf, type Issuer } from "./leaf.ts";
import { verifyChain, verifyWorkload } from "./verify.ts";

const atMs = Date.UTC(2026, 0, 1);
const pki = await makeTestPki({ wallMs: atMs });
const other = await makeTestPki({ wallMs: atMs });
const { issuer, intermediate, root } = pki;
const rootIssuer: Issuer = { key: pki.rootKey, certificate: root };
const hourMs = 3_600_000;

interface Wish {
  readonly roots?: readonly Certificate[];
  readonly trustDomain?: string;
  readonly atMs?: number;
  readonly expect?: string;
}

/** The code of a refusal, or the ID. */
const judge = (chain: readonly Certificate[], wish: Wish = {}): string => {
  const answer = verifyWorkload({ chain, roots: [root], trustDomain: "mesh.local", atMs, ...wish });
  return isRefusal(answer) ? answer.code : answer.id.text;
};
const why = (chain: readonly Certificate[], wish: Wish = {}): string => {
  const answer = verifyWorkload({ chain, roots: [root], trustDomain: "mesh.local", atMs, ...wish });
  return isRefusal(answer) ? answer.message : "accepted";
};
const leaf = (wish: Omit<Crafted, "issuer"> = {}): Certificate => craft({ issuer, ...wish });
/** A leaf made wrong, below the good intermediate. */
const judgeLeaf = (wish: Omit<Crafted, "issuer">): string => judge([leaf(wish), intermediate]);
/** A good leaf below an authority made wrong. */
const below = (authority: Issuer, wish: Omit<Crafted, "issuer"> = {}): Certificate[] => [
  craft({ issuer: authority, ...wish }),
  authority.certificate,
];

test("a workload's chain is accepted, with the root sent or not, and under its own name", () => {
  const chain = pki.issue(workload).chain;
  expect(judge(chain)).toBe(workload);
  expect(judge([...chain, root])).toBe(workload);
  expect(judge(chain, { expect: workload })).toBe(workload);
  expect(judge(chain, { roots: [other.root, root] })).toBe(workload);
  expect(judge([leaf(), intermediate])).toBe(workload);
  expect(verifyChain({ chain: [intermediate], roots: [root], atMs })).toBe(true);
  expect(verifyChain({ chain: [root], roots: [root], atMs })).toBe(true);
});

test("a peer with another identity than the expected one is refused", () => {
  const chain = pki.issue(workload).chain;
  expect(judge(chain, { expect: `${workload}s` })).toBe("PEER_NOT_THE_SERVICE");
  expect(judge(chain, { expect: "" })).toBe("PEER_NOT_THE_SERVICE");
});

test("X-1: a leaf has exactly one URI name; names of other kinds may stand beside it", () => {
  const address = der(contextTag(7, false), Buffer.from([10, 0, 0, 1]));
  expect(judgeLeaf({ dnsNames: ["orders.default.mesh"], otherNames: [address] })).toBe(workload);
  expect(judgeLeaf({ uris: [workload, `${workload}-2`] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ uris: [workload, workload] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ uris: [workload, "https://mesh.local/"] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ uris: [], dnsNames: ["orders.default.mesh"] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ uris: [] })).toBe("PEER_NOT_A_WORKLOAD");
});

test("X-2: a leaf's ID has a path, and without a subject its names are critical", () => {
  expect(judgeLeaf({ uris: ["spiffe://mesh.local"] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ uris: ["spiffe://mesh.local/"] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ sanCritical: false })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ sanCritical: false, subject: nameOf("orders") })).toBe(workload);
});

test("X-3: a signing certificate does not authenticate, and its own ID is a trust domain's", () => {
  const usage = ["keyCertSign", "digitalSignature"] as const;
  expect(judgeLeaf({ ca: true, subject: nameOf("x"), keyUsage: usage })).toBe("PEER_NOT_A_WORKLOAD");
  // Even one that claims to be a workload in every other respect.
  expect(judgeLeaf({ ca: true, subject: nameOf("x") })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judge([intermediate])).toBe("PEER_NOT_A_WORKLOAD");
  expect(judge([root])).toBe("PEER_NOT_A_WORKLOAD");
  const named = (...uris: string[]): string => judge(below(craftAuthority({ issuer: rootIssuer, uris })));
  expect(named()).toBe(workload);
  expect(named("spiffe://mesh.local")).toBe(workload);
  expect(named("spiffe://mesh.local/ca")).toBe("PEER_UNTRUSTED");
  expect(named("spiffe://mesh.local", "spiffe://other.example")).toBe("PEER_UNTRUSTED");
});

test("X-3: an issuer without the CA bit or without keyCertSign issues nothing", () => {
  const key = generateKey();
  const signer = craft({ issuer, key, subject: nameOf("leaf that signs") });
  expect(
    judge([
      craft({ issuer: { key, certificate: { ...signer, subjectKeyId: signer.subjectKeyId } } }),
      signer,
      intermediate,
    ]),
  ).toBe("PEER_UNTRUSTED");
  const noBit = craftAuthority({ issuer: rootIssuer, ca: false });
  expect(why(below(noBit))).toContain("no authority");
  const noUsage = craftAuthority({ issuer: rootIssuer, keyUsage: ["cRLSign", "digitalSignature"] });
  expect(why(below(noUsage))).toContain("may not sign certificates");
});

test("X-4: a leaf says CA false or nothing, and a path length of 0 allows no issuer below", () => {
  expect(judgeLeaf({ ca: false })).toBe(workload);
  expect(judgeLeaf({})).toBe(workload);
  const lower = craftAuthority({ issuer });
  expect(why([...below(lower), intermediate])).toContain("longer than an issuer allows");
  const upper = craftAuthority({ issuer: rootIssuer, pathLength: 1, name: "upper" });
  const middle = craftAuthority({ issuer: upper, pathLength: 0, name: "middle" });
  expect(judge([...below(middle), upper.certificate])).toBe(workload);
});

test("X-5: name constraints bind the URIs and the DNS names of all below", () => {
  expect(why([leaf({ uris: ["spiffe://evil.example/a"] }), intermediate], { trustDomain: "evil.example" })).toContain(
    "may not sign for",
  );
  expect(why([leaf({ dnsNames: ["evil.example"] }), intermediate])).toContain('may not sign for "evil.example"');
  expect(judgeLeaf({ dnsNames: ["orders.default.mesh", "mesh", "A.MESH"] })).toBe(workload);
  expect(judgeLeaf({ dnsNames: ["notmesh"] })).toBe("PEER_UNTRUSTED");
  const constrained = (list: Buffer): Issuer =>
    craftAuthority({
      issuer: rootIssuer,
      extensions: [extension(extensionOids.nameConstraints, sequence(list), true)],
    });
  const permitted = (...names: Buffer[]): Issuer =>
    constrained(der(contextTag(0), ...names.map((name) => sequence(name))));
  const excluded = (...names: Buffer[]): Issuer =>
    constrained(der(contextTag(1), ...names.map((name) => sequence(name))));
  expect(judge(below(permitted(uriName("mesh.local"))))).toBe(workload);
  expect(judge(below(permitted(uriName(".local"))))).toBe(workload);
  expect(judge(below(permitted(uriName("local"))))).toBe("PEER_UNTRUSTED");
  expect(judge(below(permitted(uriName(".mesh.local"))))).toBe("PEER_UNTRUSTED");
  expect(judge(below(permitted(dnsName("mesh"))))).toBe(workload);
  expect(judge(below(excluded(uriName("mesh.local"))))).toBe("PEER_UNTRUSTED");
  expect(judge(below(excluded(dnsName("mesh")), { dnsNames: ["a.mesh"] }))).toBe("PEER_UNTRUSTED");
  expect(judge(below(excluded(dnsName("other")), { dnsNames: ["a.mesh"] }))).toBe(workload);
  // The constraints of the upper issuer bind past the lower one.
  const upper = permitted(uriName("other.example"));
  const lower = craftAuthority({ issuer: upper, name: "lower" });
  expect(judge([...below(lower), upper.certificate])).toBe("PEER_UNTRUSTED");
});

test("X-6: key usage is there and critical, and a leaf's is to sign, never to sign certificates", () => {
  expect(judgeLeaf({ keyUsage: undefined })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ keyUsageCritical: false })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ keyUsage: ["keyEncipherment"] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ keyUsage: ["digitalSignature", "keyEncipherment", "keyAgreement"] })).toBe(workload);
  expect(judgeLeaf({ keyUsage: ["digitalSignature", "keyCertSign"] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ keyUsage: ["digitalSignature", "cRLSign"] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judge(below(craftAuthority({ issuer: rootIssuer, keyUsage: undefined })))).toBe("PEER_UNTRUSTED");
  expect(judge(below(craftAuthority({ issuer: rootIssuer, keyUsageCritical: false })))).toBe("PEER_UNTRUSTED");
  expect(judge(below(craftAuthority({ issuer: rootIssuer, keyUsage: ["keyCertSign"] })))).toBe(workload);
});

test("X-7: extended key usage, where present, has both serverAuth and clientAuth", () => {
  expect(judgeLeaf({ purposes: undefined })).toBe(workload);
  expect(judgeLeaf({ purposes: [clientAuth, "1.3.6.1.5.5.7.3.3", serverAuth] })).toBe(workload);
  expect(judgeLeaf({ purposes: [serverAuth] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ purposes: [clientAuth] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ purposes: ["2.5.29.37.0"] })).toBe("PEER_NOT_A_WORKLOAD");
  const purposes = (...list: string[]): string => judge(below(craftAuthority({ issuer: rootIssuer, purposes: list })));
  expect(purposes(serverAuth, clientAuth)).toBe(workload);
  expect(purposes("2.5.29.37.0")).toBe(workload);
  expect(purposes("1.3.6.1.5.5.7.3.3")).toBe("PEER_UNTRUSTED");
});

test("X-8: a chain of another authority, in another order, or with a foreign signature is refused", () => {
  const chain = pki.issue(workload).chain as [Certificate, Certificate];
  expect(judge(chain, { roots: [other.root] })).toBe("PEER_UNTRUSTED");
  expect(judge(chain, { roots: [] })).toBe("PEER_UNTRUSTED");
  expect(judge([])).toBe("PEER_UNTRUSTED");
  expect(judge([chain[0]])).toBe("PEER_UNTRUSTED");
  expect(judge([chain[0], other.intermediate])).toBe("PEER_UNTRUSTED");
  expect(judge([chain[0], chain[1], chain[1]])).toBe("PEER_UNTRUSTED");
  expect(judge([chain[0], root, chain[1]])).toBe("PEER_UNTRUSTED");
  expect(judge([chain[0], ...Array.from({ length: 5 }, () => chain[1])])).toBe("PEER_UNTRUSTED");
  // Signed by the right key, but naming another issuer.
  const misnamed: Issuer = { ...issuer, certificate: { ...intermediate, subject: nameOf("another") } };
  expect(why([craft({ issuer: misnamed }), intermediate])).toContain("not in order");
  // Same names, other keys: only the signature and the key identifiers tell.
  const impostor: Issuer = { key: generateKey(), certificate: intermediate };
  expect(why([craft({ issuer: impostor }), intermediate])).toContain("signature");
  expect(why([craft({ issuer, authorityKeyId: Buffer.from("x") }), intermediate])).toContain("key identifiers");
});

test("X-8: an ID of another scheme or trust domain is refused, whoever signed it", () => {
  expect(judgeLeaf({ uris: ["https://mesh.local/ns/default/sa/orders"] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ uris: ["Spiffe://mesh.local/a"] })).toBe("PEER_NOT_A_WORKLOAD");
  expect(judgeLeaf({ uris: ["spiffe://mesh.local/a/../b"] })).toBe("PEER_NOT_A_WORKLOAD");
  const unbound = craftAuthority({ issuer: rootIssuer });
  expect(judge(below(unbound, { uris: ["spiffe://other.example/a"] }))).toBe("PEER_UNTRUSTED");
  expect(judge(pki.issue(workload).chain, { trustDomain: "mesh" })).toBe("PEER_UNTRUSTED");
});

test("every certificate of a chain is within its time, to the second", () => {
  const notBeforeMs = atMs;
  const chain = pki.issue(workload, { notBeforeMs, notAfterMs: atMs + hourMs }).chain;
  expect(judge(chain, { atMs })).toBe(workload);
  expect(judge(chain, { atMs: atMs - 1 })).toBe("PEER_EXPIRED");
  expect(judge(chain, { atMs: atMs + hourMs })).toBe(workload);
  expect(judge(chain, { atMs: atMs + hourMs + 1 })).toBe("PEER_EXPIRED");
  const short = craftAuthority({ issuer: rootIssuer, notAfterMs: atMs - 1000 });
  const below = craft({ issuer: short, notBeforeMs: atMs - hourMs, notAfterMs: atMs + hourMs });
  expect(why([below, short.certificate])).toContain("its issuer ended at 2025-12-31T23:59:59.000Z");
  expect(judge([below, short.certificate])).toBe("PEER_EXPIRED");
  expect(judge([below, short.certificate], { atMs: atMs - 2000 })).toBe(workload);
  const lasting = craft({ issuer, notAfterMs: root.notAfterMs + 10 * hourMs });
  expect(why([lasting, intermediate], { atMs: root.notAfterMs + hourMs })).toContain("ended");
});

test("a proven intermediate stays proven only under the key that proved it", () => {
  const chain = pki.issue(workload).chain;
  expect(judge(chain)).toBe(workload);
  // Another root with the same name and key identifier, but another key.
  const key = generateKey();
  const twin: Certificate = { ...root, spki: spkiOf(key) };
  expect(judge(chain, { roots: [twin] })).toBe("PEER_UNTRUSTED");
  expect(judge(chain, { roots: [twin, root] })).toBe(workload);
});

test("two URI names pass node:crypto's reader, which is why there is one of our own", () => {
  const evil = leaf({ uris: [workload, "spiffe://mesh.local/ns/default/sa/admin"] });
  expect(new X509Certificate(evil.der).verify(new X509Certificate(intermediate.der).publicKey)).toBe(true);
  expect(judge([evil, intermediate])).toBe("PEER_NOT_A_WORKLOAD");
});

test("a leaf of the template and one by parts are judged alike", () => {
  const made = readCertificate(
    signLeaf(issuer, {
      spki: spkiOf(craftedKey),
      id: workload,
      dnsNames: [],
      serial: Buffer.alloc(16, 0x41),
      notBeforeMs: atMs,
      notAfterMs: atMs + hourMs,
    }),
  );
  expect(isRefusal(made) ? made.message : judge([made, intermediate])).toBe(workload);
});

test("a chain has at most four certificates, however far its issuers would let it go", () => {
  let authority = rootIssuer;
  const above: Certificate[] = [];
  const codes: string[] = [];
  for (let length = 1; length <= 5; length++) {
    codes.push(judge([craft({ issuer: authority }), ...above]));
    authority = craftAuthority({ issuer: authority, name: `authority ${length}` });
    above.unshift(authority.certificate);
  }
  expect(codes).toEqual([workload, workload, workload, workload, "PEER_UNTRUSTED"]);
});

test("a signature counts only with the kind of key that its algorithm is for", () => {
  const p384 = generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey;
  const authority = craftAuthority({ issuer: rootIssuer, key: p384 });
  expect(why(below(authority))).toContain("signature");
});

test("an algorithm that no mesh signs with is refused", () => {
  const sha512 = sequence(der(tags.oid, Buffer.from("2a8648ce3d040304", "hex")));
  expect(why([leaf({ algorithm: sha512 }), intermediate])).toContain("signature");
  const sha1 = sequence(der(tags.oid, Buffer.from("2a8648ce3d0401", "hex")));
  expect(why([leaf({ algorithm: sha1 }), intermediate])).toContain("signature");
});
