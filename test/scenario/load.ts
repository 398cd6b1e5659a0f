import { Agent, request } from "node:http";
import type { Started } from "../support/mesh.ts";

/** A steady load of GETs through a sidecar's outbound listener, over connections that are kept. */
export interface LoadSeen {
  readonly sent: number;
  readonly done: number;
  /** How often each answer came: a status, with its code where Hauberk itself refused, or an error's message. */
  readonly answers: Readonly<Record<string, number>>;
  readonly perSecond: number;
}

export interface Load {
  /** What is known so far. */
  seen(): LoadSeen;
  /** Sends no more, and waits for the answers to what was sent. */
  end(): Promise<LoadSeen>;
}

/** Bounded: what a stalled mesh holds back is not sent all at once afterwards. */
const openMax = 64;

export function beginLoad(
  sidecar: Started,
  wanted: { host: string; perSecond: number; path?: string; connections?: number },
): Load {
  const agent = new Agent({ keepAlive: true, maxSockets: wanted.connections ?? 16 });
  const port = Number(sidecar.ready["outbound"]);
  const answers: Record<string, number> = {};
  const startedMs = performance.now();
  let sent = 0;
  let done = 0;
  let drained: () => void = () => undefined;

  const count = (answer: string): void => {
    done++;
    answers[answer] = (answers[answer] ?? 0) + 1;
    if (done === sent) drained();
  };
  const send = (): void => {
    sent++;
    const options = { host: "127.0.0.1", port, path: wanted.path ?? "/", agent, headers: { host: wanted.host } };
    const outgoing = request(options, (incoming) => {
      const code = incoming.headers["x-hauberk-code"];
      incoming.resume();
      incoming.once("error", (error) => count(error.message));
      incoming.once("end", () => count(`${incoming.statusCode}${typeof code === "string" ? ` ${code}` : ""}`));
    });
    outgoing.once("error", (error) => count(error.message));
    outgoing.end();
  };
  const tick = setInterval(() => {
    const due = Math.floor(((performance.now() - startedMs) / 1000) * wanted.perSecond);
    const room = Math.min(due - sent, openMax - (sent - done));
    for (let count = 0; count < room; count++) send();
  }, 5);
  const seen = (): LoadSeen => ({
    sent,
    done,
    answers: { ...answers },
    perSecond: (sent * 1000) / (performance.now() - startedMs),
  });

  return {
    seen,
    end: async () => {
      clearInterval(tick);
      const last = seen();
      if (done < sent) await new Promise<void>((resolve) => (drained = resolve));
      agent.destroy();
      return { ...seen(), perSecond: last.perSecond };
    },
  };
}
