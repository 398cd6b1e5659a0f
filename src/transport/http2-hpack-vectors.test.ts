import * as http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { connect, createServer } from "node:net";
import { afterEach, expect, test } from "vitest";
import { fieldsOf, storiesOf, vectorsMissing } from "../../test/support/hpack-vectors.ts";
import type { Story } from "../../test/support/hpack-vectors.ts";
import { RawPeer, rawFrame, rawPreface, uint32 } from "../../test/support/http2-raw.ts";
import * as frames from "../http/http2/frames.ts";
import { HpackEncoder, boundOf } from "../http/http2/hpack-encoder.ts";

/** What our encoder writes of the public vectors' fields, read by nghttp2's decoder: node:http2 on the other end of a socket. */

const { HEADERS, SETTINGS, RST_STREAM } = frames;

/** What belongs to one connection of HTTP/1 is left out by the encoder, and has no place in HTTP/2. */
const leftOut = /^(connection|keep-alive|transfer-encoding|upgrade|te|proxy-connection)$/;

/** Tables of every kind: as it is by default, none at all, too small for most, and larger than our encoder makes use of. */
const tableSizes = [4_096, 0, 200, 65_536] as const;

const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

/**
 * The fields of a case as a message of HTTP/2 has them: pseudo-fields first, without white space around values, fields of
 * HTTP/1, and the second of two lengths, for which nghttp2 refuses two of the answers, as we do.
 */
function expectedOf(fields: readonly string[]): string[] {
  const pseudo: string[] = [];
  const kept: string[] = [];
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i] as string;
    if (leftOut.test(name) || (name === "content-length" && kept.includes(name))) continue;
    (name.startsWith(":") ? pseudo : kept).push(name, (fields[i + 1] as string).trim());
  }
  return [...pseudo, ...kept];
}

function encode(encoder: HpackEncoder, fields: readonly string[]): Buffer {
  const out = Buffer.alloc(boundOf([...fields]) + 64);
  const pseudo = {
    ":method": encoder.method,
    ":path": encoder.path,
    ":scheme": encoder.scheme,
    ":authority": encoder.authority,
    ":status": encoder.status,
  };
  encoder.begin(out, 0);
  for (let i = 0; i < fields.length; i += 2) {
    const entry = pseudo[fields[i] as keyof typeof pseudo];
    if (entry === undefined) encoder.field(fields[i] as string, fields[i + 1] as string);
    else encoder.known(entry, fields[i + 1] as string);
  }
  expect(encoder.invalid).toBeUndefined();
  return out.subarray(0, encoder.at);
}

function casesOf(kind: ":method" | ":status"): { story: string; lists: string[][] }[] {
  const split = ({ story, cases }: Story) => ({
    story,
    lists: cases.map((one) => expectedOf(fieldsOf(one))).filter((fields) => fields.includes(kind)),
  });
  return storiesOf("raw-data")
    .map(split)
    .filter(({ lists }) => lists.length > 0);
}

test.skipIf(vectorsMissing !== "")(
  `every request of raw-data that we encode is what a server of node:http2 gets${vectorsMissing}`,
  async () => {
    let seen = 0;
    for (const [index, { story, lists }] of casesOf(":method").entries()) {
      const headerTableSize = tableSizes[index % tableSizes.length] as number;
      const got: string[][] = [];
      const server = http2.createServer({ settings: { headerTableSize } });
      server.on("stream", (stream, _headers, _flags, rawHeaders) => {
        got.push(rawHeaders);
        stream.close();
      });
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
      closing.push(() => (socket.destroy(), server.close()));
      const peer = new RawPeer(socket);
      peer.send(rawPreface, rawFrame(SETTINGS, 0, 0));
      await peer.frame(({ type, flags }) => type === SETTINGS && flags === 0);
      peer.send(rawFrame(SETTINGS, frames.ACK, 0));
      const encoder = new HpackEncoder();
      encoder.setLimit(headerTableSize);
      for (const [at, fields] of lists.entries()) {
        // Who says how long the body is has to send one.
        const whole = frames.END_HEADERS | (fields.includes("content-length") ? 0 : frames.END_STREAM);
        peer.send(rawFrame(HEADERS, whole, 2 * at + 1, encode(encoder, fields)));
        if (at % 50 === 49) await peer.frame(({ type, streamId }) => type === RST_STREAM && streamId === 2 * at + 1);
      }
      await peer.until(() => got.length === lists.length);
      expect(got, `${story}, a table of ${headerTableSize}`).toEqual(lists);
      seen += got.length;
    }
    expect(seen).toBe(349);
  },
);

test.skipIf(vectorsMissing !== "")(
  `every answer of raw-data that we encode is what a client of node:http2 gets${vectorsMissing}`,
  async () => {
    let seen = 0;
    for (const [index, { story, lists }] of casesOf(":status").entries()) {
      const headerTableSize = tableSizes[index % tableSizes.length] as number;
      const answers = await answersTo(lists, headerTableSize);
      expect(answers, `${story}, a table of ${headerTableSize}`).toEqual(lists.map(withoutNothing));
      seen += answers.length;
    }
    expect(seen).toBe(3_035);
  },
);

/** nghttp2 itself takes the length of nothing away from a 204. */
function withoutNothing(fields: readonly string[]): string[] {
  const at = fields.indexOf("content-length");
  return fields[1] === "204" && fields[at + 1] === "0" ? fields.toSpliced(at, 2) : [...fields];
}

/** What a client hears of these heads, each written to one of its requests by hand. */
async function answersTo(lists: readonly string[][], headerTableSize: number): Promise<string[][]> {
  const encoder = new HpackEncoder();
  encoder.setLimit(headerTableSize);
  const server = createServer((socket) => {
    const peer = new RawPeer(socket, rawPreface.length);
    peer.send(rawFrame(SETTINGS, 0, 0), rawFrame(SETTINGS, frames.ACK, 0));
    void answer(peer);
  });
  const answer = async (peer: RawPeer): Promise<void> => {
    for (const [at, fields] of lists.entries()) {
      const streamId = 2 * at + 1;
      await peer.frame((frame) => frame.type === HEADERS && frame.streamId === streamId);
      // Not its end: many of these say how long the body is that they came with.
      peer.send(
        rawFrame(HEADERS, frames.END_HEADERS, streamId, encode(encoder, fields)),
        rawFrame(RST_STREAM, 0, streamId, uint32(frames.NO_ERROR)),
      );
    }
  };
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const session = http2.connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, {
    settings: { headerTableSize, enablePush: false },
  });
  closing.push(() => (session.destroy(), server.close()));
  return Promise.all(
    lists.map(
      () =>
        new Promise<string[]>((resolve, reject) => {
          const stream = session.request({ ":path": "/" });
          stream.on("error", reject);
          stream.on("response", (...heard: unknown[]) => resolve(heard[2] as string[]));
        }),
    ),
  );
}
