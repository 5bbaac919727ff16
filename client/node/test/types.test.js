import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import * as client from "../src/index.js";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

test("index.d.ts declares what index.js exports, and no more", () => {
  const declared = readFileSync(path("../index.d.ts"), "utf8").matchAll(/^export class (\w+)/gm);
  assert.deepEqual([...declared].map(([, name]) => name).sort(), Object.keys(client).sort());
});

test("a program in TypeScript is checked by it", () => {
  const tsc = path("../node_modules/typescript/bin/tsc");
  const done = spawnSync(process.execPath, [tsc, "--project", path("tsconfig.json")], { encoding: "utf8" });
  assert.equal(done.stdout, "");
  assert.equal(done.status, 0);
});
