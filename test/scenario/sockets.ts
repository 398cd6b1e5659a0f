import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** One socket of a process that waits for others, as the kernel lists it. */
export interface Waiting {
  readonly protocol: "tcp" | "tcp6" | "udp" | "udp6";
  /** Dotted for IPv4; the kernel's hexadecimal for IPv6. */
  readonly address: string;
  readonly port: number;
}

const listenState = "0A";
/** A UDP socket that is bound and not connected: it takes datagrams of anybody. */
const unconnectedState = "07";

/** Every TCP socket of this process that listens and every UDP socket that takes from anybody, from /proc (Linux). */
export function waitingSockets(pid: number): Waiting[] {
  const own = new Set<string>();
  for (const name of readdirSync(`/proc/${pid}/fd`)) {
    const inode = /^socket:\[(\d+)\]$/.exec(linkOf(`/proc/${pid}/fd/${name}`))?.[1];
    if (inode !== undefined) own.add(inode);
  }
  return (["tcp", "tcp6", "udp", "udp6"] as const).flatMap((protocol) =>
    readFileSync(`/proc/${pid}/net/${protocol}`, "utf8")
      .split("\n")
      .slice(1)
      .map((line) => line.trim().split(/\s+/))
      .filter(
        (fields) =>
          own.has(fields[9] ?? "") && fields[3] === (protocol.startsWith("tcp") ? listenState : unconnectedState),
      )
      .map((fields) => ({ protocol, ...readAddress(fields[1] ?? "") })),
  );
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // Closed since it was listed.
  }
}

/** `0100007F:1F90`: the address in the machine's byte order, the port in hexadecimal. */
function readAddress(text: string): { address: string; port: number } {
  const [hex = "", port = ""] = text.split(":");
  const address = hex.length === 8 ? [...Buffer.from(hex, "hex")].toReversed().join(".") : hex;
  return { address, port: Number.parseInt(port, 16) };
}
