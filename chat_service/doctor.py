"""The doctor: looks the record over, from the file to the numbering of every session, and changes nothing."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, bindparam, func, literal, select, union_all
from typing_extensions import TypedDict

from chat_service import audit, upkeep
from models.database import Database
from models.tables import chat_sessions, messages, tool_call_references, tool_usages, users

_CHUNK = 200
_ENOUGH_FREE = 256 * 1_048_576
_SHOWN = 5


class Finding(TypedDict):
    """What one check found; `is_problem` where something is to be done, and `what` then says what."""

    check: str
    is_problem: bool
    what: str


Progress = Callable[[int, int], None]

_entries = union_all(
    select(messages.c.session_key, messages.c.seq, literal(1).label("is_message")),
    select(tool_usages.c.session_key, tool_usages.c.seq, literal(0).label("is_message")),
).subquery()
# A fork's own entries begin after what it inherits.
_inherited = func.coalesce(chat_sessions.c.forked_from_seq, 0)
_CHUNK_OF_SESSIONS = (
    select(chat_sessions.c.key)
    .where(chat_sessions.c.key > bindparam("after"))
    .order_by(chat_sessions.c.key)
    .limit(_CHUNK)
)
_BROKEN_NUMBERING = (
    select(chat_sessions.c.id)
    .join(users, users.c.key == chat_sessions.c.user_key)
    .outerjoin(_entries, (_entries.c.session_key == chat_sessions.c.key) & (_entries.c.seq > _inherited))
    .where(
        chat_sessions.c.key > bindparam("after"),
        chat_sessions.c.key <= bindparam("last"),
        # What is being deleted has lost some of its entries.
        users.c.deleted_at.is_(None),
    )
    .group_by(chat_sessions.c.key, chat_sessions.c.id)
    .having(
        (func.count(_entries.c.seq) != func.max(chat_sessions.c.last_seq - _inherited))
        | (func.count(_entries.c.seq.distinct()) != func.max(chat_sessions.c.last_seq - _inherited))
        | (func.coalesce(func.max(_entries.c.seq), func.max(_inherited)) != func.max(chat_sessions.c.last_seq))
        | (func.coalesce(func.min(_entries.c.seq), func.max(_inherited) + 1) != func.max(_inherited) + 1)
        | (func.coalesce(func.sum(_entries.c.is_message), 0) != func.max(chat_sessions.c.message_count))
        | (
            func.max(chat_sessions.c.last_seq - _inherited)
            != func.max(chat_sessions.c.message_count + chat_sessions.c.tool_usage_count)
        )
    )
)
_CALLS_WITHOUT_END = (
    select(func.count())
    .select_from(tool_call_references)
    .where(
        ~select(tool_usages.c.key)
        .where(
            tool_usages.c.session_key == tool_call_references.c.session_key,
            tool_usages.c.tool_call_id == tool_call_references.c.tool_call_id,
        )
        .exists()
    )
)


async def examine(url: str, progress: Progress) -> list[Finding]:
    """Run every check; raises Invalid or Unavailable where the database cannot be opened at all.

    `progress` is called with the sessions that are done and the sessions there are.
    """
    report = await upkeep.check(url)
    if not report["exists"]:
        return [_fine("file", f"{report['path']} does not exist yet: the first client creates it")]
    findings = [_judge_integrity(report["integrity"]), *_judge_file(report)]
    if report["schema_version"] < report["newest_version"]:
        return [*findings, _problem("schema", "is behind: run `mcp-chat-server db upgrade`")]
    findings.append(_fine("schema", f"version {report['schema_version']}, the newest"))
    async with Database(url, readers=1, deadline=600) as database:
        reason = (await database.health())["reason"]
        findings.append(_fine("journal", report["journal_mode"]) if reason is None else _problem("journal", reason))
        findings.append(await database.read(_judge_foreign_keys))
        findings.append(await _judge_numbering(database, progress))
        findings.append(await database.read(_judge_calls))
        findings.append(await _judge_audit_log(database))
    return findings


def _judge_integrity(integrity: str) -> Finding:
    if integrity == "ok":
        return _fine("integrity", "every page is sound")
    return _problem("integrity", "the file is damaged: run `mcp-chat-server db restore` with a backup")


def _judge_file(report: upkeep.FileReport) -> Iterator[Finding]:
    path = Path(report["path"])
    private = report["mode"].endswith("------")
    mode = f"{report['mode']}, {report['size'] / 1_048_576:.1f} MiB"
    yield _fine("file mode", mode) if private else _problem("file mode", f"{mode}: others may read it, chmod 600 it")
    free = shutil.disk_usage(path.parent).free
    space = f"{free / 1_048_576:.0f} MiB free"
    yield _fine("free space", space) if free >= _ENOUGH_FREE else _problem("free space", f"{space}: make some room")
    yield _fine("SQLite", f"{report['library']} {report['library_version']}")


def _judge_foreign_keys(connection: Connection) -> Finding:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(_SHOWN)
    if not broken:
        return _fine("references", "every row refers to one that exists")
    tables = ", ".join(sorted({row[0] for row in broken}))
    return _problem("references", f"rows of {tables} refer to none: restore a backup")


async def _judge_numbering(database: Database, progress: Progress) -> Finding:
    total = await database.read(_count_sessions)
    broken: list[str] = []
    after: int | None = 0
    done = 0
    while after is not None:
        # In chunks: each is a short read of its own, so that no snapshot is held for long.
        found, count, after = await database.read(partial(_broken_in_chunk, after=after))
        broken += found
        done += count
        progress(done, max(total, done))
    if not broken:
        return _fine("numbering", f"{done} sessions, each numbered from 1 without a gap")
    shown = ", ".join(broken[:_SHOWN])
    return _problem("numbering", f"{len(broken)} sessions have gaps or doubles ({shown}): restore a backup")


def _count_sessions(connection: Connection) -> int:
    count: int = connection.execute(select(func.count()).select_from(chat_sessions)).scalar_one()
    return count


def _broken_in_chunk(connection: Connection, after: int) -> tuple[list[str], int, int | None]:
    """Return the broken sessions of a chunk, how many it had, and where the next begins, or None."""
    keys = list(connection.execute(_CHUNK_OF_SESSIONS, {"after": after}).scalars())
    if not keys:
        return [], 0, None
    broken = connection.execute(_BROKEN_NUMBERING, {"after": after, "last": keys[-1]}).scalars()
    return list(broken), len(keys), keys[-1]


def _judge_calls(connection: Connection) -> Finding:
    count = connection.execute(_CALLS_WITHOUT_END).scalar_one()
    if not count:
        return _fine("tool calls", "each that a message asked for has its record")
    return _fine("tool calls", f"{count} that messages asked for have no record yet: still running, or never logged")


async def _judge_audit_log(database: Database) -> Finding:
    verified = audit.Verified()
    while not verified.is_over:
        verified = await database.read(partial(audit.verify_some, so_far=verified))
    if verified.broken_at is not None:
        return _problem("audit log", f"was changed by another program at row {verified.broken_at}: keep a copy")
    return _fine("audit log", f"{verified.rows} rows, each as it was written")


def _fine(check: str, what: str) -> Finding:
    return {"check": check, "is_problem": False, "what": what}


def _problem(check: str, what: str) -> Finding:
    return {"check": check, "is_problem": True, "what": what}
