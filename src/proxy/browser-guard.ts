import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import { isLoopback, parseAddress } from "../base/ip-address.ts";
import type { ServiceName } from "../base/spiffe-id.ts";
import { readAuthority } from "../http/authority.ts";
import type { Fields, RequestHead } from "../http/message.ts";
import { hostOfService, spellingsOf } from "../policy/spellings.ts";

/**
 * A port on loopback can be reached by every web page that a browser on this machine shows: it sends requests there by
 * itself, and a name of its own that it points to 127.0.0.1 lets it read the answers (DNS rebinding). Browsers say where a request
 * comes from, and programs do not, so a `--to` port refuses what comes from a page of another site, and what is
 * addressed to another host than this machine or the service.
 */
export type BrowserGuard = (head: RequestHead) => Refusal | undefined;

/** What may call nevertheless: `https://shop.example`, or `*` for everybody. */
export function browserGuard(service: ServiceName, origins: readonly string[]): BrowserGuard | undefined {
  if (origins.includes("*")) return undefined;
  const allowed = new Set(origins.map((origin) => origin.toLowerCase()));
  const hosts = new Set([...spellingsOf(hostOfService(service)), ...[...allowed].map(hostOf)]);
  const isOurs = remembered((authority) => {
    const read = readAuthority(authority);
    return !isRefusal(read) && (hosts.has(read.host) || isThisMachine(read.host));
  });
  return ({ authority, fields }) => {
    // HTTP/1.0 may leave the host out, and no browser does.
    if (authority !== "" && !isOurs(authority)) return foreignHost(authority);
    return foreignPage(fields, allowed) ? foreignOrigin : undefined;
  };
}

/** What leaves the mesh has no host of ours to compare with: a browser's word that it sends it for a page is enough. */
export const pageGuard: BrowserGuard = ({ fields }) => (foreignPage(fields, nobody) ? foreignOrigin : undefined);

const nobody: ReadonlySet<string> = new Set();

function foreignPage(fields: Fields, allowed: ReadonlySet<string>): boolean {
  let crossSite = false;
  let origin: string | undefined;
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i] as string;
    // Of the two lengths there are few others.
    if (name.length === 14 && isNamed(name, "sec-fetch-site")) crossSite ||= fields[i + 1] === "cross-site";
    else if (name.length === 6 && isNamed(name, "origin")) origin = fields[i + 1];
  }
  if (origin === undefined) return crossSite;
  if (allowed.has(origin.toLowerCase())) return false;
  return crossSite || !isThisMachine(hostOf(origin));
}

function isNamed(name: string, lower: string): boolean {
  return name === lower || name.toLowerCase() === lower;
}

/** Lower case; "" for `null` and whatever else is no origin. */
function hostOf(origin: string): string {
  return URL.canParse(origin) ? new URL(origin).hostname : "";
}

function isThisMachine(host: string): boolean {
  if (host === "localhost" || host.endsWith(".localhost")) return true;
  const address = parseAddress(host.startsWith("[") ? host.slice(1, -1) : host);
  return address !== undefined && isLoopback(address);
}

const rememberedMax = 64;

/** A program writes one authority all the time. */
function remembered(judge: (text: string) => boolean): (text: string) => boolean {
  const answers = new Map<string, boolean>();
  return (text) => {
    let answer = answers.get(text);
    if (answer === undefined) {
      answer = judge(text);
      if (answers.size >= rememberedMax) answers.clear();
      answers.set(text, answer);
    }
    return answer;
  };
}

function foreignHost(authority: string): Refusal {
  const shown = JSON.stringify(authority.slice(0, 100));
  return refuse(
    "CROSS_SITE",
    `Cannot take the request: this port belongs to one service, and the request is addressed to ${shown}`,
    "Call it as localhost or 127.0.0.1; name another host with --allow-origin, such as http://HOST",
  );
}

const foreignOrigin = refuse(
  "CROSS_SITE",
  "Cannot take the request: a browser sends it for a page of another site",
  "Where a program passes on what browsers send, name its site with --allow-origin, or * for all",
);
