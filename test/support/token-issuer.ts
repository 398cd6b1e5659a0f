import { generateKeyPairSync, sign } from "node:crypto";
import type { JwtProvider } from "../../src/base/resource.ts";
import type { StateEntry } from "../../src/contract/watch.ts";

/** Somebody who signs tokens with a key of its own, and the JwtProvider `corp` by which sidecars know them. */
export interface TokenIssuer {
  /** The provider, as the control plane tells it. */
  readonly entry: StateEntry;
  /** An `authorization` field: a token that never ends, with these claims too. */
  readonly bearer: (claims?: object) => string;
}

export function tokenIssuer(more: Partial<JwtProvider> = {}): TokenIssuer {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const provider: JwtProvider = {
    kind: "JwtProvider",
    name: "corp",
    namespace: "default",
    issuer: "https://corp.example",
    audiences: ["mesh"],
    algorithms: ["ES256"],
    keys: { is: "inline", jwks: { keys: [{ ...publicKey.export({ format: "jwk" }), kid: "a" }] } },
    forward: true,
    ...more,
  };
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  return {
    entry: ["provider/default/corp", provider],
    bearer: (claims = {}) => {
      const said = { iss: provider.issuer, aud: "mesh", exp: 9e9, ...claims };
      const text = `${part({ alg: "ES256", kid: "a" })}.${part(said)}`;
      const signature = sign("sha256", Buffer.from(text), { key: privateKey, dsaEncoding: "ieee-p1363" });
      return `Bearer ${text}.${signature.toString("base64url")}`;
    },
  };
}
