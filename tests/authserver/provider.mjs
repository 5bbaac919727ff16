// oidc-provider, configured from the settings that oidc.py sends.

import { generateKeyPairSync, randomBytes } from 'node:crypto';

import Provider, { errors } from 'oidc-provider';

import { journal } from './journal.mjs';
import { memoryStorage } from './storage.mjs';

const jwk = (type, options, alg) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), alg, use: 'sig',
});
const newKeys = () => [
  jwk('rsa', { modulusLength: 2048 }, 'RS256'),
  jwk('ec', { namedCurve: 'P-256' }, 'ES256'),
];

function account(context, id) {
  const claims = { sub: id, name: id, email: `${id}@consumers.example`, email_verified: true };
  return { accountId: id, claims: () => claims };
}

const resourceServer = (settings) => (context, indicator) => {
  const scopes = settings.resources[indicator];
  if (!scopes) throw new errors.InvalidTarget();
  return {
    audience: indicator,
    scope: scopes.join(' '),
    accessTokenTTL: settings.access_token_ttl,
    accessTokenFormat: 'jwt',
    jwt: { sign: { alg: 'RS256' } },
  };
};

// What JSON settings cannot say: where the client's certificate is.
const mutualTls = (settings) => settings && {
  mTLS: { ...settings, getCertificate: (context) => context.socket.getPeerX509Certificate() },
};

// Wraps what the provider does at the token endpoint in the fault that is set, if any.
const tokenFault = (faults) => async (context, next) => {
  const fault = context.path === '/token' && context.method === 'POST' ? faults.take() : undefined;
  if (fault?.delay) await new Promise((resume) => { setTimeout(resume, fault.delay * 1000); });
  if (!fault?.status) return next();
  context.status = fault.status;
  if (fault.retry_after !== null) context.set('Retry-After', String(fault.retry_after));
  context.body = { error: fault.error };
  return undefined;
};

export function authorizationServer(issuer, settings, faults) {
  const adapter = memoryStorage();
  const cookieKeys = [randomBytes(32).toString('hex')];
  const record = journal(settings.log);
  let keys = newKeys();

  const build = () => {
    const provider = new Provider(issuer, {
      adapter,
      jwks: { keys },
      cookies: { keys: cookieKeys },
      clients: settings.clients,
      clockTolerance: 0, // else tokens outlive their expiry
      findAccount: account,
      pkce: { required: () => true },
      rotateRefreshToken: settings.rotate,
      scopes: ['openid', 'offline_access', ...settings.scopes],
      claims: { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'] },
      ttl: {
        AccessToken: settings.access_token_ttl,
        ClientCredentials: settings.access_token_ttl,
        IdToken: settings.id_token_ttl,
        RefreshToken: settings.refresh_token_ttl,
        AuthorizationCode: 60,
        Interaction: 3600,
        Session: 86400,
        Grant: 86400 * 14,
      },
      features: {
        devInteractions: { enabled: true },
        clientCredentials: { enabled: true },
        introspection: { enabled: true, allowedPolicy: () => true },
        revocation: { enabled: true },
        pushedAuthorizationRequests: { enabled: false },
        dPoP: { enabled: false },
        rpInitiatedLogout: { enabled: false },
        resourceIndicators: { enabled: true, getResourceServerInfo: resourceServer(settings) },
        ...settings.features,
        ...mutualTls(settings.features.mTLS),
      },
    });
    provider.use(record.middleware);
    provider.use(tokenFault(faults));
    provider.on('grant.revoked', record.grantRevoked);
    return provider.callback();
  };

  let handler = build();
  return {
    handle: (request, response) => handler(request, response),
    // Tokens and sessions live in the storage, so a provider built anew goes on where the old one stood.
    rotateKeys({ forget }) {
      keys = forget ? newKeys() : [...newKeys(), ...keys];
      handler = build();
    },
  };
}
