import { refuse, type Refusal } from "../base/errors.ts";

export interface PemBlock {
  /** `CERTIFICATE`, `PRIVATE KEY`, … */
  readonly label: string;
  readonly der: Buffer;
}

const textMax = 1024 * 1024;
const begin = /^-----BEGIN ([A-Z0-9][A-Z0-9 ]{0,60}[A-Z0-9])-----$/;

/** One block of RFC 7468, lines of 64, a line break at the end. */
export function toPem(label: string, der: Uint8Array): string {
  const lines =
    Buffer.from(der)
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return [`-----BEGIN ${label}-----`, ...lines, `-----END ${label}-----`, ""].join("\n");
}

/**
 * The blocks of a text, at least one. What stands between blocks is passed over (openssl writes remarks there); a
 * missing last line break, CRLF and other line lengths are read, headers inside a block and bad base64 are refused.
 */
export function fromPem(text: string): PemBlock[] | Refusal {
  if (text.length > textMax) return not(`it is longer than ${textMax} characters`);
  const blocks: PemBlock[] = [];
  let label: string | undefined;
  let body: string[] = [];
  for (const raw of text.split("\n")) {
    const line = raw.trim();
    const opens = begin.exec(line)?.[1];
    if (label === undefined) {
      if (line.startsWith("-----") && opens === undefined) return not("a line with dashes begins no block");
      label = opens;
    } else if (line === `-----END ${label}-----`) {
      const der = decode(body.join(""));
      if (der === undefined) return not(`its ${label} is not base64`);
      blocks.push({ label, der });
      label = undefined;
      body = [];
    } else if (line.startsWith("-----")) return not(`its ${label} does not end`);
    else body.push(line);
  }
  if (label !== undefined) return not(`its ${label} does not end`);
  return blocks.length > 0 ? blocks : not("it holds no block");
}

function decode(text: string): Buffer | undefined {
  const der = Buffer.from(text, "base64");
  return der.length > 0 && der.toString("base64") === text ? der : undefined;
}

function not(because: string): Refusal {
  return refuse("MESSAGE_INVALID", `Cannot read the PEM text: ${because}`, "Use the file as it was written, whole");
}
