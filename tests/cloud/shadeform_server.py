"""A local stand-in for Shadeform: its API as far as it is published, with instances, bills and faults of its own.

Its clock moves by `advance`, and by `rate` seconds for each real one. Instances change with the clock; on_active and
on_gone are called as they begin and cease to run, so that a test can run an instance's script as a local process.
"""

import base64
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
CREATE: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["cloud", "region", "shade_instance_type", "shade_cloud", "name"],
    "properties": {
        **dict.fromkeys(("cloud", "region", "shade_instance_type", "name", "os", "template_id", "ssh_key_id"), TEXT),
        "shade_cloud": {"type": "boolean"},
        "rental_type": {"type": "string", "enum": ["on_demand", "spot"]},
        "tags": {"type": "array", "items": TEXT},
        "volume_ids": {"type": "array", "items": TEXT, "maxItems": 1},
        "alert": {"type": "object"},
        "volume_mount": {"type": "object"},
        "envs": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "value"],
                "properties": {"name": TEXT, "value": {"type": "string"}},
            },
        },
        "auto_delete": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "date_threshold": {
                    "type": "string",
                    "pattern": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
                },
                "spend_threshold": {"type": "string", "pattern": r"\d+(\.\d+)?"},
            },
        },
        "launch_configuration": {
            "type": "object",
            "additionalProperties": False,
            "required": ["type"],
            "properties": {
                "type": {"type": "string", "enum": ["script", "docker"]},
                "docker_configuration": {"type": "object"},
                "script_configuration": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["base64_script"],
                    "properties": {"base64_script": {"type": "string", "pattern": r"[A-Za-z0-9+/]+={0,2}"}},
                },
            },
        },
    },
}
KINDS = {"object": dict, "array": list, "string": str, "boolean": bool}


def schema_problem(value: Any, schema: dict[str, Any], path: str = "body") -> str | None:
    """The first way in which a value is not what the schema says; the keywords of JSON Schema that CREATE uses."""
    if not isinstance(value, KINDS[schema["type"]]):
        return f"{path} is no {schema['type']}"
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0) or value not in schema.get("enum", [value]):
            return f"{path} = {value!r}"
        return None if re.fullmatch(schema.get("pattern", ".*"), value, re.DOTALL) else f"{path} = {value!r}"
    if isinstance(value, list):
        if len(value) > schema.get("maxItems", len(value)):
            return f"{path} has {len(value)} items"
        found = (schema_problem(item, schema["items"], f"{path}[{i}]") for i, item in enumerate(value))
        return next(filter(None, found), None)
    if isinstance(value, dict) and "properties" in schema:
        missing = [key for key in schema.get("required", []) if key not in value]
        unknown = sorted(value.keys() - schema["properties"].keys())
        if missing or unknown:
            return f"{path}: missing {missing}, unknown {unknown}"
        found = (schema_problem(item, schema["properties"][key], f"{path}.{key}") for key, item in value.items())
        return next(filter(None, found), None)
    return None


@dataclass
class Made:
    """An instance. Times are seconds of the server's clock."""

    id: str
    body: dict[str, Any]
    cents: float
    """An hour, from active to deleting."""
    created: float
    listed_from: float
    boot: float
    status: str = "creating"
    details: str = ""
    active: float | None = None
    ended: float | None = None
    stuck: bool = False
    refused_deletes: int = 0

    @property
    def name(self) -> str:
        return str(self.body["name"])

    @property
    def script(self) -> str:
        return base64.b64decode(self.body["launch_configuration"]["script_configuration"]["base64_script"]).decode()

    @property
    def envs(self) -> dict[str, str]:
        return {env["name"]: env["value"] for env in self.body.get("envs", [])}

    def dollars(self, now: float) -> float:
        if self.active is None:
            return 0.0
        return (min(now, self.ended or now) - self.active) / 3_600 * self.cents / 100


def instance_type(
    gpu: str = "H100",
    count: int = 8,
    cents: int = 2_400,
    cloud: str = "hyperstack",
    type: str = "",
    places: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """As /instances/types lists one. places: entries of availability."""
    places = places or [{"region": "canada-1", "available": True, "rental_type": "on_demand"}]
    shared = {"display_name": "somewhere"}
    return {
        "cloud": cloud,
        "shade_instance_type": type or f"{gpu}x{count}",
        "cloud_instance_type": "n3",
        "hourly_price": cents,
        "deployment_type": "vm",
        "availability": [place | shared for place in places],
        "configuration": {
            **{"gpu_type": gpu, "num_gpus": count, "vram_per_gpu_in_gb": 80, "gpu_manufacturer": "nvidia"},
            **{"interconnect": "sxm5", "nvlink": True, "os_options": ["ubuntu22.04_cuda12.4_shade_os"]},
        },
    }


def spot(region: str, dollars: str, available: bool = True) -> dict[str, Any]:
    return {"region": region, "available": available, "rental_type": "spot", "hourly_price": dollars}


@dataclass
class Server:
    """`with Server() as server`. fail(route, fault) makes the next request of a route fail, such as "POST create"."""

    key: str = "shade-key-123"
    types: list[dict[str, Any]] = field(default_factory=lambda: [instance_type()])
    rate: float = 0.0
    boot: float = 120.0
    """Seconds until an instance is active."""
    refuses_early_delete: bool = False
    on_active: Callable[[Made], None] = lambda made: None
    on_gone: Callable[[Made], None] = lambda made: None
    start: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    instances: dict[str, Made] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)
    requests: list[tuple[str, Any]] = field(default_factory=list)
    made: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.advanced, self.began, self.events = 0.0, time.monotonic(), list[Callable[[], None]]()

    def __enter__(self) -> "Server":
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet: otherwise each answer waits 40 ms for an acknowledgement

            def do_GET(self) -> None:
                outer.handle(self, "GET")

            def do_POST(self) -> None:
                outer.handle(self, "POST")

            def log_message(self, *args: object) -> None: ...

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None: ...

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    # -- the clock

    @property
    def seconds(self) -> float:
        return self.advanced + (time.monotonic() - self.began) * self.rate

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    def advance(self, seconds: float) -> None:
        with self.lock:
            self.advanced += seconds
        self.tick()

    def tick(self) -> None:
        """Brings every instance up to the clock, then calls what is to be called."""
        with self.lock:
            for made in self.instances.values():
                self._age(made)
            events, self.events = self.events, []
        for event in events:
            event()

    def _age(self, made: Made) -> None:
        now, age = self.seconds, self.seconds - made.created
        if made.status in ("creating", "pending_provider", "pending") and not made.stuck:
            made.status = "creating" if age < 5 else "pending_provider" if age < 30 else "pending"
            if age >= made.boot:
                made.status, made.active = "active", made.created + made.boot
                self.events.append(lambda: self.on_active(made))
        caps = made.body.get("auto_delete", {})
        if made.status in ("active", "error"):
            ends = []
            if made.active is not None and "spend_threshold" in caps:
                ends.append(made.active + float(caps["spend_threshold"]) / (made.cents / 100) * 3_600)
            if "date_threshold" in caps:
                ends.append((datetime.fromisoformat(caps["date_threshold"]) - self.start).total_seconds())
            if ends and now >= min(ends):
                self.end(made, min(ends))
        if made.status == "deleting" and made.ended is not None and now >= made.ended + 20:
            made.status = "deleted"

    # -- what happens to instances

    def end(self, made: Made, when: float | None = None, details: str = "") -> None:
        made.status, made.details, made.ended = "deleting", details, self.seconds if when is None else when
        self.events.append(lambda: self.on_gone(made))

    def reclaim(self, made: Made) -> None:
        """As a spot instance is taken away."""
        with self.lock:
            self.end(made, details="preempted")
        self.tick()

    def vanish(self, made: Made) -> None:
        """It is gone from the list, and nobody knows its id any more."""
        with self.lock:
            made.ended = made.ended or self.seconds
            del self.instances[made.id]
        self.on_gone(made)

    def break_down(self, made: Made) -> None:
        """It is stuck in error, and billed."""
        with self.lock:
            made.status, made.details, made.stuck = "error", "provider failure", True
        self.on_gone(made)

    @property
    def alive(self) -> list[Made]:
        return [made for made in self.instances.values() if made.status not in ("deleting", "deleted")]

    @property
    def spent(self) -> float:
        """Dollars of all instances that it knows, so far."""
        return sum(made.dollars(self.seconds) for made in self.instances.values())

    # -- requests

    def fail(self, route: str, *faults: str) -> None:
        """faults: a status code, drop (nothing done), lost (done, no answer), late SECONDS (as lost; listed so much
        later), funds (409), garbage."""
        self.faults += [(route, fault) for fault in faults]

    def bodies(self) -> list[dict[str, Any]]:
        """Of all create requests that arrived."""
        return [body for route, body in self.requests if route == "POST create"]

    def handle(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        given = handler.rfile.read(length)
        path = handler.path.partition("?")[0].removeprefix("/v1/").split("/")
        route = f"{method} {'list' if path == ['instances'] else path[-1]}"
        self.tick()
        with self.lock:
            fault = next((fault for fault in self.faults if fault[0] == route), None)
            if fault:
                self.faults.remove(fault)
            what = fault[1] if fault else ""
            code, answer = self._answer(handler, route, path, given, what)
        self.tick()
        try:
            if what.startswith(("drop", "lost", "late")):
                handler.close_connection = True
                handler.connection.close()
                return
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            handler.send_response(code)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
        except OSError:
            handler.close_connection = True

    def _answer(
        self, handler: BaseHTTPRequestHandler, route: str, path: list[str], given: bytes, fault: str
    ) -> tuple[int, Any]:
        if handler.headers.get("X-API-KEY") != self.key:
            return 401, {"error_code": "UNAUTHORIZED", "error": "Invalid API key"}
        try:
            body = json.loads(given) if given else None
        except ValueError:
            return 400, {"error_code": "BAD_REQUEST", "error": "invalid JSON"}
        self.requests.append((route, body))
        if fault.isdecimal():
            return int(fault), {"error_code": "FAULT", "error": f"told to answer {fault}"}
        if fault == "funds":
            return 409, {"error_code": "INSUFFICIENT_FUNDS", "error": "Balance must be a minimum of $5 to deploy."}
        if fault == "garbage":
            return 200, b"<html>log in</html>"
        if fault == "drop":
            return 0, b""
        if route == "GET types":
            return 200, {"instance_types": self.types}
        if route == "POST create":
            return self._create(body, fault)
        if route == "GET list":
            listed = [made for made in self.instances.values() if made.status != "deleted"]
            return 200, {"instances": [self._shown(made) for made in listed if made.listed_from <= self.seconds]}
        made = self.instances.get(path[1]) if len(path) == 3 else None
        if made is None:
            return 404, {"error_code": "NOT_FOUND", "error": "no such instance"}
        if route == "GET info":
            return 200, self._shown(made)
        if route == "POST delete":
            if self.refuses_early_delete and made.status in ("creating", "pending_provider", "pending"):
                made.refused_deletes += 1
                return 409, {"error_code": "INSTANCE_NOT_ACTIVE", "error": "It can be deleted once it is active."}
            if made.status not in ("deleting", "deleted"):
                self.end(made)
            return 200, {}
        return 404, {"error_code": "NOT_FOUND", "error": route}

    def _create(self, body: Any, fault: str) -> tuple[int, Any]:
        problem = schema_problem(body, CREATE)
        place = None if problem else self._place(body)
        if problem or place is None:
            return 400, {"error_code": "BAD_REQUEST", "error": problem or "not available"}
        item, entry = place
        price = entry.get("hourly_price", item["hourly_price"])
        cents = float(price) * 100 if isinstance(price, str) else price
        made = self.add(body, cents, float(fault[5:]) if fault.startswith("late ") else 0.0)
        return 200, {"id": made.id, "cloud_assigned_id": ""}

    def add(self, body: dict[str, Any], cents: float = 2_400, late: float = 0.0) -> Made:
        """An instance, in the list after `late` seconds; a test may add one that nobody asked for."""
        with self.lock:
            self.made += 1
            made = Made(f"id-{self.made}", body, cents, self.seconds, self.seconds + late, self.boot)
            self.instances[made.id] = made
        return made

    def _place(self, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The type and the availability that a create request asks for."""
        for item in self.types:
            if item["cloud"] == body["cloud"] and item["shade_instance_type"] == body["shade_instance_type"]:
                for entry in item["availability"]:
                    rental = entry.get("rental_type", "on_demand") == body.get("rental_type", "on_demand")
                    if rental and entry["region"] == body["region"] and entry["available"]:
                        return item, entry
        return None

    def _shown(self, made: Made) -> dict[str, Any]:
        return {
            "id": made.id,
            "name": made.name,
            "cloud": made.body["cloud"],
            "region": made.body["region"],
            "shade_instance_type": made.body["shade_instance_type"],
            "status": made.status,
            **({"status_details": made.details} if made.details else {}),
            "ip": "203.0.113.7" if made.active is not None else "",
            "ssh_user": "shadeform",
            "ssh_port": 22,
            "hourly_price": made.cents,
            "rental_terms": {"rental_type": made.body.get("rental_type", "on_demand"), "hourly_price": made.cents},
            "cost_estimate": f"{made.dollars(self.seconds):.2f}",
            "tags": made.body.get("tags", []),
            "created_at": (self.start + timedelta(seconds=made.created)).isoformat(),
        }
