"""Every table of the ledger's database. Ids and hashes are BLOBs, times are milliseconds since 1970.

Three sorts of table lie here. *Facts* are appended and never changed: `ledger`, `duplicate`, `companion`, `link`,
`lost`, `decision` (but for its delivery times), `received`, `alarm` (but for its settlement). *Projections* can be
dropped and folded again from the facts: `sale`, `voiding`, `sales_by_hour`, `sales_by_quarter`, `product_day`,
`products_by_day`, `member_stats`. The rest is what the server has to remember to serve its tills and head office's own
people. Nothing here names a customer: identifiers lie sealed in `vault_item`, under keys that lie in another file, and
every hash that stands for somebody or something said is keyed.

Tables whose key is not their row number are stored by that key (`WITHOUT ROWID`), which saves the second tree.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, ForeignKey, Index, PrimaryKeyConstraint, Table, Text, UniqueConstraint, text

from . import columns, schema_accounts, schema_fleet
from .columns import blob as _blob
from .columns import flag as _flag
from .columns import integer as _int
from .columns import keyed as _keyed
from .columns import text as _text

metadata: Final = columns.metadata

# Places, devices and permissions

store = _keyed(
    "store", _text("retailer"), _text("store"), _int("created_ms"), PrimaryKeyConstraint("retailer", "store")
)

till = Table(
    "till",
    metadata,
    _blob("till_id"),
    _text("retailer"),
    _text("store"),
    _text("till"),
    _int("created_ms"),
    _int("revoked_ms", null=True),
    _int("push_seq", default=0),
    PrimaryKeyConstraint("till_id"),
    UniqueConstraint("retailer", "store", "till"),
    Index("ix_till_revoked", "retailer", "store", "till", sqlite_where=text("revoked_ms IS NOT NULL")),
)

device = Table(
    "device",
    metadata,
    _blob("key_id"),
    _blob("till_id", ForeignKey("till.till_id")),
    _blob("public_key"),
    _int("created_ms"),
    _int("revoked_ms", null=True),
    _text("agent_version"),
    _text("platform"),
    PrimaryKeyConstraint("key_id"),
    Index(None, "till_id"),
)

token = Table(
    "token",
    metadata,
    _blob("token_hash"),
    _text("retailer"),
    _text("store"),
    _text("till", null=True),
    _int("uses_left"),
    _int("expires_ms"),
    _int("created_ms"),
    PrimaryKeyConstraint("token_hash"),
)

api_key = Table(
    "api_key",
    metadata,
    _blob("key_hash"),
    _text("role"),
    _int("created_ms"),
    PrimaryKeyConstraint("key_hash"),
)

console_user = schema_accounts.console_user
console_session = schema_accounts.console_session

till_status = Table(
    "till_status",
    metadata,
    _blob("till_id", ForeignKey("till.till_id")),
    _blob("epoch"),
    _int("position"),
    _int("queued"),
    _int("oldest_queued_ms"),
    _int("hook_p50"),
    _int("hook_p99"),
    _int("hook_max"),
    _int("disk_free"),
    _int("clock_ms"),
    _text("agent_version"),
    _text("last_error"),
    _int("seen_ms"),
    _int("dead_letters", default=0),
    _int("damaged_files", default=0),
    PrimaryKeyConstraint("till_id"),
)

# What was received

epoch = Table(
    "epoch",
    metadata,
    _blob("till_id"),
    _blob("epoch"),
    _blob("parent"),
    _int("parent_position"),
    _int("first_seen_ms"),
    _blob("device_key_id", null=True),
    PrimaryKeyConstraint("till_id", "epoch"),
    Index(None, "till_id", "parent", "parent_position"),
)
"""Where each epoch says that it begins. `device_key_id` is the device that wrote it, unknown for the oldest rows."""

high_water = _keyed(
    "high_water",
    _blob("till_id"),
    _blob("epoch"),
    _int("position"),
    _int("at_ms"),
    PrimaryKeyConstraint("till_id", "epoch"),
)
"""The highest position of each epoch that a device has signed, in a heartbeat or as where another epoch begins, and
when it was first heard. A position is the next free seq: every record below it was captured."""

alarm = Table(
    "alarm",
    metadata,
    _int("id"),
    _blob("till_id"),
    _text("kind"),
    _blob("epoch"),
    _blob("other"),
    _int("first_seq"),
    _int("last_seq", null=True),
    _int("first_seen_ms"),
    _int("settled_ms", null=True),
    _text("note", null=True),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("till_id", "kind", "epoch", "other", "first_seq"),
    Index("ix_alarm_open", "till_id", sqlite_where=text("settled_ms IS NULL")),
)
"""What does not fit together in a till's history; `ledger.alarms` says what the kinds and columns mean."""

received = _keyed(
    "received",
    _blob("till_id"),
    _blob("epoch"),
    _int("first_seq"),
    _int("last_seq"),
    PrimaryKeyConstraint("till_id", "epoch", "first_seq"),
)

ledger = Table(
    "ledger",
    metadata,
    _int("id"),
    _text("retailer"),
    _text("store"),
    _blob("till_id"),
    _blob("epoch"),
    _int("seq"),
    _int("kind"),
    _text("body_type"),
    _int("at_ms"),
    _text("business_date", null=True),
    _int("captured_ms"),
    _int("received_ms"),
    _blob("idem", null=True),
    _blob("content"),
    _blob("digest"),
    _int("revision"),
    _blob("subject", null=True),
    _text("currency", null=True),
    _int("amount_minor", null=True),
    _flag("training"),
    _blob("body"),
    _flag("reconciles", null=True),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("till_id", "epoch", "seq"),
    Index(
        "uq_ledger_retailer_idem_content",
        "retailer",
        "idem",
        "content",
        unique=True,
        sqlite_where=text("idem IS NOT NULL"),
    ),
)
"""`kind` is the frame's kind number and `body_type` the body's tag; `body` is what `ledger.bodies` reads. `idem`,
`content` and `digest` are keyed hashes of the idempotency key, the canonical content and the opened record; the first
three bytes of `idem` are the business date, so that a day's rows lie together in every index.
`training` is 1 for training and test transactions, which are in no projection."""

duplicate = _keyed(
    "duplicate",
    _blob("till_id"),
    _blob("epoch"),
    _int("seq"),
    _int("ledger_id", ForeignKey("ledger.id")),
    _blob("digest"),
    _int("captured_ms"),
    _int("received_ms"),
    PrimaryKeyConstraint("till_id", "epoch", "seq"),
    Index(None, "ledger_id", "captured_ms", "seq"),
)
"""A name whose content the ledger already had under another name. It counts for the order of revisions:
the index has the highest of its names at one end, however often a content came."""

companion = _keyed(
    "companion",
    _int("ledger_id", ForeignKey("ledger.id")),
    _blob("subject"),
    PrimaryKeyConstraint("ledger_id", "subject"),
)
"""The further subjects of a record that came with several identifiers: evidence for links, never a merge."""

link = _keyed(
    "link",
    _int("ledger_id", ForeignKey("ledger.id")),
    _text("relation"),
    _blob("target"),
    PrimaryKeyConstraint("ledger_id", "relation", "target"),
    Index(None, "target", sqlite_where=text("relation = 'original'")),
)
"""What a transaction refers to, by the keyed hash of the other's idempotency key; the body's own may be masked."""

lost = _keyed(
    "lost",
    _int("ledger_id", ForeignKey("ledger.id")),
    _blob("till_id"),
    _blob("epoch"),
    _int("first_seq"),
    _int("last_seq", null=True),
    _int("chunk"),
    _text("reason"),
    PrimaryKeyConstraint("ledger_id"),
    Index(None, "till_id", "epoch"),
)
"""Records that their till says it cannot send; without `last_seq`, from the first on, nobody knows how many. One that
turns up after all is taken like any other."""

dead_letter = Table(
    "dead_letter",
    metadata,
    _int("id"),
    _text("retailer"),
    _blob("till_id"),
    _blob("epoch"),
    _int("seq"),
    _text("code"),
    _text("reason"),
    _blob("header"),
    _blob("frame"),
    _int("received_ms"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("till_id", "epoch", "seq"),
)

quarantine = Table(
    "quarantine",
    metadata,
    _int("id"),
    _blob("till_id"),
    _text("reason"),
    _blob("digest"),
    _blob("body"),
    _int("received_ms"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("digest"),
    Index(None, "till_id"),
)

conflict = Table(
    "conflict",
    metadata,
    _int("id"),
    _blob("till_id"),
    _blob("epoch"),
    _int("seq"),
    _blob("digest"),
    _blob("header"),
    _blob("frame"),
    _int("received_ms"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("till_id", "epoch", "seq", "digest"),
)
"""A record under a name that the ledger holds with another content: kept, never taken."""

# Webhooks

source = Table(
    "source",
    metadata,
    _blob("till_id", ForeignKey("till.till_id")),
    _text("kind"),
    _text("name"),
    _text("adapter"),
    _text("url"),
    _text("currency", null=True),
    _text("zone"),
    _text("options"),
    _blob("secret"),
    _blob("former_secret", null=True),
    _int("former_until_ms", null=True),
    _int("created_ms"),
    _int("revoked_ms", null=True),
    PrimaryKeyConstraint("till_id"),
    Index("uq_source_kind_name", "kind", "name", unique=True, sqlite_where=text("revoked_ms IS NULL")),
)
"""A cloud POS's account, which is a till of the server's own. Its secrets are sealed, each with its nonce before it."""

hook_event = _keyed(
    "hook_event",
    _blob("till_id", ForeignKey("till.till_id")),
    _blob("event"),
    _text("outcome"),
    _int("received_ms"),
    PrimaryKeyConstraint("till_id", "event"),
)
"""Deliveries that a source has made, by a keyed hash: one that comes again changes nothing."""

hinted_order = _keyed(
    "hinted_order",
    _blob("till_id", ForeignKey("till.till_id")),
    _text("pos_id"),
    _int("version"),
    _text("state"),
    _text("location"),
    _int("hinted_ms"),
    PrimaryKeyConstraint("till_id", "pos_id"),
)
"""Orders that a vendor named without telling what is in them: nobody's ids but the vendor's."""

refusal = _keyed("refusal", _text("reason"), _int("count"), PrimaryKeyConstraint("reason"))

# Customers

identifier = _keyed(
    "identifier",
    _blob("hash"),
    _blob("subject"),
    _text("retailer"),
    PrimaryKeyConstraint("hash"),
    Index(None, "subject"),
)

subject = _keyed("subject", _blob("subject"), _text("retailer"), _int("created_ms"), PrimaryKeyConstraint("subject"))

vault_item = _keyed(
    "vault_item",
    _blob("subject"),
    _text("field"),
    _blob("record"),
    _blob("nonce"),
    _blob("sealed"),
    PrimaryKeyConstraint("subject", "field", "record"),
)

# Projections

sale = Table(
    "sale",
    metadata,
    _int("ledger_id"),
    _int("counted_ms", null=True),
    _int("member", null=True),
    _int("place", null=True),
    PrimaryKeyConstraint("ledger_id"),
    Index(None, "place", "counted_ms", sqlite_where=text("place IS NOT NULL")),
    Index(None, "member", sqlite_where=text("member IS NOT NULL")),
)
"""One row for each transaction of whatever kind: which of its revisions holds, by (revision, changed_at,
captured_ms, seq, content). It has that revision's ledger id, so that rows are appended, and is found by its `idem`
through the ledger's index. All else is known to the ledger's row; the names under which it came again, to `duplicate`.

`counted_ms` is the ledger's `at_ms` where the transaction is in the figures: it sells, is neither training nor test,
and is not voided. `place` is there with it: a number for the ledger's till and store, by which whoever asks for tills
finds each of them with a seek, see `pipeline.projections.place_number`. `member` is there where it is besides a visit
of somebody: the number by which their visits are found, see `pipeline.projections.member_number`."""

voiding = _keyed(
    "voiding",
    _text("retailer"),
    _blob("target"),
    _blob("idem"),
    PrimaryKeyConstraint("retailer", "target", "idem"),
    Index(None, "retailer", "idem"),
)
"""Transaction `idem` voids transaction `target`, whichever of them came first."""

sales_by_hour = _keyed(
    "sales_by_hour",
    _text("retailer"),
    _text("store"),
    _int("hour_ms"),
    _text("currency"),
    _int("transactions"),
    _int("amount_minor"),
    _int("lines"),
    PrimaryKeyConstraint("retailer", "store", "hour_ms", "currency"),
)
"""`hour_ms` is the local hour as `facts.local_hour_ms` gives it."""

sales_by_quarter = _keyed(
    "sales_by_quarter",
    _int("hour_ms"),
    _text("retailer"),
    _text("store"),
    _text("currency"),
    *(_int(f"{name}_{quarter}") for quarter in range(4) for name in ("transactions", "amount_minor")),
    PrimaryKeyConstraint("hour_ms", "retailer", "store", "currency"),
)
"""The four quarters of an hour of UTC, numbered from 0: every zone's days begin with one. `hour_ms` is the instant at
which the hour begins. A window of time lies together here, whatever stores it spans, and one store's hours are found by
a seek each; a store's history lies together in `sales_by_hour`."""

product_day = Table(
    "product_day",
    metadata,
    _int("id"),
    _text("retailer"),
    _text("business_date"),
    _text("store"),
    _text("currency"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("retailer", "business_date", "store", "currency"),
)
"""A store's business day in one currency. Its id is a hash of the others: see `pipeline.projections.day_id`."""

products_by_day = _keyed(
    "products_by_day",
    _int("day"),
    _text("sku"),
    _int("quantity_micro"),
    _int("amount_minor"),
    _int("lines"),
    PrimaryKeyConstraint("day", "sku"),
)
"""What a `product_day` sold. `quantity_micro` is in millionths of the line's unit. A sale writes more rows here than
anywhere else, so the key is short, and begins with a number."""

member_stats = _keyed(
    "member_stats",
    _blob("subject"),
    _text("currency"),
    _text("retailer"),
    _int("transactions"),
    _int("visits"),
    _int("spend_minor"),
    _int("last_visit_ms", null=True),
    Column("categories", Text, nullable=False, server_default=text("'{}'")),
    PrimaryKeyConstraint("subject", "currency"),
)
"""One row a member and currency, since amounts of two currencies cannot be added. A return is a transaction but no
visit; `last_visit_ms` is the latest visit paid in this currency. `categories` is JSON, category → [lines, amount], by
name: SQL reads it with `json_each`. It lies in the row because every sale changes both."""

# Campaigns and what became of them

decision = Table(
    "decision",
    metadata,
    _blob("offer_id"),
    _text("retailer"),
    _text("store"),
    _blob("till_id"),
    _int("ledger_id"),
    _text("campaign"),
    _int("campaign_version"),
    _text("outcome"),
    _text("reason", null=True),
    _text("decided_at"),
    _int("decided_ms"),
    _int("expires_ms"),
    _blob("lease", null=True),
    _blob("subject", null=True),
    _text("verdict", null=True),
    _blob("body"),
    _int("pushed_ms", null=True),
    _int("received_ms", null=True),
    _int("shown_ms", null=True),
    PrimaryKeyConstraint("offer_id"),
    Index(None, "retailer", "campaign"),
    Index(None, "lease", sqlite_where=text("lease IS NOT NULL")),
)
"""Facts: appended, and never made again by a rebuild. Only the three delivery times are filled in later."""

campaign = Table(
    "campaign",
    metadata,
    _text("retailer"),
    _text("id"),
    _int("version"),
    _blob("body"),
    _flag("active"),
    _int("created_ms"),
    _int("size", default=0),
    PrimaryKeyConstraint("retailer", "id", "version"),
    Index(None, "retailer", "active", "id", "size"),
)
"""Every version of each campaign, of which one at the most is active. `size` is what it takes in a pack, in bytes, so
that the book's room is known without reading the book."""

book_version = _keyed("book_version", _text("retailer"), _int("version"), PrimaryKeyConstraint("retailer"))

lease = Table(
    "lease",
    metadata,
    _blob("id"),
    _text("retailer"),
    _text("campaign"),
    _blob("till_id"),
    _int("units"),
    _int("issued_ms"),
    PrimaryKeyConstraint("id"),
    Index(None, "retailer", "campaign"),
)

push_outbox = Table(
    "push_outbox",
    metadata,
    _blob("till_id"),
    _int("seq"),
    _int("expires_ms"),
    _blob("body"),
    _int("created_ms"),
    _int("received_ms", null=True),
    PrimaryKeyConstraint("till_id", "seq"),
)

# The fleet

failed_enrolment = schema_fleet.failed_enrolment
till_settings = schema_fleet.till_settings
rollout = schema_fleet.rollout
till_config = schema_fleet.till_config

PROJECTIONS: Final = (
    sale,
    voiding,
    sales_by_hour,
    sales_by_quarter,
    product_day,
    products_by_day,
    member_stats,
)
"""The tables that `pipeline.rebuild` drops and folds again."""
