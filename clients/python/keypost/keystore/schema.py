"""The tables of the local key store, as migrations: only ever append one.

``PRAGMA user_version`` counts the migrations that were applied. The comment above a table
names its sealed columns; the others are in the clear. Nothing newer than SQLite 3.31 is used: the library of the
machine may be old.
"""

from __future__ import annotations

APPLICATION_ID = 0x4B505354  # "KPST": tells a key store from any other SQLite file

_FIRST = (
    # Sealed at rest: sealed_data_key, under the key that unlocks.
    """CREATE TABLE unlock (
        id INTEGER PRIMARY KEY CHECK (id = 1), kind TEXT NOT NULL, parameters TEXT NOT NULL,
        sealed_data_key BLOB NOT NULL)""",
    # Sealed at rest: bundle.
    """CREATE TABLE profile (
        id INTEGER PRIMARY KEY CHECK (id = 1), realm TEXT NOT NULL, bundle BLOB NOT NULL, address TEXT)""",
    # Sealed at rest: signed.
    """CREATE TABLE realm_trust (
        id INTEGER PRIMARY KEY CHECK (id = 1), sequence INTEGER NOT NULL, signed BLOB NOT NULL)""",
    # Sealed at rest: value.
    "CREATE TABLE notes (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    # Sealed at rest: private_key, key_request.
    """CREATE TABLE key_pairs (
        fingerprint BLOB PRIMARY KEY, suite INTEGER NOT NULL, private_key BLOB NOT NULL,
        key_request BLOB NOT NULL, state TEXT NOT NULL CHECK (state IN ('pending', 'current', 'replaced')),
        replaced_time INTEGER, CHECK ((state = 'replaced') = (replaced_time IS NOT NULL)))""",
    "CREATE UNIQUE INDEX one_pending ON key_pairs (state) WHERE state = 'pending'",
    "CREATE UNIQUE INDEX one_current ON key_pairs (state) WHERE state = 'current'",
    # Sealed at rest: key_info.
    """CREATE TABLE records (
        username TEXT PRIMARY KEY, epoch INTEGER NOT NULL, revision INTEGER NOT NULL,
        this_update INTEGER NOT NULL, key_info BLOB NOT NULL)""",
    # Sealed at rest: pins.
    "CREATE TABLE pins (username TEXT PRIMARY KEY, pins BLOB NOT NULL)",
    # Sealed at rest: previous, current.
    """CREATE TABLE evidence (
        id INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT NOT NULL, reason TEXT NOT NULL, time INTEGER NOT NULL,
        digest BLOB NOT NULL UNIQUE, previous BLOB NOT NULL, current BLOB NOT NULL)""",
    "CREATE INDEX evidence_of_user ON evidence (username)",
    "CREATE TABLE closed_keys (fingerprint BLOB PRIMARY KEY, time INTEGER NOT NULL, mark INTEGER NOT NULL)",
    """CREATE TABLE conversations (
        conversation TEXT PRIMARY KEY, last_counter INTEGER NOT NULL DEFAULT 0,
        highest_create_time INTEGER NOT NULL DEFAULT 0)""",
    # Sealed at rest: session_key, own_extension.
    """CREATE TABLE sessions (
        id INTEGER PRIMARY KEY AUTOINCREMENT, conversation TEXT NOT NULL REFERENCES conversations,
        key_id BLOB NOT NULL, suite INTEGER NOT NULL, creator TEXT NOT NULL, creator_fingerprint BLOB NOT NULL,
        create_time INTEGER NOT NULL, session_key BLOB NOT NULL,
        messages_sent INTEGER NOT NULL DEFAULT 0, own_extension BLOB, UNIQUE (conversation, key_id))""",
    "CREATE INDEX sessions_by_age ON sessions (create_time)",
    # Sealed at rest: statement.
    """CREATE TABLE statements (
        session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE, signer TEXT NOT NULL,
        statement BLOB NOT NULL, PRIMARY KEY (session, signer))""",
    """CREATE TABLE received_counters (
        sender TEXT NOT NULL, conversation TEXT NOT NULL, first INTEGER NOT NULL, highest INTEGER NOT NULL,
        missed INTEGER NOT NULL, PRIMARY KEY (sender, conversation)) WITHOUT ROWID""",
    """CREATE TABLE received (
        sender TEXT NOT NULL, message_id BLOB NOT NULL, conversation TEXT NOT NULL, counter INTEGER NOT NULL,
        time INTEGER NOT NULL, PRIMARY KEY (sender, message_id)) WITHOUT ROWID""",
    "CREATE INDEX received_by_counter ON received (sender, conversation, counter)",
    "CREATE INDEX received_by_age ON received (time)",
    # Sealed at rest: content.
    """CREATE TABLE inbox (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, sender TEXT NOT NULL, message_id BLOB NOT NULL,
        conversation TEXT NOT NULL, key_id BLOB NOT NULL, counter INTEGER NOT NULL, send_time INTEGER NOT NULL,
        accept_time INTEGER NOT NULL, missed INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('new', 'handed_out', 'handled')), size INTEGER NOT NULL,
        content BLOB NOT NULL, UNIQUE (sender, message_id))""",
    "CREATE INDEX inbox_unhandled ON inbox (sequence, size) WHERE state <> 'handled'",
    "CREATE INDEX inbox_handled ON inbox (accept_time) WHERE state = 'handled'",
    # Sealed at rest: envelope.
    """CREATE TABLE envelopes (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, list TEXT NOT NULL CHECK (list IN ('waiting', 'set_aside')),
        digest BLOB NOT NULL, accept_time INTEGER NOT NULL, receive_time INTEGER NOT NULL, reason TEXT NOT NULL,
        username TEXT NOT NULL, sealed_to BLOB NOT NULL, size INTEGER NOT NULL, envelope BLOB NOT NULL,
        UNIQUE (list, digest))""",
    "CREATE INDEX envelopes_by_user ON envelopes (list, username, sequence, size)",
    "CREATE INDEX envelopes_by_size ON envelopes (list, size)",
    "CREATE TABLE dropped (list TEXT PRIMARY KEY, count INTEGER NOT NULL)",
    # Sealed at rest: content.
    """CREATE TABLE outbox (
        message_id BLOB PRIMARY KEY, recipient TEXT NOT NULL, counter INTEGER NOT NULL,
        create_time INTEGER NOT NULL, size INTEGER NOT NULL, content BLOB NOT NULL)""",
    "CREATE INDEX outbox_by_recipient ON outbox (recipient, message_id)",
    # Sealed at rest: description.
    """CREATE TABLE files (
        id INTEGER PRIMARY KEY AUTOINCREMENT, sender TEXT NOT NULL, file_id BLOB NOT NULL, count INTEGER NOT NULL,
        size INTEGER NOT NULL, received INTEGER NOT NULL DEFAULT 0, received_size INTEGER NOT NULL DEFAULT 0,
        update_time INTEGER NOT NULL, description BLOB NOT NULL, UNIQUE (sender, file_id))""",
    "CREATE INDEX files_incomplete ON files (sender, update_time) WHERE received < count",
    # Sealed at rest: data.
    """CREATE TABLE file_parts (
        file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, position INTEGER NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (file, position))""",
)

# 0: the row's own sequence. Sealed rows are bound to it unless it is 0, as they were before.
_WHEN_ENVELOPES_CAME = ("ALTER TABLE envelopes ADD COLUMN came INTEGER NOT NULL DEFAULT 0",)

# Sealed rows are bound to it if it is 1.
_WHO_WAS_VERIFIED = ("ALTER TABLE inbox ADD COLUMN verified INTEGER NOT NULL DEFAULT 0",)

# No row: the count that begins at 0.
_COUNTING = ("CREATE TABLE counting (id INTEGER PRIMARY KEY CHECK (id = 1), base INTEGER NOT NULL)",)

# How often a message was handed out; 1 where that is all that was known before. And what a delivery cost so far.
_HOW_OFTEN = (
    "ALTER TABLE inbox ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE inbox ADD COLUMN set_aside INTEGER NOT NULL DEFAULT 0",
    "UPDATE inbox SET attempts = 1 WHERE state = 'handed_out'",
    "DROP INDEX inbox_unhandled",
    "CREATE INDEX inbox_unhandled ON inbox (sequence) WHERE state <> 'handled' AND set_aside = 0",
    "CREATE INDEX inbox_set_aside ON inbox (sequence) WHERE set_aside = 1",
    """CREATE TABLE attempts (
        digest BLOB PRIMARY KEY, count INTEGER NOT NULL, time INTEGER NOT NULL) WITHOUT ROWID""",
)

# Ids of one millisecond have no order among themselves; counters have.
_OUTBOX_BY_COUNTER = (
    "DROP INDEX outbox_by_recipient",
    "CREATE INDEX outbox_by_counter ON outbox (recipient, counter)",
)

_TRANSFERS = (
    # Sealed at rest: description.
    """CREATE TABLE transfers (
        file_id BLOB PRIMARY KEY, recipient TEXT NOT NULL, count INTEGER NOT NULL, size INTEGER NOT NULL,
        create_time INTEGER NOT NULL, next INTEGER NOT NULL, description BLOB NOT NULL)""",
)

# No part of what a sealed row is bound to: a trace is of no consequence to what goes out.
_TRACES = ("ALTER TABLE outbox ADD COLUMN trace_context TEXT NOT NULL DEFAULT ''",)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    _FIRST,
    _WHEN_ENVELOPES_CAME,
    _WHO_WAS_VERIFIED,
    _COUNTING,
    _HOW_OFTEN,
    _OUTBOX_BY_COUNTER,
    _TRANSFERS,
    _TRACES,
)
"""The statements of each migration, the oldest first."""
