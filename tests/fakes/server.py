"""An authorization server in memory: rotating refresh tokens, and a family that dies of a replay."""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode, urlsplit

from tokenvault_sidecar.core.delegations import code_challenge
from tokenvault_sidecar.core.errors import AnswerLost, InvalidGrant, InvalidIdToken
from tokenvault_sidecar.core.exchange import AuthorizationResponse
from tokenvault_sidecar.core.model import Secret
from tokenvault_sidecar.core.ports import (
    AuthorizationRequest,
    IdClaims,
    ServerFacts,
    TokenAnswer,
)


@dataclass
class Family:
    """What descends from one login."""

    account: str
    scopes: str
    nonce: str
    alive: bool = True
    refresh_token: str = ""


@dataclass
class Code:
    family: Family
    redirect_uri: str
    challenge: str
    used: bool = False


@dataclass
class FakeServer:
    """Implements AuthorizationServer. `faults` go off one per token request, before or after it acted."""

    clock: Callable[[], float]
    life: float | None = 300.0
    rotates: bool = True
    revokes: bool = True
    sends_iss: bool = True
    refreshed_id_tokens: bool = True
    issuer: str = "https://as.test"
    faults: deque[Exception] = field(default_factory=deque)
    late_faults: deque[Exception] = field(default_factory=deque)
    overrides: dict[str, object] = field(default_factory=dict)
    gate: asyncio.Event | None = None
    gated: frozenset[str] = frozenset({"exchange", "refresh", "revoke"})
    prepare_fault: Exception | None = None
    renewed_account: str | None = None

    def __post_init__(self) -> None:
        self.codes: dict[str, Code] = {}
        self.access_tokens: dict[str, Family] = {}
        self.refresh_tokens: dict[str, Family] = {}
        self.revoked: list[tuple[str, str]] = []
        self.requests: list[str] = []
        self.redeemed: list[str] = []
        self._numbers = itertools.count(1)

    # the consumer's side

    def login(self, url: str, account: str = "alice") -> AuthorizationResponse:
        """The consumer logs in and consents."""
        query = {k: v[0] for k, v in parse_qs(urlsplit(url).query).items()}
        family = Family(account, query["scope"], query["nonce"])
        code = f"code-{next(self._numbers)}"
        self.codes[code] = Code(family, query["redirect_uri"], query["code_challenge"])
        return AuthorizationResponse(
            Secret(query["state"]), Secret(code), self.issuer if self.sends_iss else None
        )

    def answers(self, access_token: str) -> bool:
        """Whether the brand's API answers 200 to this token."""
        family = self.access_tokens.get(access_token)
        return family is not None and family.alive

    # the port

    @property
    def facts(self) -> ServerFacts:
        return ServerFacts(self.issuer, self.sends_iss, self.revokes)

    async def prepare(self, *, keys: bool = False) -> ServerFacts:
        if self.prepare_fault is not None:
            raise self.prepare_fault
        return self.facts

    async def authorization_url(self, request: AuthorizationRequest) -> str:
        query = {
            "redirect_uri": request.redirect_uri,
            "scope": " ".join(request.scopes),
            "state": request.state.reveal(),
            "nonce": request.nonce.reveal(),
            "code_challenge": request.code_challenge,
            **request.parameters,
        }
        return f"{self.issuer}/authorize?{urlencode(query)}"

    async def exchange(self, code: Secret, *, redirect_uri: str, code_verifier: Secret) -> TokenAnswer:
        self.requests.append("authorization_code")
        await self._before("exchange")
        known = self.codes.get(code.reveal())
        if (
            known is None
            or known.used
            or known.redirect_uri != redirect_uri
            or known.challenge != code_challenge(code_verifier)
        ):
            raise InvalidGrant
        known.used = True
        return self._answer(known.family, known.family.nonce)

    async def refresh(self, refresh_token: Secret) -> TokenAnswer:
        self.requests.append(f"refresh_token {refresh_token.reveal()}")
        await self._before("refresh")
        self.redeemed.append(refresh_token.reveal())
        family = self.refresh_tokens.get(refresh_token.reveal())
        if family is None or not family.alive:
            raise InvalidGrant
        if family.refresh_token != refresh_token.reveal():
            family.alive = False  # a replay: the whole family is revoked
            raise InvalidGrant
        return self._answer(family, None)

    async def revoke(self, token: Secret, *, hint: str) -> None:
        self.requests.append(f"revoke {hint}")
        await self._before("revoke")
        self.revoked.append((hint, token.reveal()))
        if hint == "refresh_token" and (family := self.refresh_tokens.get(token.reveal())):
            family.alive = False
        self.access_tokens.pop(token.reveal(), None)

    async def verify_id_token(self, id_token: Secret, *, nonce: Secret | None, now: float) -> IdClaims:
        claims = json.loads(id_token.reveal())
        if claims["exp"] <= now or (nonce is not None and claims["nonce"] != nonce.reveal()):
            raise InvalidIdToken("the id token is not meant for this delegation")
        return IdClaims(claims["sub"], claims["exp"])

    async def _before(self, request: str) -> None:
        if self.gate is not None and request in self.gated:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.popleft()

    def _answer(self, family: Family, nonce: str | None) -> TokenAnswer:
        number = next(self._numbers)
        if self.rotates or not family.refresh_token:
            family.refresh_token = f"refresh-{number}"
            self.refresh_tokens[family.refresh_token] = family
        self.access_tokens[f"access-{number}"] = family
        answer: dict[str, object] = {
            "access_token": f"access-{number}",
            "token_type": "Bearer",
            "scope": family.scopes,
            "refresh_token": family.refresh_token,
        }
        if self.life is not None:
            answer["expires_in"] = self.life
        if "openid" in family.scopes.split() and (nonce is not None or self.refreshed_id_tokens):
            subject = family.account if nonce else self.renewed_account or family.account
            claims = {"sub": subject, "nonce": nonce, "exp": self.clock() + 600}
            answer["id_token"] = json.dumps(claims, separators=(",", ":"))
        answer.update(self.overrides)
        if self.late_faults:
            raise self.late_faults.popleft()
        return {k: v for k, v in answer.items() if v is not None}


def lost() -> AnswerLost:
    return AnswerLost("no answer")
