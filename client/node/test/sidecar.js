/** A scripted sidecar over real mutual TLS. TOKENVAULT_TEST_FILES: where ca, server, named, bot and bot-2 are, .pem and .key. */

import { copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import grpc from "@grpc/grpc-js";
import { SERVICE } from "../src/connection.js";
import { TokenVaultClient } from "../src/index.js";

const from = (name) => join(process.env.TOKENVAULT_TEST_FILES, name);

export class Sidecar {
  /** What is answered, in order: a function of the call (and its callback, where the RPC is no stream). */
  answers = [];
  calls = [];

  /** `own`: whose certificate it shows. */
  async start(own = "server") {
    this.server = new grpc.Server();
    const answer = (call, callback) => {
      this.calls.push(call);
      this.answers.shift()(call, callback);
    };
    const methods = ["StartDelegation", "CompleteDelegation", "ConfirmDelegation", "WatchDelegation", "GetToken"].map((name) => [name, answer]);
    this.server.addService(SERVICE, Object.fromEntries(methods));
    const pair = { cert_chain: readFileSync(from(`${own}.pem`)), private_key: readFileSync(from(`${own}.key`)) };
    const credentials = grpc.ServerCredentials.createSsl(readFileSync(from("ca.pem")), [pair], true);
    this.port = await new Promise((resolve, reject) =>
      this.server.bindAsync("127.0.0.1:0", credentials, (error, bound) =>
        error ? reject(error) : resolve(bound),
      ),
    );
    return this;
  }

  stop() {
    this.server.forceShutdown();
  }
}

/** A client with files of its own. */
export function connected(sidecar, options = {}) {
  const folder = mkdtempSync(join(tmpdir(), "tv-node-"));
  const files = { ca: join(folder, "ca.pem"), certificate: join(folder, "own.pem"), privateKey: join(folder, "own.key") };
  copyFileSync(from("ca.pem"), files.ca);
  const show = (name) => {
    copyFileSync(from(`${name}.pem`), files.certificate);
    copyFileSync(from(`${name}.key`), files.privateKey);
  };
  show("bot");
  const vault = new TokenVaultClient({ address: `127.0.0.1:${sidecar.port}`, ...files, ...options });
  const close = () => {
    vault.close();
    rmSync(folder, { recursive: true });
  };
  return { vault, files, show, close };
}

/** An answer: a status, with what the sidecar adds to it. */
export function failing(code, metadata = {}) {
  const trailers = new grpc.Metadata();
  for (const [name, value] of Object.entries(metadata)) trailers.set(name, value);
  return (call, callback) => {
    const error = { code, details: "not now", metadata: trailers };
    if (callback) callback(error);
    else call.emit("error", error);
  };
}
