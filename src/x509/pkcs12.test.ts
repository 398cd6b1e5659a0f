import { createPrivateKey } from "node:crypto";
import { createSecureContext } from "node:tls";
import { expect, test } from "vitest";
import { hasProgram, runWith } from "../../test/support/openssl.ts";
import { makeTestPki } from "../../test/support/pki.ts";
import { isRefusal } from "../base/errors.ts";
import { fromPem } from "./pem.ts";
import { toPkcs12 } from "./pkcs12.ts";

const noOpenssl = !hasProgram("openssl", "version");
const noKeytool = !hasProgram("keytool", "-help");
const pki = await makeTestPki();
const { key, chain } = pki.issue("spiffe://mesh.local/ns/default/sa/orders");
const passphrase = "correct horse é";
const file = toPkcs12({ key, chain: [...chain, pki.root], passphrase, name: "orders" });

test("openssl reads the key and the whole chain, and refuses another passphrase", ({ skip }) => {
  skip(noOpenssl, "openssl is not installed");
  const read = (phrase: string): { ok: boolean; output: string } =>
    runWith("openssl", ["pkcs12", "-in", "a.p12", "-nodes", "-passin", `pass:${phrase}`], { "a.p12": file });
  const { ok, output } = read(passphrase);
  expect(ok).toBe(true);
  const blocks = fromPem(output);
  if (isRefusal(blocks)) throw new Error(blocks.message);
  const certificates = blocks.filter((block) => block.label === "CERTIFICATE").map((block) => block.der);
  expect(certificates).toEqual([...chain, pki.root].map((certificate) => certificate.der));
  const pkcs8 = blocks.find((block) => block.label === "PRIVATE KEY")?.der as Buffer;
  expect(createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" }).equals(key)).toBe(true);
  expect(output).toContain("friendlyName: orders");
  expect(read("wrong").ok).toBe(false);
});

test("node:tls takes it as the identity of a connection", () => {
  expect(() => createSecureContext({ pfx: file, passphrase })).not.toThrow();
  expect(() => createSecureContext({ pfx: file, passphrase: "wrong" })).toThrow();
});

test("keytool lists one key with its chain", ({ skip }) => {
  skip(noKeytool, "keytool is not installed");
  const simple = toPkcs12({ key, chain, passphrase: "correct-horse", name: "orders" });
  const command = ["-list", "-v", "-keystore", "a.p12", "-storetype", "PKCS12", "-storepass", "correct-horse"];
  const { ok, output } = runWith("keytool", command, { "a.p12": simple });
  expect([ok, output]).toEqual([true, expect.stringContaining("Entry type: PrivateKeyEntry")]);
  expect(output).toContain("Alias name: orders");
  expect(output).toContain("Certificate chain length: 2");
  expect(output).toContain("spiffe://mesh.local/ns/default/sa/orders");
});
