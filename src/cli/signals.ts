/** The first SIGINT or SIGTERM asks to end, and is told; a second one is not waited for. */
export function onEnd(task: (signal: NodeJS.Signals) => void): () => void {
  let asked = false;
  const listener = (signal: NodeJS.Signals): void => {
    if (asked) process.exit(130);
    asked = true;
    task(signal);
  };
  process.on("SIGINT", listener);
  process.on("SIGTERM", listener);
  process.on("SIGHUP", listener);
  return () => {
    process.off("SIGINT", listener);
    process.off("SIGTERM", listener);
    process.off("SIGHUP", listener);
  };
}
