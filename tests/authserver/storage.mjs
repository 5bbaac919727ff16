// The provider's storage, in memory. Its own keeps 1000 entries and drops the oldest ones silently:
// a few hundred grants would already lose some. This one drops only what has expired.

const SWEEP_MS = 10_000;
const IN_A_GRANT = new Set(['AccessToken', 'AuthorizationCode', 'RefreshToken']);

export function memoryStorage() {
  const entries = new Map(); // "Model:id" -> { payload, expires }
  const grants = new Map(); // grant id -> keys of its tokens and codes
  const sessions = new Map(); // session uid -> session id

  const drop = (key) => {
    const payload = entries.get(key)?.payload;
    entries.delete(key);
    grants.get(payload?.grantId)?.delete(key);
    if (key.startsWith('Grant:')) grants.delete(key.slice('Grant:'.length));
    if (key.startsWith('Session:') && sessions.get(payload?.uid) === payload?.jti) sessions.delete(payload?.uid);
  };
  const sweep = () => {
    const now = Date.now();
    for (const [key, { expires }] of entries) if (expires <= now) drop(key);
  };
  setInterval(sweep, SWEEP_MS).unref();

  return (model) => {
    const keyOf = (id) => `${model}:${id}`;
    const find = async (id) => {
      const entry = entries.get(keyOf(id));
      return entry && entry.expires > Date.now() ? entry.payload : undefined;
    };
    return {
      find,
      findByUid: async (uid) => find(sessions.get(uid)),
      async upsert(id, payload, expiresIn) {
        const key = keyOf(id);
        entries.set(key, { payload, expires: expiresIn ? Date.now() + expiresIn * 1000 : Infinity });
        if (model === 'Session') sessions.set(payload.uid, id);
        if (IN_A_GRANT.has(model) && payload.grantId) {
          if (!grants.has(payload.grantId)) grants.set(payload.grantId, new Set());
          grants.get(payload.grantId).add(key);
        }
      },
      async consume(id) {
        (await find(id)).consumed = Math.floor(Date.now() / 1000);
      },
      async destroy(id) {
        drop(keyOf(id));
      },
      async revokeByGrantId(grantId) {
        for (const key of [...(grants.get(grantId) ?? [])]) drop(key);
      },
    };
  };
}
