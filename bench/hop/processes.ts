import { spawn, type ChildProcess } from "node:child_process";
import { createConnection } from "node:net";

/** Programs that a benchmark starts: each is ready when it listens, and all of them are ended in the end. */
export class Processes {
  readonly #children = new Set<ChildProcess>();

  async start([command, ...args]: readonly string[], port: number): Promise<ChildProcess> {
    const child = spawn(command ?? "", args, { stdio: ["ignore", "ignore", "inherit"] });
    this.#children.add(child);
    for (let attempt = 0; attempt < 400; attempt++) {
      if (await connects(port)) return child;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    throw new Error(`${command} does not listen on ${port}`);
  }

  end(child: ChildProcess): Promise<void> {
    this.#children.delete(child);
    if (child.exitCode !== null) return Promise.resolve();
    return new Promise((resolve) => {
      child.once("exit", () => resolve());
      child.kill("SIGTERM");
    });
  }

  endAll(): void {
    for (const child of this.#children) child.kill("SIGTERM"); // SIGKILL would leave nginx workers behind.
  }
}

function connects(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host: "127.0.0.1", port });
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
