// Fetches what is packed from where it lives: the gateway serves the same files. `--clean` takes them away again.

import { copyFileSync, rmSync } from "node:fs";

const FILES = ["../../runstore/gateway/static/runstore.js", "../../runstore/gateway/static/runstore.d.ts", "../../LICENSE"];
const isClean = process.argv.includes("--clean");

for (const path of FILES) {
  const here = new URL(path.slice(path.lastIndexOf("/") + 1), import.meta.url);
  if (isClean) rmSync(here, { force: true });
  else copyFileSync(new URL(path, import.meta.url), here);
}
