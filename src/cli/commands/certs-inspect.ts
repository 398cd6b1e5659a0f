import { existsSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { HauberkError, isRefusal, messageOf } from "../../base/errors.ts";
import { fingerprintOf, readCertificate, type Certificate } from "../../x509/certificate.ts";
import { fromPem } from "../../x509/pem.ts";
import { verifyChain, verifyWorkload, workloadIdOf } from "../../x509/verify.ts";
import { exits, usageError, type Input, type Run } from "../command.ts";
import { findHome } from "../home.ts";
import { readIdentity } from "../read-identity.ts";
import { systemClock } from "../system.ts";
import { duration, show } from "../terminal.ts";

/** `good` is undefined where there are no roots to judge by. */
interface Verdict {
  readonly good: boolean | undefined;
  readonly says: string;
}

export const run: Run = async (input) => {
  const path = resolve(input.cwd, input.words[0] ?? "");
  if (!existsSync(path)) throw usageError(`there is no ${path}`, "Name a PEM file, or a sidecar's state folder");
  const { chain, roots: beside } = statSync(path).isDirectory()
    ? readIdentity(path)
    : { chain: readAll(path), roots: undefined };
  const verdict = judge(chain, beside ?? rootsOf(input));
  show(input.terminal, { certificates: chain.map(plain), verdict }, () =>
    [...chain.map(describe), verdict.says].join("\n\n"),
  );
  return verdict.good === false ? exits.negative : exits.done;
};

/** A state file starts with its digest; what follows is PEM like anybody's. */
function readAll(path: string): Certificate[] {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (thrown) {
    throw usageError(`${path} cannot be read: ${messageOf(thrown)}`, "Check its permissions");
  }
  const blocks = fromPem(text.replace(/^# hauberk-state [^\n]*\n/, ""));
  if (isRefusal(blocks))
    throw new HauberkError(blocks.code, `${blocks.message}: ${path}`, "Name a PEM file, or a sidecar's state folder");
  const found: Certificate[] = [];
  for (const block of blocks) {
    if (block.label !== "CERTIFICATE") continue;
    const certificate = readCertificate(block.der);
    if (isRefusal(certificate)) throw HauberkError.from(certificate);
    found.push(certificate);
  }
  if (found.length === 0) throw usageError(`${path} holds no certificate`, "Name a PEM file with CERTIFICATE blocks");
  return found;
}

function rootsOf(input: Input): readonly Certificate[] | undefined {
  const named = input.flag("roots");
  if (named !== undefined) return readAll(resolve(input.cwd, named));
  const home = findHome(input.cwd, input.flag("home") ?? input.environment["HAUBERK_HOME"]);
  const file = home === undefined ? undefined : join(home.ca, "root.crt");
  return file !== undefined && existsSync(file) ? readAll(file) : undefined;
}

function judge(chain: readonly Certificate[], roots: readonly Certificate[] | undefined): Verdict {
  const [leaf] = chain;
  if (leaf === undefined || roots === undefined)
    return { good: undefined, says: "Not verified: no roots are known here; name them with --roots" };
  const atMs = systemClock.wallMs();
  if (leaf.ca) {
    const proven = roots.some((root) => root.der.equals(leaf.der)) || verifyChain({ chain, roots, atMs });
    return proven === true
      ? { good: true, says: "Good: a certificate authority's, which no workload may use" }
      : { good: false, says: `Not good: ${(proven as { message: string }).message}` };
  }
  const id = workloadIdOf(leaf);
  const trustDomain = isRefusal(id) ? "" : id.trustDomain;
  const proven = verifyWorkload({ chain, roots, trustDomain, atMs });
  return isRefusal(proven)
    ? { good: false, says: `Not a good SVID: ${proven.message} (${proven.code})` }
    : { good: true, says: `A good SVID of ${proven.id.text}` };
}

function plain(certificate: Certificate): object {
  return {
    serial: certificate.serial,
    uris: certificate.uris,
    dnsNames: certificate.dnsNames,
    notBeforeMs: certificate.notBeforeMs,
    notAfterMs: certificate.notAfterMs,
    ca: certificate.ca,
    pathLength: certificate.pathLength ?? null,
    keyUsage: [...(certificate.keyUsage ?? [])],
    sha256: fingerprintOf(certificate.der),
  };
}

function describe(certificate: Certificate): string {
  const restMs = certificate.notAfterMs - systemClock.wallMs();
  return [
    `${certificate.ca ? "CA" : "leaf"} ${certificate.serial}`,
    `  identity   ${certificate.uris.join(", ") || "none"}${certificate.dnsNames.length === 0 ? "" : ` (DNS ${certificate.dnsNames.join(", ")})`}`,
    `  valid      ${new Date(certificate.notBeforeMs).toISOString()} to ${new Date(certificate.notAfterMs).toISOString()} (${restMs > 0 ? `${duration(restMs)} left` : `ended ${duration(-restMs)} ago`})`,
    `  may        ${[...(certificate.keyUsage ?? [])].join(", ")}${certificate.pathLength === undefined ? "" : `; path length ${certificate.pathLength}`}`,
    `  sha256     ${fingerprintOf(certificate.der)}`,
  ].join("\n");
}
