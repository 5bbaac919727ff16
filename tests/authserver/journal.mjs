// What the server was asked and what it answered: one JSON object a line, tokens as SHA-256 only.
// A line is written before its answer is sent, so a client that has the answer finds the line.

import { createHash } from 'node:crypto';
import { openSync, writeSync } from 'node:fs';

const EVENTS = {
  '/token': 'token',
  '/token/revocation': 'revocation',
  '/token/introspection': 'introspection',
  '/me': 'userinfo',
};

const sha256 = (text) => (text ? createHash('sha256').update(text).digest('hex') : undefined);

function presented(context) {
  const { params = {} } = context.oidc ?? {};
  const bearer = context.get('authorization').match(/^Bearer (.+)$/i)?.[1];
  return sha256(params.code ?? params.refresh_token ?? params.token ?? (context.path === '/me' ? bearer : undefined));
}

export function journal(path) {
  const file = openSync(path, 'a', 0o600);
  const write = (entry) => {
    writeSync(file, `${JSON.stringify({ time: Date.now() / 1000, ...entry })}\n`);
  };

  async function middleware(context, next) {
    await next();
    const event = EVENTS[context.path];
    if (!event) return;
    const { oidc } = context;
    const answer = typeof context.body === 'object' && context.body !== null ? context.body : {};
    write({
      event,
      status: context.status,
      error: answer.error,
      client_id: oidc?.entities.Client?.clientId,
      grant_type: oidc?.params?.grant_type,
      family: oidc?.entities.Grant?.jti ?? oidc?.entities.RefreshToken?.grantId ?? oidc?.entities.AccessToken?.grantId,
      by: context.query.by,
      presented: presented(context),
      access_token: sha256(answer.access_token),
      refresh_token: sha256(answer.refresh_token),
    });
  }

  return {
    middleware,
    grantRevoked: (context, family) => write({
      event: 'grant_revoked', status: context.status, client_id: context.oidc.client?.clientId, family,
    }),
  };
}
