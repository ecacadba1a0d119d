"""TensorBoard's event files, as bytes: tensorboardX's own writer hands them to a thread, which dies of a full disk
without a word and leaves who writes waiting for ever."""

from __future__ import annotations

import os
import socket
import struct
import time

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

VERSION = "brain.Event:2"


def file_name() -> str:
    """A name that TensorBoard takes for an event file's, another one in every process."""
    return f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"


def beginning(purge_step: int) -> bytes:
    """What a file begins with. Of earlier files, TensorBoard leaves out what is of `purge_step` or later."""
    purge = Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START))
    return tf_record(Event(wall_time=time.time(), file_version=VERSION)) + tf_record(purge)


def scalar_event(tag: str, value: float, step: int) -> bytes:
    """A number at a step."""
    return tf_record(Event(wall_time=time.time(), step=step, summary=scalar(tag, value)))


def tf_record(event: Event) -> bytes:
    """An event as a TFRecord: length, its checksum, the content, its checksum."""
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return b"".join((length, next(checksums), content, next(checksums)))
