"""Users: found or created at the door, and nobody sees another."""

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from chat_service.work import Work
from models.errors import Conflict, Invalid, NotFound
from models.ids import UserId, is_id, new_id
from models.inputs import NewUser, UserChanges
from models.prepared import Prepared
from models.rows import columns, one_row
from models.shapes import UserDict
from models.tables import users

_BY_ID = select(*columns(UserDict, users)).where(users.c.id == bindparam("user_id"))
_KEY_BY_ID = select(users.c.key).where(users.c.id == bindparam("user_id"))
_GET_KEY = Prepared(_KEY_BY_ID)

USER_KEY = _KEY_BY_ID.scalar_subquery()
"""The acting user's integer key; `user_id` is a parameter of every statement that holds it."""


def check_user_id(user_id: UserId) -> None:
    """Raise Invalid where this cannot be the id of a user."""
    if not is_id(user_id):
        raise Invalid("user_id is not a user's id: use the id that get_or_create_user returned.")


def get(connection: Connection, user_id: UserId) -> UserDict:
    """Return the user; raises NotFound."""
    check_user_id(user_id)
    user = one_row(connection, UserDict, _BY_ID, {"user_id": user_id})
    if user is None:
        raise _not_found()
    return user


def get_user_key(connection: Connection, user_id: UserId) -> int:
    """Return the integer key of the user; raises NotFound."""
    check_user_id(user_id)
    row = _GET_KEY.first(connection, {"user_id": user_id})
    if row is None:
        raise _not_found()
    return int(row[0])


def get_or_create(work: Work, new_user: NewUser) -> UserDict:
    """Return the user of this token or this name, created where there is none yet, and note that they were seen.

    A user who has a token is known by it and never by name; a name belongs to one user.
    """
    by_token = new_user.issuer is not None
    found = (
        (users.c.issuer == new_user.issuer) & (users.c.subject == new_user.subject)
        if by_token
        else (users.c.username == new_user.username) & users.c.issuer.is_(None)
    )
    seen = update(users).where(found).values(last_seen_at=work.now).returning(*columns(UserDict, users))
    user = one_row(work.connection, UserDict, seen)
    if user is not None:
        return user
    values = new_user.model_dump() | {"id": new_id(), "created_at": work.now, "last_seen_at": work.now}
    try:
        work.connection.execute(insert(users), values)
    except IntegrityError:
        raise Conflict("username belongs to another user: choose another name.") from None
    return get(work.connection, UserId(values["id"]))


def update_user(work: Work, user_id: UserId, changes: UserChanges) -> UserDict:
    """Change what is given and return the user; raises NotFound."""
    get(work.connection, user_id)
    values = changes.model_dump(exclude_unset=True)
    if values:
        work.connection.execute(update(users).where(users.c.id == user_id).values(values))
    return get(work.connection, user_id)


def _not_found() -> NotFound:
    return NotFound("There is no such user: get_or_create_user creates one.")
