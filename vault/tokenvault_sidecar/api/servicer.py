"""The service's RPCs: check the request, ask the policy, call the use-case, convert its answer."""

# ruff: noqa: N802 the methods have the names of the proto's RPCs

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import grpc

from tokenvault.v1 import token_vault_pb2 as pb
from tokenvault.v1.token_vault_pb2_grpc import TokenVaultServicer
from tokenvault_sidecar.api import requests, responses
from tokenvault_sidecar.api.calls import CallUnderWay, current_call
from tokenvault_sidecar.core.challenges import DelegationRequest
from tokenvault_sidecar.core.consent import Consent
from tokenvault_sidecar.core.delegations import Delegations
from tokenvault_sidecar.core.errors import ConfirmationRequired, ConsentNeeded
from tokenvault_sidecar.core.model import Context
from tokenvault_sidecar.core.policy import Call, Caller, Policy, Rpc
from tokenvault_sidecar.core.tokens import Tokens

_Context = grpc.aio.ServicerContext[Any, Any]


class Servicer(TokenVaultServicer):
    """`tokenvault.v1.TokenVault`, behind a Guard: it sets the caller, and turns errors into statuses."""

    def __init__(self, delegations: Delegations, tokens: Tokens, consent: Consent) -> None:
        self._delegations = delegations
        self._tokens = tokens
        self._consent = consent

    async def StartDelegation(
        self, request: pb.StartDelegationRequest, context: _Context
    ) -> pb.StartDelegationResponse:
        call, caller = _call()
        wanted = requests.delegation_request(request, caller.name)
        call.brand, call.context = wanted.brand, wanted.context
        wish = Call(Rpc.START_DELEGATION, wanted.brand, wanted.context.kind, wanted.scopes)
        wanted = replace(wanted, askable=Policy.check(caller, wish).scopes)
        return responses.challenge(await self._delegations.start(wanted))

    async def CompleteDelegation(
        self, request: pb.CompleteDelegationRequest, context: _Context
    ) -> pb.CompleteDelegationResponse:
        call, caller = _call()
        answer = requests.authorization_response(request)
        Policy.check(caller, Call(Rpc.COMPLETE_DELEGATION))

        def permit(brand: str, whose: Context) -> None:
            call.brand, call.context = brand, whose
            Policy.check(caller, Call(Rpc.COMPLETE_DELEGATION, brand, whose.kind))

        done = await self._delegations.complete(answer, caller=caller.name, permit=permit)
        call.not_heard = partial(self._delegations.not_heard, answer, done)
        return responses.delegated(done)

    async def ConfirmDelegation(
        self, request: pb.ConfirmDelegationRequest, context: _Context
    ) -> pb.ConfirmDelegationResponse:
        call, caller = _call()
        delegation_id, code = requests.delegation_id(request), requests.confirmation_code(request)
        Policy.check(caller, Call(Rpc.CONFIRM_DELEGATION))

        def permit(brand: str, whose: Context) -> None:
            call.brand, call.context = brand, whose
            Policy.check(caller, Call(Rpc.CONFIRM_DELEGATION, brand, whose.kind))

        return responses.confirmed(
            await self._delegations.confirmations.confirm(
                delegation_id, code, caller=caller.name, permit=permit
            )
        )

    async def WatchDelegation(
        self, request: pb.WatchDelegationRequest, context: _Context
    ) -> AsyncIterator[pb.WatchDelegationResponse]:
        call, caller = _call()
        delegation_id = requests.delegation_id(request)
        Policy.check(caller, Call(Rpc.WATCH_DELEGATION))

        def permit(brand: str, whose: Context) -> None:
            call.brand, call.context = brand, whose
            Policy.check(caller, Call(Rpc.WATCH_DELEGATION, brand, whose.kind))

        watching = self._delegations.outcomes.watch(delegation_id, caller=caller.name, permit=permit)
        async with aclosing(watching) as outcomes:
            async for outcome in outcomes:
                yield responses.outcome(outcome)

    async def GetToken(self, request: pb.GetTokenRequest, context: _Context) -> pb.GetTokenResponse:
        call, caller = _call()
        brand, whose = requests.brand_and_context(request)
        call.brand, call.context = brand, whose
        scopes = requests.scopes(request)
        wish = Call(Rpc.GET_TOKEN, brand, whose.kind, scopes, request.include_id_token)
        allow = Policy.check(caller, wish)
        wanted = requests.token_request(request, brand, whose, scopes, allow)
        challenge = _challenge(request, brand, whose, caller)
        try:
            token = await self._tokens.get(wanted)
        except ConsentNeeded:
            if challenge is not None:
                try:
                    call.detail = responses.consent_challenge(await self._consent.challenge(challenge))
                except ConfirmationRequired as waits:
                    call.detail = responses.confirmation_wanted(waits)
                    raise waits from None
            raise
        call.version = token.version
        return responses.token(token)

    async def Invalidate(self, request: pb.InvalidateRequest, context: _Context) -> pb.InvalidateResponse:
        call, caller = _call()
        brand, whose = requests.brand_and_context(request)
        call.brand, call.context = brand, whose
        Policy.check(caller, Call(Rpc.INVALIDATE, brand, whose.kind))
        return responses.invalidated(await self._tokens.invalidate(brand, whose))


def _call() -> tuple[CallUnderWay, Caller]:
    call = current_call.get()
    return call, call.known_caller


def _challenge(
    request: pb.GetTokenRequest, brand: str, whose: Context, caller: Caller
) -> DelegationRequest | None:
    """What to start where there is no token to give. Raises PolicyDenied where the caller may not."""
    if not request.HasField("challenge"):
        return None
    wanted = requests.challenge_options(request.challenge, brand, whose, caller.name)
    wish = Call(Rpc.START_DELEGATION, brand, whose.kind, wanted.scopes)
    return replace(wanted, askable=Policy.check(caller, wish).scopes)
