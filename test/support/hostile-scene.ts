import type { Duplex } from "node:stream";
import { makeTestPki } from "./pki.ts";
import { ok, RawRoutee } from "./raw-routee.ts";
import { twoProxies, webMay, type TwoProxies } from "./two-proxies.ts";

/** Two proxies before a routee of which every byte is seen, for tests that attack from all sides; afterEach calls `tidy`. */
export class HostileScene {
  readonly mesh: TwoProxies;
  readonly routee: RawRoutee;
  /** Each test's own connections. */
  readonly #clients: { readonly socket: Duplex }[] = [];

  private constructor(mesh: TwoProxies, routee: RawRoutee) {
    this.mesh = mesh;
    this.routee = routee;
  }

  static async start({ retriesMax }: { readonly retriesMax: number }): Promise<HostileScene> {
    const routee = await RawRoutee.start();
    // A hostile routee would open the breaker, and be heard no more.
    const resilience = { breakerFailuresMax: 1_000, breakerRequestsMin: 100_000, retriesMax };
    const pki = await makeTestPki({ wallMs: Date.now() });
    return new HostileScene(await twoProxies(pki, { routee: routee.port, options: { resilience } }), routee);
  }

  /** A client that is cut off when its test is over. */
  keep<T extends { readonly socket: Duplex }>(client: T): T {
    this.#clients.push(client);
    return client;
  }

  tidy(): void {
    for (const { socket } of this.#clients.splice(0)) socket.destroy();
    this.routee.forget();
    this.routee.answer = () => ok("ok");
    this.mesh.publish(webMay);
  }

  async end(): Promise<void> {
    await this.mesh.end();
    this.routee.close();
  }
}
