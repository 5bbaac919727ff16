/** What the calls answer. Secrets and people's ids are private fields: neither inspect nor JSON shows them. */

export const time = (stamp) => (stamp ? new Date(stamp.seconds * 1000 + stamp.nanos / 1e6) : null);

export class Token {
  #accessToken;
  #idToken;

  constructor(answer) {
    this.#accessToken = answer.access_token;
    this.#idToken = answer.id_token || null;
    this.tokenType = answer.token_type;
    this.expireTime = time(answer.expire_time);
    this.scopes = answer.scopes;
    this.tokenVersion = answer.token_version;
    this.degraded = answer.degraded;
  }

  get accessToken() {
    return this.#accessToken;
  }

  get idToken() {
    return this.#idToken;
  }
}

export class Delegation {
  #authorizationUrl;

  constructor(answer) {
    this.#authorizationUrl = answer.authorization_url;
    this.delegationId = answer.delegation_id;
    this.expireTime = time(answer.expire_time);
  }

  get authorizationUrl() {
    return this.#authorizationUrl;
  }
}

export class Confirmation {
  #code;

  constructor(answer) {
    this.#code = answer.code;
    this.expireTime = time(answer.expire_time);
  }

  get code() {
    return this.#code;
  }
}

export class Delegated {
  #consumer;
  #conversation;
  #subject;

  constructor(answer) {
    this.#consumer = answer.context?.consumer?.consumer_id ?? null;
    this.#conversation = answer.context?.conversation?.conversation_id ?? null;
    this.#subject = answer.subject || null;
    this.brand = answer.brand_id;
    this.grantedScopes = answer.granted_scopes;
    this.accessTokenExpireTime = time(answer.access_token_expire_time);
    this.sessionExpireTime = time(answer.session_expire_time);
    this.confirmation = answer.confirmation ? new Confirmation(answer.confirmation) : null;
  }

  get consumer() {
    return this.#consumer;
  }

  get conversation() {
    return this.#conversation;
  }

  get subject() {
    return this.#subject;
  }
}
