/**
 * Node's own TLS. `import … from "node:tls"` makes every export of it a binding and so reads `rootCertificates`, the list of
 * the web's authorities as text, which nobody here trusts or asks for: 3 MB of resident memory (measured, Node 26).
 */
export const { connect, createSecureContext, createServer, TLSSocket } = process.getBuiltinModule("node:tls");
