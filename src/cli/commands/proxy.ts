import { exits, type Run } from "../command.ts";
import { readSidecarInput } from "../sidecar-input.ts";
import { exitBy, onEnd } from "../signals.ts";
import { readyLine, startSidecar } from "../start-sidecar.ts";
import { systemRandom } from "../system.ts";
import { showRefusal } from "../terminal.ts";

export const run: Run = async (input) => {
  const wanted = readSidecarInput(input, "info");
  let ready = false;
  const giveUp = new AbortController();
  const asked = new Promise<undefined>((resolve) => {
    onEnd({
      ask: (signal) => {
        if (!ready) {
          giveUp.abort();
          exitBy(signal);
        }
        resolve(undefined);
        return true;
      },
    });
  });
  // Guarded even so: without the secret, which nobody gets, only --to listeners can be used.
  const secret = input.on("open-outbound") ? undefined : systemRandom.bytes(24).toString("base64url");
  const { sidecar, log } = await startSidecar(input, wanted, { secret, givenUp: giveUp.signal });
  ready = true;
  if (input.terminal.json) input.terminal.out(readyLine(sidecar));
  else input.terminal.out(describe(sidecar.outboundPort, sidecar.inboundPort, input.on("open-outbound")));
  const refusal = await Promise.race([asked, sidecar.refused]);
  await sidecar.stop();
  log.flush();
  if (refusal === undefined) return exits.done;
  showRefusal(input.terminal, refusal);
  return exits.negative;
};

function describe(outbound: number, inbound: number | undefined, open: boolean): string {
  const calls = open
    ? `calls at http://127.0.0.1:${outbound} with Host: SERVICE, open to every local user`
    : "calls through --to ports only (--open-outbound opens the proxy port)";
  return `The sidecar is ready: ${calls}${inbound === undefined ? "" : `; others reach it on port ${inbound}`}`;
}
