import { constants } from "node:crypto";
import type { SecureContext, SecureContextOptions } from "node:tls";
import { toPem } from "../x509/pem.ts";
import type { TlsIdentity } from "../x509/tls-identity.ts";
import { createSecureContext } from "./node-tls.ts";

/**
 * All that TLS is told about an identity. `setSecureContext` forgets what it is not told again, session resumption's end
 * included: so there is one whole set, and nothing is given at creation only.
 *
 * No resumption: a resumed session is not verified again, and outlives the certificate and the roots that it was
 * made with (measured). TLS 1.3 only.
 */
export function secureContextOptions(identity: TlsIdentity): SecureContextOptions {
  return {
    cert: identity.chain.map((certificate) => toPem("CERTIFICATE", certificate.der)).join(""),
    key: identity.key.export({ type: "pkcs8", format: "pem" }),
    ca: identity.roots.map((root) => toPem("CERTIFICATE", root.der)),
    minVersion: "TLSv1.3",
    maxVersion: "TLSv1.3",
    secureOptions: constants.SSL_OP_NO_TICKET,
    // With tickets off, sessions would have to be looked up: nobody stores them, and none lives longer than this.
    sessionTimeout: 1,
  };
}

const contexts = new WeakMap<TlsIdentity, SecureContext>();

/** The context of dialled connections, built once per identity: building it costs as much as a handshake. */
export function dialContextOf(identity: TlsIdentity): SecureContext {
  let context = contexts.get(identity);
  if (context === undefined) contexts.set(identity, (context = createSecureContext(secureContextOptions(identity))));
  return context;
}
