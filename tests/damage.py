"""Damaged files: what a killed recorder leaves, and one random damage to a content."""

import pyarrow as pa
from samples import EPOCH, run

from perfkit.loadgen.recording import RequestBuffer
from perfkit.model.codec import dump_json
from perfkit.model.records import Check, Severity, Validity
from perfkit.model.serialization import run_to_document
from perfkit.runs.recording_stream import RECORDING_SCHEMA


def recording(path, rng, *, seconds=8, rate=30):
    """What the recorder of a run that was killed left; the number of requests of each second."""
    with pa.OSFile(str(path), "wb") as sink:
        stream = pa.ipc.new_stream(sink, RECORDING_SCHEMA)
        for second in range(seconds):
            buffer = RequestBuffer()
            for number in range(rate):
                failed = ValueError() if rng.random() < 0.05 else None
                buffer.on_request(
                    request_type="GET",
                    name=f"/items/{number % 7}",
                    response_time=float(rng.lognormal(3.0)),
                    response_length=200,
                    start_time=EPOCH + second + number / rate,
                    exception=failed,
                )
            stream.write_batch(buffer.take())
    return path


def killed_run(folder, rng):
    folder.mkdir()
    killed = Validity((Check("interrupted", "not finished", "no", Severity.INVALID, "killed"),))
    (folder / "started.json").write_text(dump_json(run_to_document(run({}, seconds=None, validity=killed))))
    return recording(folder / "requests.arrow", rng)


def damaged(content, rng):
    """A copy with one damage: bits, bytes, a stretch of zeros or of noise, a piece moved, doubled or cut off."""
    data = bytearray(content)
    at, size = int(rng.integers(len(data))), int(rng.choice([1, 4, 8, 64, 512]))
    match int(rng.integers(8)):
        case 0 | 1:
            data[at] ^= 1 << int(rng.integers(8))
        case 2:
            for place in rng.integers(len(data), size=int(rng.integers(2, 30))):
                data[int(place)] = int(rng.integers(256))
        case 3:
            del data[at:]
        case 4:
            data[at : at + size] = bytes(len(data[at : at + size]))
        case 5:
            data[at:at] = data[at : at + size]
        case 6:
            at -= at % 4
            data[at : at + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80"])
        case _:
            data[at : at + size] = rng.bytes(len(data[at : at + size]))
    return bytes(data)
