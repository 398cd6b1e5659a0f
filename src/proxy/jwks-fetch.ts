import { lookup } from "node:dns";
import { BlockList, isIP, type LookupFunction } from "node:net";
import type { Clock } from "../base/clock.ts";
import { messageOf, refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import type { proxyOptions } from "./options.ts";

/**
 * Fetches one JWK Set by undici, loaded on first use. The URI stands in a policy, so this is a door for whoever writes
 * policies: the address is judged when it is dialled (no gap for DNS rebinding), link-local and metadata addresses are
 * never dialled, no redirect is followed, and what comes back is capped in size and time.
 */
export interface FetchContext {
  readonly clock: Clock;
  readonly options: OptionValues<typeof proxyOptions>;
}

const forbidden = new BlockList();
forbidden.addSubnet("169.254.0.0", 16, "ipv4"); // Link-local: AWS, Azure, GCP metadata.
forbidden.addSubnet("0.0.0.0", 8, "ipv4");
forbidden.addAddress("100.100.100.200", "ipv4"); // Alibaba metadata.
forbidden.addAddress("192.0.0.192", "ipv4"); // Oracle metadata.
forbidden.addSubnet("224.0.0.0", 3, "ipv4"); // Multicast, reserved, broadcast.
forbidden.addSubnet("fe80::", 10, "ipv6");
forbidden.addSubnet("ff00::", 8, "ipv6");
forbidden.addAddress("::", "ipv6");
forbidden.addAddress("fd00:ec2::254", "ipv6"); // AWS metadata.
forbidden.addSubnet("64:ff9b::a9fe:0", 112, "ipv6"); // 169.254.0.0/16 behind NAT64.
forbidden.addSubnet("2002:a9fe::", 32, "ipv6"); // The same in 6to4.

const loopback = new BlockList();
loopback.addSubnet("127.0.0.0", 8, "ipv4");
loopback.addAddress("::1", "ipv6");

/** Why `address` is never dialled for keys, or undefined. */
export function forbiddenAddress(address: string, allowLoopback: boolean): string | undefined {
  const family = isIP(address) === 6 ? "ipv6" : "ipv4";
  if (isIP(address) === 0) return "it is no address";
  if (forbidden.check(address, family)) return "it is link-local, a metadata service or reserved";
  if (!allowLoopback && loopback.check(address, family)) return "it is loopback";
  return undefined;
}

/** The parsed document, or why there is none. Never rejects. */
export async function fetchJwks(uri: string, context: FetchContext): Promise<unknown> {
  const { options, clock } = context;
  const url = judgeUri(uri, options.jwksAllowLoopback);
  if (!(url instanceof URL)) return url;
  const { Agent, request } = await import("undici");
  const agent = new Agent({
    allowH2: false,
    connections: 1,
    connect: { lookup: guardedLookup(options.jwksAllowLoopback), timeout: options.jwksTimeoutMs },
    maxResponseSize: options.jwksMaxBytes,
  });
  const ended = new AbortController();
  const cancel = clock.after(options.jwksTimeoutMs, () => ended.abort(new Error("it took too long")));
  try {
    const response = await request(url, {
      dispatcher: agent,
      signal: ended.signal,
      headers: { accept: "application/jwk-set+json, application/json" },
    });
    response.body.on("error", () => undefined); // A connection that ends in the middle rejects the read below; nothing more.
    if (response.statusCode !== 200) return unavailable(uri, `the answer is ${response.statusCode}, not 200`);
    return JSON.parse(await readBody(response.body, options.jwksMaxBytes)) as unknown;
  } catch (thrown) {
    return unavailable(uri, messageOf(thrown));
  } finally {
    cancel();
    await agent.destroy().catch(() => undefined);
  }
}

async function readBody(body: AsyncIterable<Buffer>, bytesMax: number): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes > bytesMax) throw new Error(`it is longer than ${bytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** Plain HTTP only to this machine: elsewhere anybody on the way could put in a key. */
function judgeUri(uri: string, allowLoopback: boolean): URL | Refusal {
  if (!URL.canParse(uri)) return unavailable(uri, "it is no URI");
  const url = new URL(uri);
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const local = isIP(host) !== 0 && loopback.check(host, isIP(host) === 6 ? "ipv6" : "ipv4");
  if (url.protocol !== "https:" && !(url.protocol === "http:" && local)) return unavailable(uri, "it is not https");
  if (url.username !== "" || url.password !== "") return unavailable(uri, "it holds a password");
  const because = isIP(host) === 0 ? undefined : forbiddenAddress(host, allowLoopback);
  return because === undefined ? url : unavailable(uri, because);
}

/** Looks a name up, and refuses it if any of its addresses may not be dialled: the one that is dialled was judged. */
export function guardedLookup(allowLoopback: boolean): LookupFunction {
  return (host, options, found) => {
    lookup(host, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return found(error, []);
      for (const { address } of addresses) {
        const because = forbiddenAddress(address, allowLoopback);
        if (because !== undefined) return found(new Error(`its host leads to ${address}: ${because}`), []);
      }
      const [first] = addresses;
      if (first === undefined) return found(new Error("its host has no address"), []);
      if (options.all === true) return found(null, addresses);
      return found(null, first.address, first.family);
    });
  };
}

function unavailable(uri: string, because: string): Refusal {
  return refuse(
    "JWT_KEYS_UNAVAILABLE",
    `Cannot fetch the keys at ${uri}: ${because}`,
    "Check the provider's keys.uri, and that this machine can reach it",
  );
}
