import { EventEmitter } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { expect, test } from "vitest";
import { ManualClock } from "../../test/support/manual-clock.ts";
import { defaultsOf } from "../base/options.ts";
import { writeLine } from "../contract/read-watch.ts";
import { silent } from "../telemetry/logger.ts";
import { controlOptions } from "./options.ts";
import type { WatchHub } from "./watch-hub.ts";
import { serveWatch } from "./watch-route.ts";
import type { WatchStream } from "./watch-stream.ts";

const options = defaultsOf(controlOptions);

/** A watch over an exchange at whose other end nobody reads, with a hub that does what `hear` says. */
function scene(hear: (stream: WatchStream) => void) {
  const said: string[] = [];
  const clock = new ManualClock();
  const response = Object.assign(new EventEmitter(), {
    writableEnded: false,
    destroyed: false,
    write: (text: string) => {
      said.push(text);
      return false;
    },
    writeHead() {},
    flushHeaders() {},
    end() {
      this.writableEnded = true;
    },
    destroy() {
      this.destroyed = true;
    },
  });
  const request = Object.assign(new EventEmitter(), {
    socket: { setNoDelay() {} },
    isPaused: () => false,
    pause() {},
  });
  const hub = {
    hear: (stream: WatchStream) => {
      stream.greeted = true;
      hear(stream);
      return Promise.resolve();
    },
    closed: () => undefined,
    drained: () => {
      throw new Error("a bug");
    },
  } as unknown as WatchHub;
  const peer = { standing: { is: "workload", instance: "i1" } } as unknown as Parameters<typeof serveWatch>[1];
  serveWatch(
    { request: request as unknown as IncomingMessage, response: response as unknown as ServerResponse },
    peer,
    { hub, clock, log: silent, options },
  );
  return { clock, request, response, said };
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** One that is greeted and, where it `says` so, told goodbye. */
async function farewell(says = true) {
  const { clock, request, response } = scene((stream) => {
    if (says) stream.goodbye("a newer stream of this instance was opened");
  });
  request.emit("data", Buffer.from(writeLine({ type: "pong", number: 1 })));
  await settled();
  return { clock, response };
}

test("who does not read the last word is not waited for longer than any slow reader", async () => {
  const { clock, response } = await farewell();
  clock.advance(options.slowReaderMs - 1);
  expect(response).toMatchObject({ writableEnded: true, destroyed: false });
  clock.advance(1);
  expect(response.destroyed).toBe(true);
});

test.each([true, false])("who goes leaves nothing behind, told goodbye (%s) or not", async (says) => {
  const { clock, response } = await farewell(says);
  response.destroyed = true;
  response.emit("close");
  await settled();
  expect(clock.waiting).toBe(0);
});

test("lines without a word cost what messages cost: nobody keeps the control plane busy with line ends", async () => {
  let heard = 0;
  const { request, said } = scene(() => heard++);
  request.emit("data", Buffer.from("\n".repeat(options.messagesBurstMax + 1)));
  await settled();
  expect({ heard, said }).toEqual({ heard: 0, said: [expect.stringContaining("RATE_LIMITED")] });
});

test("a registration, of which all subscribers hear, counts as ten messages: one sidecar cannot keep the mesh busy", async () => {
  let heard = 0;
  const { request, said } = scene(() => heard++);
  for (let sent = 0; sent < 200; sent++) {
    request.emit("data", Buffer.from(writeLine({ type: "register", registration: null })));
    await settled();
  }
  expect(heard).toBe(options.messagesBurstMax / 10);
  expect(said).toEqual([expect.stringContaining("RATE_LIMITED")]);
});

test("a bug as a reader takes more ends that watch, not the process", async () => {
  const { response } = await farewell(false);
  expect(() => response.emit("drain")).not.toThrow();
  expect(response.destroyed).toBe(true);
});
