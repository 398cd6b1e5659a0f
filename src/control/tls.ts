import { constants } from "node:crypto";
import type { Server, ServerOptions } from "node:https";
import { toPem } from "../x509/pem.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";

/**
 * Everything that a listener's TLS is made of, whole: `setSecureContext` forgets what was given at creation and is not
 * given again, resumption being switched off among it (measured on Node 26).
 */
export function contextOf(identity: TlsIdentity): ServerOptions {
  return {
    key: identity.key.export({ type: "pkcs8", format: "pem" }),
    cert: identity.chain.map((certificate) => toPem("CERTIFICATE", certificate.der)).join(""),
    ca: identity.roots.map((root) => toPem("CERTIFICATE", root.der)),
    minVersion: "TLSv1.3",
    maxVersion: "TLSv1.3",
    // A resumed session would skip the check of the peer's certificate, its end included.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

/** New connections use the new identity; those that stand keep theirs. */
export function swap(server: Server, identity: TlsIdentity): void {
  server.setSecureContext(contextOf(identity));
}
