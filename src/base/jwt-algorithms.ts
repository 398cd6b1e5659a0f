/** How a token may be signed: asymmetric algorithms only; `none` and every HMAC are missing on purpose (RFC 8725, 3.1 and 3.2). */
export const jwtAlgorithms = [
  "ES256",
  "ES384",
  "ES512",
  "RS256",
  "RS384",
  "RS512",
  "PS256",
  "PS384",
  "PS512",
  "EdDSA",
  "Ed25519",
] as const;
