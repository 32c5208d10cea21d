"""Subscriptions: who listens to which resources, told when to read again, in both eras of the protocol.

- 2026-07-28: the answer to `subscriptions/listen` is a stream that stays open. It acknowledges first, and its frames
  carry the request's id.
- Older eras: `resources/subscribe` asks for `notifications/resources/updated` on the connection, until
  `resources/unsubscribe` or its end.

The SDK's own `ListenHandler` lets any caller watch any address and ends the stream of a slow reader. Here an address is
refused as reading it would be, and several changes of one resource that a reader has not taken yet are one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY, ResourceUpdated, event_to_notification

from models.ids import SessionId
from server.record import CallerSource
from server.resources import ResourceKind, refusing, session_of

MAX_ADDRESSES = 100
"""So many addresses one stream, or one connection of the older eras, may listen to."""

Context = ServerRequestContext[Any, Any]
_Addresses = Mapping[str, SessionId | None]


class Subscriptions:
    """Tells listeners which addresses to read again."""

    def __init__(self, kinds: Sequence[ResourceKind]) -> None:
        self._kinds = kinds

    async def listen(
        self, context: Context, caller: CallerSource, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Serve one stream until the client goes away or the server ends."""
        if context.request_id is None:
            raise MCPError(types.INVALID_REQUEST, "subscriptions/listen is a request: give it an id.")
        wanted = params.notifications
        addresses = self._addresses(wanted.resource_subscriptions or [])
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: context.request_id}
        # The lists of tools, prompts and resources never change: to promise news of them is cheap.
        honored = types.SubscriptionFilter(
            tools_list_changed=wanted.tools_list_changed or None,
            prompts_list_changed=wanted.prompts_list_changed or None,
            resources_list_changed=wanted.resources_list_changed or None,
            resource_subscriptions=list(addresses) or None,
        )
        acknowledged = types.SubscriptionsAcknowledgedNotification(
            params=types.SubscriptionsAcknowledgedNotificationParams(notifications=honored, _meta=meta)
        )
        with refusing():
            who = await caller()
            sessions, to_list = _topics(addresses)
            async with who.service.changes.listening(who.user_id, sessions, to_list=to_list) as listening:
                await context.session.send_notification(acknowledged, related_request_id=context.request_id)
                while changed := await listening.next():
                    for address in [address for address, session in addresses.items() if session in changed]:
                        updated = event_to_notification(ResourceUpdated(address), meta)
                        await context.session.send_notification(updated, related_request_id=context.request_id)
        return types.SubscriptionsListenResult(_meta=meta)

    async def subscribe(self, context: Context, caller: CallerSource, address: str) -> types.EmptyResult:
        """Tell this connection of the older eras from now on; a second time changes nothing."""
        (session,) = self._addresses([address]).values()
        forwarding = _forwarding_of(context.session)
        if address in forwarding:
            return types.EmptyResult()
        if len(forwarding) >= MAX_ADDRESSES:
            raise MCPError(types.INVALID_PARAMS, _TOO_MANY)
        listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        forward = _forward(context.session, caller, address, session, listening)
        forwarding[address] = asyncio.create_task(forward, name="telling a subscriber")
        # Ended before it began: there is nothing more to wait for.
        forwarding[address].add_done_callback(lambda _: _settle(listening))
        try:
            with refusing(address):
                await listening
        except BaseException:
            _end(forwarding, address)
            raise
        return types.EmptyResult()

    async def unsubscribe(self, context: Context, address: str) -> types.EmptyResult:
        """Tell this connection no more of an address."""
        _end(_forwarding_of(context.session), address)
        return types.EmptyResult()

    def _addresses(self, wanted: Sequence[str]) -> dict[str, SessionId | None]:
        if len(wanted) > MAX_ADDRESSES:
            raise MCPError(types.INVALID_PARAMS, _TOO_MANY)
        return {address: session_of(self._kinds, address) for address in wanted}


_TOO_MANY = f"At most {MAX_ADDRESSES} resources can be listened to at once: leave out what is not needed."

_Forwarding = dict[str, "asyncio.Task[None]"]


def _topics(addresses: _Addresses) -> tuple[set[SessionId], bool]:
    return {session for session in addresses.values() if session is not None}, None in addresses.values()


async def _forward(
    session: ServerSession,
    caller: CallerSource,
    address: str,
    session_id: SessionId | None,
    begun: "asyncio.Future[None]",
) -> None:
    try:
        who = await caller()
        sessions, to_list = _topics({address: session_id})
        async with who.service.changes.listening(who.user_id, sessions, to_list=to_list) as listening:
            _settle(begun)
            while await listening.next():
                await session.send_resource_updated(address)
    except Exception as error:
        if begun.done():
            raise
        begun.set_exception(error)


def _settle(begun: "asyncio.Future[None]") -> None:
    if not begun.done():
        begun.set_result(None)


def _forwarding_of(session: ServerSession) -> _Forwarding:
    # What outlives a request belongs to the connection, which the SDK gives to handlers under this name alone.
    connection = session._connection
    forwarding: _Forwarding | None = connection.state.get(__name__)
    if forwarding is None:
        forwarding = connection.state[__name__] = {}
        connection.exit_stack.callback(_end_all, forwarding)
    return forwarding


def _end_all(forwarding: _Forwarding) -> None:
    for address in list(forwarding):
        _end(forwarding, address)


def _end(forwarding: _Forwarding, address: str) -> None:
    task = forwarding.pop(address, None)
    if task is not None:
        task.cancel()
