"""What is put together from serialised messages is what protobuf would have written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keypost.delivery.v1 import delivery_service_pb2 as pb
from keypost_services.runtime.wire import head, varint


@given(st.binary(max_size=40_000) | st.just(bytes(2_097_152)))
def test_a_message_in_a_field_is_its_head_and_its_bytes(envelope: bytes) -> None:
    whole = pb.ReceiveResponse(batch=pb.Batch(deliveries=[pb.Delivery(envelope=envelope)])).SerializeToString()
    delivery = pb.Delivery(envelope=envelope).SerializeToString()
    batch = head(pb.Batch.DELIVERIES_FIELD_NUMBER, len(delivery)) + delivery
    assert head(pb.ReceiveResponse.BATCH_FIELD_NUMBER, len(batch)) + batch == whole


@given(st.integers(min_value=1, max_value=2**63 - 1))
def test_a_number_is_written_as_protobuf_writes_it(number: int) -> None:
    field, written = pb.Stored.ACCEPT_TIME_FIELD_NUMBER, pb.Stored(accept_time=number).SerializeToString()
    assert varint(field << 3) + varint(number) == written
