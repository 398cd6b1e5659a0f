import { createCipheriv, createPrivateKey, scryptSync } from "node:crypto";
import { expect, test } from "vitest";
import { hasProgram, runWith } from "../../test/support/openssl.ts";
import { isRefusal } from "../base/errors.ts";
import { DerReader, tags } from "./der-reader.ts";
import { octetString, oid, sequence, smallInteger } from "./der-writer.ts";
import { openKey, pbkdf2Iterations, sealKey } from "./encrypted-key.ts";
import { generateKey } from "./keys.ts";
import { fromPem, toPem } from "./pem.ts";

const noOpenssl = !hasProgram("openssl", "version");
const key = generateKey();
const passphrase = "correct horse é";
const sealed = sealKey(key, passphrase);
const opens = (pem: string, phrase = passphrase): string => {
  const opened = openKey(pem, phrase);
  return isRefusal(opened) ? opened.code : opened.equals(key) ? "opened" : "another key";
};

test("a sealed key opens with its passphrase and with no other", () => {
  expect(opens(sealed)).toBe("opened");
  expect(opens(sealed, "")).toBe("PASSPHRASE_WRONG");
  expect(opens(sealed, `${passphrase} `)).toBe("PASSPHRASE_WRONG");
});

test("a key is sealed with PBES2, at least 600,000 iterations of PBKDF2 over HMAC-SHA-256, and AES-256-CBC", () => {
  const blocks = fromPem(sealed);
  if (isRefusal(blocks)) throw new Error(blocks.message);
  const algorithm = new DerReader(blocks[0]?.der as Buffer).enter(tags.sequence).enter(tags.sequence);
  expect(algorithm.oid()).toBe("1.2.840.113549.1.5.13");
  const scheme = algorithm.enter(tags.sequence);
  const derivation = scheme.enter(tags.sequence);
  expect(derivation.oid()).toBe("1.2.840.113549.1.5.12");
  const parameters = derivation.enter(tags.sequence);
  expect(parameters.content(tags.octetString)).toHaveLength(16);
  expect(parameters.smallInteger()).toBe(pbkdf2Iterations);
  expect(pbkdf2Iterations).toBeGreaterThanOrEqual(600_000);
  expect(parameters.enter(tags.sequence).oid()).toBe("1.2.840.113549.2.9");
  expect(scheme.enter(tags.sequence).oid()).toBe("2.16.840.1.101.3.4.1.42");
});

test("node:crypto and openssl open what was sealed", ({ skip }) => {
  expect(createPrivateKey({ key: sealed, passphrase }).equals(key)).toBe(true);
  skip(noOpenssl, "openssl is not installed");
  const command = ["pkey", "-in", "key.pem", "-passin", `pass:${passphrase}`, "-outform", "PEM"];
  const { output } = runWith("openssl", command, { "key.pem": sealed });
  expect(createPrivateKey(output).equals(key)).toBe(true);
});

test("a key that openssl sealed, with PBKDF2 or scrypt, is opened", ({ skip }) => {
  skip(noOpenssl, "openssl is not installed");
  const plain = key.export({ format: "pem", type: "pkcs8" });
  for (const way of [["-v2", "aes-256-cbc"], ["-scrypt"]]) {
    const command = ["pkcs8", "-topk8", "-in", "key.pem", ...way, "-passout", `pass:${passphrase}`];
    expect([way, opens(runWith("openssl", command, { "key.pem": plain }).output)]).toEqual([way, "opened"]);
  }
});

test("a key sealed with scrypt of N = 2^17, r = 8, p = 1 is opened", () => {
  expect(opens(sealedByScrypt(2 ** 17, 8, 1))).toBe("opened");
});

function sealedByScrypt(cost: number, r: number, p: number): string {
  const salt = Buffer.alloc(16, 1);
  const iv = Buffer.alloc(16, 2);
  const secret =
    cost <= 2 ** 17 ? scryptSync(passphrase, salt, 32, { N: cost, r, p, maxmem: 2 ** 28 }) : Buffer.alloc(32);
  const cipher = createCipheriv("aes-256-cbc", secret, iv);
  const body = Buffer.concat([cipher.update(key.export({ format: "der", type: "pkcs8" })), cipher.final()]);
  const parameters = sequence(
    octetString(salt),
    smallInteger(cost),
    smallInteger(r),
    smallInteger(p),
    smallInteger(32),
  );
  const derivation = sequence(oid("1.3.6.1.4.1.11591.4.11"), parameters);
  const scheme = sequence(derivation, sequence(oid("2.16.840.1.101.3.4.1.42"), octetString(iv)));
  return toPem("ENCRYPTED PRIVATE KEY", sequence(sequence(oid("1.2.840.113549.1.5.13"), scheme), octetString(body)));
}

test("what is no sealed key, or asks for more memory than a machine has, is damaged", () => {
  const blocks = fromPem(sealed);
  const der = isRefusal(blocks) ? Buffer.alloc(0) : (blocks[0]?.der as Buffer);
  const wrong = [
    "",
    "no key",
    key.export({ format: "pem", type: "pkcs8" }),
    toPem("ENCRYPTED PRIVATE KEY", der.subarray(0, -1)),
    toPem("ENCRYPTED PRIVATE KEY", Buffer.concat([der, Buffer.from([5, 0])])),
    toPem("ENCRYPTED PRIVATE KEY", sequence()),
    sealedByScrypt(2 ** 26, 8, 1),
  ];
  expect(wrong.map((pem) => opens(pem))).toEqual(wrong.map(() => "STATE_DAMAGED"));
});
