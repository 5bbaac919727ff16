"""What SQLite and PostgreSQL are told alike, with `:name` for each parameter.

Where a parameter may be NULL it is compared first: PostgreSQL takes its type
from there. Every statement is one compare-and-swap or part of a transaction
that begins with one, so that it holds whatever the isolation level.
"""

from dataclasses import dataclass

from tokenvault_sidecar.core.ports import SEALED_HEAD

INSERT_GRANT = """
    INSERT INTO grants (key, brand, kind, version, sealed, purge_at, renew_at,
                        unanswered, failures, retry_at, reason)
    VALUES (:key, :brand, :kind, :version, :sealed, :purge_at, :renew_at,
            :unanswered, :failures, :retry_at, :reason)
    ON CONFLICT DO NOTHING
"""
REPLACE_GRANT = """
    UPDATE grants
    SET brand = :brand, kind = :kind, version = :version, sealed = :sealed,
        purge_at = :purge_at, renew_at = :renew_at,
        unanswered = :unanswered, failures = :failures, retry_at = :retry_at, reason = :reason,
        lease_owner = NULL, lease_until = NULL
    WHERE key = :key AND version = :replaces AND (lease_owner = :owner OR :owner IS NULL)
"""
TOUCH_GRANT = """
    UPDATE grants SET sealed = :sealed, purge_at = :purge_at, renew_at = :renew_at
    WHERE key = :key AND version = :version AND (sealed = :was OR :was IS NULL)
"""
RELEASE_LEASE = """
    UPDATE grants
    SET unanswered = :unanswered, failures = :failures, retry_at = :retry_at, reason = :reason,
        lease_owner = NULL, lease_until = NULL
    WHERE key = :key AND lease_owner = :owner
"""
IS_GRANT = "SELECT 1 FROM grants WHERE key = :key"
DELETE_GRANT = """
    DELETE FROM grants WHERE key = :key AND version = :version AND (sealed = :was OR :was IS NULL)
"""

# `taken`: 0 nobody has, > 0 who has, -1 a grant is held in it.
GET_DELEGATION = """
    SELECT key, context_key, brand, kind, expires_at, sealed FROM delegations WHERE key = :key AND taken = 0
"""
INSERT_DELEGATION = """
    INSERT INTO delegations (key, context_key, brand, kind, expires_at, sealed)
    VALUES (:key, :context_key, :brand, :kind, :expires_at, :sealed)
"""
GET_TAKEN = """
    SELECT key, context_key, brand, kind, expires_at, sealed FROM delegations WHERE key = :key AND taken <> 0
"""
IS_TAKEN = """
    SELECT 1 FROM delegations WHERE key = :key AND taken <> 0 AND (sealed = :was OR :was IS NULL)
"""
CHANGE_TAKEN = """
    UPDATE delegations SET sealed = :sealed, expires_at = :expires_at, taken = -1
    WHERE key = :key AND taken <> 0 AND sealed = :was
"""
END_TAKEN = "DELETE FROM delegations WHERE key = :key AND taken <> 0 AND sealed = :sealed"
TAKE_DELEGATION = "UPDATE delegations SET taken = :taker WHERE key = :key AND taken = 0"
GIVE_BACK_DELEGATION = "UPDATE delegations SET taken = 0 WHERE key = :key AND taken = :taker"
DELETE_DELEGATION = "DELETE FROM delegations WHERE key = :key"
VOID_CONTEXT = "DELETE FROM delegations WHERE context_key = :key"
VOID_BRAND = "DELETE FROM delegations WHERE brand = :brand"
PURGE_DELEGATIONS = "DELETE FROM delegations WHERE expires_at < :now AND (taken <= 0 OR expires_at < :taken)"

GET_OUTCOME = "SELECT key, context_key, brand, kind, purge_at, sealed FROM outcomes WHERE key = :key"
LATEST_OUTCOMES = """
    SELECT key, context_key, brand, kind, purge_at, sealed FROM outcomes
    WHERE context_key = :context_key AND purge_at > :after ORDER BY purge_at DESC LIMIT :limit
"""
INSERT_OUTCOME = """
    INSERT INTO outcomes (key, context_key, brand, kind, purge_at, sealed)
    VALUES (:key, :context_key, :brand, :kind, :purge_at, :sealed)
"""
PUT_OUTCOME = f"{INSERT_OUTCOME} ON CONFLICT (key) DO UPDATE SET purge_at = :purge_at, sealed = :sealed"
SET_OUTCOME = "UPDATE outcomes SET purge_at = :purge_at, sealed = :sealed WHERE key = :key"
FORGET_OUTCOMES = "DELETE FROM outcomes WHERE context_key = :key"
VOID_OUTCOMES = "DELETE FROM outcomes WHERE brand = :brand"
PURGE_OUTCOMES = "DELETE FROM outcomes WHERE purge_at < :now"

INSERT_REVOCATION = """
    INSERT INTO revocations (id, brand, due_at, give_up_at, sealed, tries)
    VALUES (:id, :brand, :due_at, :give_up_at, :sealed, :tries)
"""
DUE_REVOCATIONS = """
    SELECT id, brand, due_at, give_up_at, sealed, tries FROM revocations
    WHERE due_at <= :now ORDER BY due_at LIMIT :limit
"""
POSTPONE_REVOCATION = """
    UPDATE revocations SET tries = :tries, due_at = :due_at WHERE id = :id AND tries = :tries - 1
"""
IS_UNTRIED = "SELECT 1 FROM revocations WHERE id = :id AND tries = 0"
DROP_REVOCATION = "DELETE FROM revocations WHERE id = :id"

# One that was never due may never have to be.
_WAITING_REVOCATIONS = "SELECT count(*) FROM revocations WHERE tries > 0 OR due_at <= :now"
COUNT_OTHERS = f"SELECT (SELECT count(*) FROM delegations), ({_WAITING_REVOCATIONS})"  # noqa: S608 constants only
STOCK_GRANTS = "SELECT brand, kind, count(*) FROM grants GROUP BY brand, kind"
STOCK_NEXT_DUE = """
    SELECT renew_at FROM grants
    WHERE brand = :brand AND renew_at IS NOT NULL AND unanswered = 0
      AND (retry_at IS NULL OR retry_at <= :now)
    ORDER BY renew_at LIMIT 1
"""
STOCK_REVOCATIONS = _WAITING_REVOCATIONS
STOCK_YOUNGEST_KEY = "SELECT max(created_at) FROM keys WHERE purpose = 'data'"

INSERT_KEY = """
    INSERT INTO keys (id, purpose, kek, wrapped, created_at, seals)
    VALUES (:id, :purpose, :kek, :wrapped, :created_at, :seals)
"""
IS_USED = """
    SELECT 1 FROM keys UNION ALL SELECT 1 FROM grants UNION ALL SELECT 1 FROM delegations
    UNION ALL SELECT 1 FROM outcomes UNION ALL SELECT 1 FROM revocations LIMIT 1
"""
WRAPPED = "SELECT id, wrapped FROM keys"
REWRAP_KEY = "UPDATE keys SET kek = :kek, wrapped = :wrapped WHERE id = :id"
COUNT_SEALS = "UPDATE keys SET seals = seals + :more WHERE id = :id"

# As the indexes have it, or they are not used.
SEALED_SO = f"substr(sealed, 1, {SEALED_HEAD}) = :head"

COUNT_SEALED = f"""
    SELECT (SELECT count(*) FROM grants WHERE {SEALED_SO})
         + (SELECT count(*) FROM delegations WHERE {SEALED_SO})
         + (SELECT count(*) FROM outcomes WHERE {SEALED_SO})
         + (SELECT count(*) FROM revocations WHERE {SEALED_SO})
"""  # noqa: S608 constants only
DROP_KEY = f"""
    DELETE FROM keys WHERE id = :id AND purpose = 'data'
      AND NOT EXISTS (SELECT 1 FROM grants WHERE {SEALED_SO})
      AND NOT EXISTS (SELECT 1 FROM delegations WHERE {SEALED_SO})
      AND NOT EXISTS (SELECT 1 FROM outcomes WHERE {SEALED_SO})
      AND NOT EXISTS (SELECT 1 FROM revocations WHERE {SEALED_SO})
"""  # noqa: S608 constants only
RESEAL = {
    "grants": "UPDATE grants SET sealed = :anew WHERE key = :key AND sealed = :sealed",
    "delegations": "UPDATE delegations SET sealed = :anew WHERE key = :key AND sealed = :sealed",
    "outcomes": "UPDATE outcomes SET sealed = :anew WHERE key = :key AND sealed = :sealed",
    "revocations": "UPDATE revocations SET sealed = :anew WHERE id = :id AND sealed = :sealed",
}


@dataclass(frozen=True, slots=True)
class LeaseStatements:
    """What looks at leases; each store has a clock of its own for them."""

    get: str
    due: str
    after: str
    ended: str
    acquire: str
    count: str


def lease_statements(*, leased: str, begin: str) -> LeaseStatements:
    """`leased`: that a row's lease is not over, never NULL; `begin`: what sets one for :seconds."""
    select = f"""
        SELECT key, brand, kind, version, sealed, purge_at, renew_at,
               unanswered, failures, retry_at, reason, {leased} FROM grants WHERE
    """  # noqa: S608 constants only
    due = "renew_at <= :now AND unanswered = 0 AND (retry_at IS NULL OR retry_at <= :now) AND NOT " + leased
    return LeaseStatements(
        get=select + "key = :key",
        due=select + f"brand = :brand AND {due} ORDER BY renew_at LIMIT :limit",
        after=select + "key > :key AND (brand = :brand OR :brand IS NULL) ORDER BY key LIMIT :limit",
        ended=select + "purge_at <= :now ORDER BY purge_at LIMIT :limit",
        acquire=f"""
            UPDATE grants SET lease_owner = :owner, {begin}, unanswered = unanswered + 1
            WHERE key = :key AND version = :version AND (sealed = :was OR :was IS NULL)
              AND unanswered = :unanswered AND NOT {leased}
        """,  # noqa: S608 constants only
        count=f"""
            SELECT brand, kind, count(*), count(*) FILTER (WHERE unanswered > 0),
                   count(*) FILTER (WHERE {due})
            FROM grants GROUP BY brand, kind
        """,  # noqa: S608 constants only
    )
