"""Large orders are stored like others, with what they were read from as far as a record has room for it."""

from __future__ import annotations

import base64
import os

import pytest

from support.hooks import WOOCOMMERCE, Cloud, altered
from support.serving import Server
from tillstream_server import office
from tillstream_server.admin import CommandFailed


@pytest.fixture
def cloud(server: Server) -> Cloud:
    return Cloud(server)


def noted(*notes: str) -> bytes:
    """The genuine order with notes of a plugin's."""
    return altered(WOOCOMMERCE, meta_data=[{"id": n, "key": "note", "value": note} for n, note in enumerate(notes)])


async def original(cloud: Cloud) -> bytes:
    """What the ledger's only record was read from."""
    ((epoch, seq),) = [(row["epoch"].hex(), row["seq"]) for row in await cloud.sales()]
    asked = office.RecordOriginal("acme", "north", "woocommerce", epoch, seq, "an audit")
    return base64.b64decode((await cloud.server.order(asked))["data"])


async def test_an_order_of_nearly_a_mebibyte_comes_back_identical(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    body = noted(*("to be read by the customer " * 740 for _ in range(50)))
    assert 999_000 < len(body) < 1024 * 1024
    assert (await cloud.woocommerce(body)).json()["outcome"] == "stored"
    assert await original(cloud) == body
    assert (await cloud.revenue())["amount_minor"] == {"USD": 2935}


async def test_one_whose_bytes_do_not_compress_is_stored_without_them_and_counted(cloud: Cloud) -> None:
    await cloud.source("woocommerce")
    body = noted(*(base64.b64encode(os.urandom(18_000)).decode() for _ in range(41)))
    assert 980_000 < len(body) < 1024 * 1024
    assert (await cloud.woocommerce(body)).json()["outcome"] == "stored"
    with pytest.raises(CommandFailed) as caught:
        await original(cloud)
    assert caught.value.code == "no_original"
    assert cloud.server.count("originals_left_out_total") == 1
    assert cloud.server.logged("records_set_aside")
    assert (await cloud.revenue())["amount_minor"] == {"USD": 2935}
