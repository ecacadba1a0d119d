"""TensorBoard's event files, as bytes. tensorboardX's own writer hands them to a thread, which a full disk ends without
a word, so that the program waits for that thread for ever."""

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
    """Returns a name by which TensorBoard recognizes an event file, different in every process."""
    return f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"


def beginning(purge_step: int) -> bytes:
    """Returns the first bytes of a file; TensorBoard then leaves out events of earlier files from `purge_step` on."""
    purge = Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START))
    return tf_record(Event(wall_time=time.time(), file_version=VERSION)) + tf_record(purge)


def scalar_event(tag: str, value: float, step: int) -> bytes:
    """Returns the bytes of an event: the value of the curve `tag` at a step."""
    return tf_record(Event(wall_time=time.time(), step=step, summary=scalar(tag, value)))


def tf_record(event: Event) -> bytes:
    """Returns an event as a TFRecord: the length and its checksum, then the content and its checksum."""
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return b"".join((length, next(checksums), content, next(checksums)))
