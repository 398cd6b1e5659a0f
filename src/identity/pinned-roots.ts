import { request } from "node:https";
import type { Clock } from "../base/clock.ts";
import { isRefusal, refuse, type Refusal } from "../base/errors.ts";
import type { OptionValues } from "../base/options.ts";
import { readRootsAnswer } from "../contract/read-enrollment.ts";
import { fingerprintOf, readCertificate, type Certificate } from "../x509/certificate.ts";
import { whyUnreachable } from "./control-connection.ts";
import type { identityOptions } from "./options.ts";

/**
 * The one unverified connection of the product: it fetches roots, sends nothing but the question, and believes nothing but
 * what the enrollment token names by its SHA-256. Whoever sits in the middle can only make it fail.
 */
const answerBytesMax = 256 * 1024;

/**
 * The roots of `url` that the token pins; ROOT_NOT_PINNED where none of those shown is, CONTROL_UNREACHABLE where nobody
 * answers. Roots that the token does not name are dropped, however many are shown.
 */
export async function fetchPinnedRoots(
  url: string,
  pins: ReadonlySet<string>,
  context: { readonly clock: Clock; readonly options: OptionValues<typeof identityOptions> },
): Promise<readonly Certificate[] | Refusal> {
  let body: string;
  try {
    body = await fetchUnverified(new URL("/v1/roots", url), context);
  } catch (thrown) {
    return refuse(
      "CONTROL_UNREACHABLE",
      `Cannot fetch the roots from ${url}: ${whyUnreachable(thrown)}`,
      "Check that the control plane runs and that its enrollment port can be reached from here; where the address is wrong, set addresses.advertise in the control plane's hauberk.yaml and make a new token",
    );
  }
  const answer = readRootsAnswer(body);
  if (isRefusal(answer)) return answer;
  const pinned: Certificate[] = [];
  for (const text of answer.roots) {
    const der = Buffer.from(text, "base64");
    if (!pins.has(fingerprintOf(der))) continue;
    const root = readCertificate(der);
    if (!isRefusal(root)) pinned.push(root);
  }
  if (pinned.length > 0) return pinned;
  return refuse(
    "ROOT_NOT_PINNED",
    `Cannot trust ${url}: none of the ${answer.roots.length} roots that it shows is one that the token names`,
    "Ask for a new token; if that fails too, somebody between here and the control plane answers in its place",
  );
}

function fetchUnverified(
  url: URL,
  context: { readonly clock: Clock; readonly options: OptionValues<typeof identityOptions> },
): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request(url, {
      agent: false,
      minVersion: "TLSv1.3",
      // What is read here is checked by its digest and by nothing else; nothing secret is sent.
      rejectUnauthorized: false,
      headers: { accept: "application/json", connection: "close" },
    });
    const { controlConnectMs, controlAnswerMs } = context.options;
    const within = (ms: number, what: string): (() => void) =>
      context.clock.after(ms, () => asked.destroy(new Error(`${what} within ${ms} ms`)));
    let cancel = within(controlConnectMs, "no connection");
    asked.once("socket", (socket) =>
      socket.once("secureConnect", () => {
        cancel();
        cancel = within(controlAnswerMs, "no answer");
      }),
    );
    const fail = (thrown: unknown): void => {
      cancel();
      asked.destroy();
      reject(thrown instanceof Error ? thrown : new Error(String(thrown)));
    };
    asked.once("error", fail);
    asked.once("response", (answer) => {
      const parts: Buffer[] = [];
      let length = 0;
      answer.on("data", (part: Buffer) => {
        length += part.length;
        if (length > answerBytesMax) fail(new Error(`the answer is longer than ${answerBytesMax} bytes`));
        else parts.push(part);
      });
      answer.once("error", fail);
      answer.once("end", () => {
        cancel();
        asked.destroy();
        if (answer.statusCode === 200) resolve(Buffer.concat(parts).toString("utf8"));
        else reject(new Error(`it answered with status ${answer.statusCode}`));
      });
    });
    asked.end();
  });
}
