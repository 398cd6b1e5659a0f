import { writeFileSync } from "node:fs";
import { resolve } from "node:path";
import type { PeekedIdentity } from "../../identity/peek-identity.ts";
import { toPem } from "../../x509/pem.ts";
import { exits, usageError, type Input, type Run } from "../command.ts";
import { readSecretFile } from "../home.ts";
import { readIdentity } from "../read-identity.ts";
import { systemRandom } from "../system.ts";
import { show } from "../terminal.ts";

export const run: Run = async (input) => {
  const hint = "See hauberk certs export --help";
  const out = input.flag("out");
  if (out === undefined) throw usageError("--out is missing", hint);
  const format = input.flag("format") ?? (/\.(?:p12|pfx)$/i.test(out) ? "p12" : "pem");
  if (format !== "pem" && format !== "p12") throw usageError(`--format ${format} is neither pem nor p12`, hint);
  const identity = readIdentity(resolve(input.cwd, input.words[0] ?? ""));
  const target = resolve(input.cwd, out);
  const passwordFile = format === "p12" ? await writePkcs12(input, identity, target) : writePemFile(identity, target);
  const until = new Date(identity.notAfterMs).toISOString();
  show(input.terminal, { file: out, format, id: identity.id, notAfterMs: identity.notAfterMs, passwordFile }, () =>
    [
      `${out}: key and certificates of ${identity.id}, until ${until}`,
      ...(passwordFile === undefined ? [] : [`Its password: ${passwordFile}`]),
      "A copy does not renew itself: export it again before it ends",
    ].join("\n"),
  );
  return exits.done;
};

function writePemFile(identity: PeekedIdentity, target: string): undefined {
  const chain = identity.chain.map((certificate) => toPem("CERTIFICATE", certificate.der)).join("");
  writeNew(target, chain + identity.key.export({ type: "pkcs8", format: "pem" }));
}

async function writePkcs12(input: Input, identity: PeekedIdentity, target: string): Promise<string> {
  const named = input.flag("password-file");
  const passwordFile = named === undefined ? `${target}.password` : resolve(input.cwd, named);
  const password =
    named === undefined
      ? systemRandom.bytes(18).toString("base64url")
      : readSecretFile(passwordFile, "the password", () => "");
  // Loaded here only: node-forge and @peculiar cost more than the rest of the command.
  const { toPkcs12 } = await import("../../x509/pkcs12.ts");
  const bytes = toPkcs12({
    key: identity.key,
    chain: [...identity.chain, ...identity.roots],
    passphrase: password,
    name: identity.id,
  });
  writeNew(target, bytes);
  if (named === undefined) writeNew(passwordFile, `${password}\n`);
  return passwordFile;
}

function writeNew(path: string, content: string | Buffer): void {
  try {
    writeFileSync(path, content, { mode: 0o600, flag: "wx" });
  } catch (thrown) {
    const exists = (thrown as { code?: string }).code === "EEXIST";
    throw usageError(
      exists ? `${path} exists` : `${path} cannot be written`,
      exists ? "Name a new file with --out" : "Check the folder and its permissions",
    );
  }
}
