// A real authorization server on loopback, driven over stdin and stdout: the first line in is the settings
// (see oidc.py), answered by {"port", "issuer"}; every further line is a command, answered by one line.
// It ends when stdin does, so it never outlives who started it.

import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createInterface } from 'node:readline';

console.info = console.error; // stdout is for answers only
const { authorizationServer } = await import('./provider.mjs');

const answer = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const settings = JSON.parse((await lines.next()).value);

// A fault of the token endpoint, for the next `times` requests.
let fault = null;
const faults = {
  set(next) { fault = next; },
  take() {
    if (!fault) return undefined;
    const taken = fault;
    if (fault.times !== null) {
      fault.times -= 1;
      if (fault.times === 0) fault = null;
    }
    return taken;
  },
};

let authorization;
const onRequest = (request, response) => authorization.handle(request, response);
const { tls } = settings;
const listener = tls
  ? https.createServer({
    cert: readFileSync(tls.cert),
    key: readFileSync(tls.key),
    requestCert: true, // of any issuer: tokens may be bound to it (features.mTLS)
    rejectUnauthorized: false,
  }, onRequest)
  : http.createServer(onRequest);
listener.keepAliveTimeout = 60_000; // longer than a client's pool keeps a connection
await new Promise((listening, failed) => {
  listener.once('error', failed);
  listener.listen(settings.port, '127.0.0.1', 1024, listening);
});

const { port } = listener.address();
const issuer = settings.issuer ?? `${tls ? 'https' : 'http'}://127.0.0.1:${port}`;
authorization = authorizationServer(issuer, settings, faults);
answer({ port, issuer });

const commands = {
  fault: ({ fault: next }) => faults.set(next),
  rotate_keys: (options) => authorization.rotateKeys(options),
};
for await (const line of lines) {
  const { command, ...options } = JSON.parse(line);
  commands[command](options);
  answer({ done: command });
}
process.exit(0);
