#!/usr/bin/env python3
"""Writes seeds/TARGET from the contract's examples, for whoever changes those."""
import json, os, pathlib

os.chdir(pathlib.Path(__file__).parent)
vectors = json.load(open("../proto/tests/vectors.json"))


def varint(n):
    n &= (1 << 64) - 1
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def message(fields):
    """Protobuf of [(number, value)]; values are str, bytes or int."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def seed(target, name, data):
    path = pathlib.Path("seeds") / target
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(data.encode() if isinstance(data, str) else data)


hexed = lambda fields, name: bytes.fromhex(fields[name])
for case in vectors["cases"]:
    name, f, signature = case["name"], case["fields"], bytes.fromhex(case["signature_hex"])
    if name.startswith("command"):
        data = message([(1, f["protocol_version"]), (2, f["device_session_id"]), (3, f["message_type"]), (4, f["request_id"]), (5, f["timestamp_ms"]),
                        (6, hexed(f, "payload_hex")), (7, hexed(f, "payload_hash_hex")), (8, signature)])
        seed("command", name, data)
        seed("shape", name, data)
    elif name.startswith("subscribe"):
        data = message([(1, f["protocol_version"]), (2, f["device_session_id"]), (3, f["request_id"]), (4, f["timestamp_ms"]), (5, signature),
                        (6, f["last_event_id"])])
        seed("subscribe", name, data)
        seed("shape", name, data)
        seed("cursor", name, f["last_event_id"])
    elif name.startswith("event"):
        data = message([(1, f["event_id"]), (2, f["event_type"]), (3, f["user_id"]), (4, f["timestamp_ms"]), (5, hexed(f, "payload_hex")), (7, signature),
                        (8, vectors["gateway"]["key_id"]), (11, bytes(32)), (11, bytes(32)), (12, 1), (13, 4)])
        seed("event", name, data)
        seed("client_event", name, b"\xfe".join([b"\0" + f["user_id"].encode(), b"\1ds-1", b"\2" + f["event_type"].encode(), b"\3" + hexed(f, "payload_hex")]))
seed("cursor", "bookmark", "1795257584454-18446744073709551615")
key = vectors["device"]["public_key_base64"]
for status, more in (("active", ""), ("revoked", ',"revoked_at_ms":2')):
    seed("session_json", status, f'{{"device_session_id":"ds-1","user_id":"u-1","public_key":"{key}","status":"{status}","updated_at_ms":1{more}}}')
    seed("session_fields", status, b"\xfe".join([b"\0ds-1", b"\1u-1", b"\2" + key.encode(), b"\3" + status.encode(), b"\4" + b"1", b"\5" + b"2"]))
record = message([(1, "0197"), (2, 1767225600000000), (3, "u-1"), (5, "ds-1"), (7, "command"), (8, "orders.create"), (11, "success"), (15, 9), (19, 1)])
seed("audit_batch", "two", message([(1, record), (1, record)]))
seed("key", "private", vectors["gateway"]["private_key_pem"])
seed("key", "public", key)
seed("key", "raw", bytes.fromhex(vectors["cases"][0]["signature_hex"]) * 2)
for text in ("1H", "99999999m", "5S"):
    seed("grpc_timeout", text, text)
for i, text in enumerate(("/shop/a%20b\nhost:1", "http://a:1/..%2fb\na:1", "*\n")):
    seed("http_head", str(i), text)
for i, text in enumerate(("127.0.0.1:9001", "http://orders:80/", "unix:/run/a.sock", "[::1]:9")):
    seed("address", str(i), text)
seed("configuration", "sample", open("../systemd/gateway.toml").read()[:4000])
seed("configuration", "register", json.dumps({"active": "fa66b6987fc706f8", "keys": [
    {"key_id": "fa66b6987fc706f8", "public_key": vectors["gateway"].get("public_key_base64", ""), "added_at_ms": 1}]}))
