import { isIP } from "node:net";
import type { TLSSocket } from "node:tls";
import type { Clock } from "../base/clock.ts";
import { isRefusal, messageOf, refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { controlId } from "../base/spiffe-id.ts";
import { connect } from "../transport/node-tls.ts";
import { shownChain } from "../transport/shown-chain.ts";
import type { Certificate } from "../x509/certificate.ts";
import { toPem } from "../x509/pem.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { verifyWorkload } from "../x509/verify.ts";
import type { identityOptions } from "./options.ts";

/** Where the control plane answers, and what it is verified against. */
export interface ControlAccess {
  /** `https://host:port`, tried in turn. */
  readonly urls: readonly string[];
  readonly roots: readonly Certificate[];
  readonly trustDomain: string;
  /** What this side shows; undefined on the enrollment listener, which asks for nothing. */
  readonly identity?: TlsIdentity | undefined;
}

export interface ControlContext {
  readonly clock: Clock;
  readonly options: OptionValues<typeof identityOptions>;
}

/**
 * A TLS connection to the control plane over which nothing has been sent yet, and whose other end has proven to be it: its
 * chain ends in our roots, and its identity is exactly the control plane's. Any workload's certificate ends in the same root.
 * CONTROL_UNREACHABLE or CONTROL_NOT_PROVEN.
 */
export function connectControl(
  url: string,
  access: ControlAccess,
  context: ControlContext,
): Promise<TLSSocket | Refusal> {
  const { hostname, port } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, "");
  return new Promise((resolve) => {
    const { identity } = access;
    const socket = connect({
      host,
      port: Number(port === "" ? "443" : port),
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ca: access.roots.map((root) => toPem("CERTIFICATE", root.der)),
      ...(identity === undefined ? {} : shown(identity)),
      minVersion: "TLSv1.3",
      ALPNProtocols: ["http/1.1"],
      // The name is an SPIFFE ID, judged below by our own reader; host names prove nothing here.
      checkServerIdentity: () => undefined,
    });
    const { controlConnectMs } = context.options;
    const cancel = context.clock.after(controlConnectMs, () =>
      socket.destroy(new Error(`no connection within ${controlConnectMs} ms`)),
    );
    const fail = (thrown: unknown): void => {
      cancel();
      resolve(strangersRoot(url, thrown) ?? unreachable(url, whyUnreachable(thrown)));
    };
    socket.once("error", fail);
    // A connection that ends without an error before it is secure is a failure as well.
    socket.once("close", () => fail(new Error("the connection was closed")));
    socket.once("secureConnect", () => {
      cancel();
      const proof = proveSafely(socket, access, context.clock.wallMs());
      if (proof !== true) {
        socket.destroy();
        resolve(proof);
        return;
      }
      socket.removeListener("error", fail);
      socket.on("error", () => undefined); // Whoever uses it next hears of its end by "close".
      resolve(socket);
    });
  });
}

export function unreachable(url: string, because: string): Refusal {
  return refuse(
    "CONTROL_UNREACHABLE",
    `Cannot reach the control plane at ${url}: ${because}`,
    "Check that it runs and that its port can be reached from here",
  );
}

/** Somebody answers, under a root that is none of ours: as the control plane of another mesh does, or of this one made anew. */
function strangersRoot(url: string, thrown: unknown): Refusal | undefined {
  if (!strangers.has((thrown as NodeJS.ErrnoException).code ?? "")) return undefined;
  return refuse(
    "CONTROL_NOT_PROVEN",
    `Cannot trust what answers at ${url}: its certificate comes from a root that is none of this mesh (${messageOf(thrown)})`,
    "Check the address; where the mesh was made anew, enroll with a token of the new one in a state folder of its own; no request was sent",
  );
}

const strangers: ReadonlySet<string> = new Set([
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "CERT_SIGNATURE_FAILURE",
]);

/** Why a connection did not come about, in words; those of Node are kept where we have none. */
export function whyUnreachable(thrown: unknown): string {
  const { code, errors } = thrown as NodeJS.ErrnoException & { errors?: readonly unknown[] };
  // A name with several addresses gives one error for all, without a word of its own.
  const said = messageOf(thrown) === "" && errors !== undefined ? errors.map(messageOf).join(", ") : messageOf(thrown);
  return code !== undefined && Object.hasOwn(reasons, code) ? (reasons[code] ?? said) : said;
}

const reasons: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nothing listens there",
  ENOTFOUND: "there is no host of this name",
  EAI_AGAIN: "the name cannot be looked up now",
  EHOSTUNREACH: "there is no way to it from here",
  ENETUNREACH: "there is no way to it from here",
  EPROTO: "what listens there does not speak TLS as a control plane does",
};

function shown(identity: TlsIdentity): { cert: string; key: string } {
  return {
    cert: identity.chain.map((certificate) => toPem("CERTIFICATE", certificate.der)).join(""),
    key: identity.key.export({ type: "pkcs8", format: "pem" }),
  };
}

/** What throws here was written by a stranger: it costs this connection, not the process. */
function proveSafely(socket: TLSSocket, access: ControlAccess, atMs: number): true | Refusal {
  try {
    return prove(socket, access, atMs);
  } catch (thrown) {
    return refuse(
      "CONTROL_NOT_PROVEN",
      `Cannot trust what answers as the control plane: its certificate could not be judged (${messageOf(thrown)})`,
      "Report this with the log; nothing was sent",
    );
  }
}

function prove(socket: TLSSocket, access: ControlAccess, atMs: number): true | Refusal {
  const chain = shownChain(socket, access);
  const because = isRefusal(chain) ? chain : verifyChainOf(chain, access, atMs);
  if (!isRefusal(because)) return true;
  return refuse(
    "CONTROL_NOT_PROVEN",
    `Cannot trust what answers at ${socket.remoteAddress ?? "there"}: ${because.message}, and the control plane was wanted`,
    "Check the address and the clocks of both machines; nothing was sent",
  );
}

function verifyChainOf(chain: readonly Certificate[], access: ControlAccess, atMs: number): true | Refusal {
  const { roots, trustDomain } = access;
  const peer = verifyWorkload({ chain, roots, trustDomain, atMs, expect: controlId(trustDomain) });
  return isRefusal(peer) ? peer : true;
}
