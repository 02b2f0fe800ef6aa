"""Shadeform: machines of many clouds behind one REST API. Cents and strings become dollars here."""

import base64
import json
import os
import re
from collections.abc import Callable, Sequence
from time import sleep
from typing import TYPE_CHECKING, Any

from lanbot.cloud.providers.base import (
    Busy,
    Instance,
    Launch,
    NoFundsError,
    Offer,
    RefusedError,
    Status,
    Unsettled,
    hidden,
    ssh_command,
)
from lanbot.core.console import say, visible
from lanbot.core.errors import UserError
from lanbot.core.http import PASSING, Again, Retries, retried, retry_after

if TYPE_CHECKING:
    import httpx2

URL = "https://api.shadeform.ai/v1"
TIMEOUT = 30.0
TRIES, BACKOFF, BACKOFF_MAX = 6, 1.0, 30.0
"""Tries of a request that only reads; seconds before the second one, doubled before each further one; the most."""
STATUSES: dict[str, Status] = {
    **dict.fromkeys(("creating", "pending_provider", "pending"), "pending"),
    **{"active": "active", "error": "error", "deleting": "deleting", "deleted": "deleted"},
}
NO_KEY = "Set SHADEFORM_API_KEY in the environment or in .env."


class Shadeform:
    name, market = "shadeform", True

    def __init__(self, key: str, url: str = "") -> None:
        self.key = key.strip()
        self.url = (url or os.environ.get("SHADEFORM_API_URL") or URL).rstrip("/")
        self._http: httpx2.Client | None = None

    # -- the interface: see base.py

    def offers(self) -> Sequence[Offer]:
        types = self._list("/instances/types", "instance_types")
        return [offer for item in types for offer in _offers(item)]

    def body(self, launch: Launch) -> dict[str, Any]:
        """The body of /instances/create. Both caps are always in it."""
        script = base64.b64encode(launch.script.encode()).decode()
        body: dict[str, Any] = {
            "cloud": launch.offer.cloud,
            "region": launch.offer.region,
            "shade_instance_type": launch.offer.type,
            "shade_cloud": True,
            "name": launch.name,
            "rental_type": "spot" if launch.offer.spot else "on_demand",
            "tags": list(launch.tags),
            "envs": [{"name": name, "value": value} for name, value in launch.envs.items()],
            "launch_configuration": {"type": "script", "script_configuration": {"base64_script": script}},
            "auto_delete": {
                "date_threshold": launch.date_cap.isoformat(timespec="seconds"),
                "spend_threshold": f"{launch.spend_cap:.2f}",
            },
        }
        return body | ({"ssh_key_id": launch.ssh_key_id} if launch.ssh_key_id else {})

    def preview(self, launch: Launch) -> str:
        body = self.body(launch)
        body["envs"] = [{"name": name, "value": value} for name, value in hidden(launch.envs).items()]
        body["launch_configuration"]["script_configuration"] = {"base64_script": "(the start-up script)"}
        return f"POST {self.url}/instances/create\n{json.dumps(body, indent=2)}"

    def create(self, launch: Launch) -> str:
        import httpx2

        try:
            response = self._send("POST", "/instances/create", self.body(launch))
        except httpx2.ConnectError as error:  # nothing was sent
            raise Busy(f"no connection to {self.url} ({error})") from None
        except httpx2.RequestError as error:
            raise Unsettled(f"no answer ({type(error).__name__})") from None
        if response.status_code == 429:
            raise Busy("Shadeform asks to wait (429)")
        if response.status_code >= 500 or response.status_code in PASSING:
            raise Unsettled(f"Shadeform answers {response.status_code}")
        if response.is_error:
            raise self._refusal(response)
        try:
            return str(response.json()["id"])
        except (ValueError, LookupError, TypeError):
            raise Unsettled("Shadeform's answer has no id") from None

    def info(self, id: str) -> Instance | None:
        answer = self._read(f"/instances/{id}/info", missing=True)
        return None if answer is None else self._instance(answer)

    def list(self) -> Sequence[Instance]:
        return [self._instance(item) for item in self._list("/instances", "instances")]

    def delete(self, id: str) -> None:
        import httpx2

        try:
            response = self._send("POST", f"/instances/{id}/delete")
        except httpx2.RequestError as error:
            raise Busy(f"no answer ({type(error).__name__})") from None
        if response.status_code in (401, 403):
            raise self._refusal(response)
        if response.is_error and response.status_code != 404:
            raise Busy(f"Shadeform answers {response.status_code} ({_said(response)})")

    def logs(self, instance: Instance, follow: bool) -> Sequence[str]:
        return [
            *self.ssh(instance),
            f"sudo journalctl -u init-script -u lanbot-node --no-pager -n 200{' -f' if follow else ''}",
        ]

    def ssh(self, instance: Instance) -> Sequence[str]:
        if not instance.ip:
            raise UserError(f"{instance.name}: no address yet", f"It is {instance.detail}: try again in a minute.")
        return ssh_command(f"{instance.ssh_user or 'shadeform'}@{instance.ip}", instance.name, instance.ssh_port)

    # -- requests

    def _send(self, method: str, path: str, body: Any = None) -> "httpx2.Response":
        import httpx2

        if not self.key:
            raise RefusedError("Shadeform needs its API key", NO_KEY)
        if self._http is None:
            self._http = httpx2.Client(headers={"X-API-KEY": self.key}, timeout=TIMEOUT)
        return self._http.request(method, self.url + path, json=body)

    def _read(self, path: str, missing: bool = False) -> Any:
        """The answer to a GET, tried again after failures that may pass; None for 404 if `missing`."""

        def attempt() -> Any:
            import httpx2

            try:
                response = self._send("GET", path)
                if response.status_code in PASSING:
                    wait = retry_after(response.headers.get("Retry-After")) or 0.0
                    raise Again(f"Shadeform answers {response.status_code}", wait)
                if missing and response.status_code == 404:
                    return None
                if response.is_error:
                    raise self._refusal(response)
                return response.json()
            except httpx2.RequestError as error:
                raise Again(f"no answer from {self.url} ({type(error).__name__})") from None
            except ValueError:
                raise Again(f"{self.url}{path} does not answer in JSON") from None

        return _retried(attempt)

    def _list(self, path: str, key: str) -> Sequence[Any]:
        answer = self._read(path)
        items = answer.get(key) if isinstance(answer, dict) else None
        if not isinstance(items, Sequence) or isinstance(items, str):
            raise UserError(f"{self.url}{path}: the answer has no {key}", "Is that Shadeform? See SHADEFORM_API_URL.")
        return items

    def _refusal(self, response: "httpx2.Response") -> UserError:
        problem = f"Shadeform answers {response.status_code}: {_said(response)}"
        problem = problem.replace(self.key, "***")
        if response.status_code in (401, 403):
            return RefusedError(problem, NO_KEY)
        if "INSUFFICIENT_FUNDS" in problem:
            return NoFundsError(problem, "Add credit to the account, then run the same command again.")
        return RefusedError(problem, "No machine was made. Try another offer: lanbot cloud offers.")

    def _instance(self, item: dict[str, Any]) -> Instance:
        """Raises UserError if the answer is not an instance."""
        try:
            detail, why = str(item["status"]), str(item.get("status_details") or "")
            return Instance(
                id=str(item["id"]),
                name=str(item["name"]),
                status=STATUSES.get(detail, "active"),  # an unknown one is taken to be billed
                preempted="preempt" in why.lower(),
                ip=str(item.get("ip") or ""),
                ssh_user=str(item.get("ssh_user") or ""),
                ssh_port=int(item.get("ssh_port") or 22),
                dollars_per_hour=_price(item),
                spent=float(str(item.get("cost_estimate") or 0).lstrip("$")),
                created=str(item.get("created_at") or ""),
                detail=f"{detail}, {visible(why)}" if why else detail,
                tags=tuple(item.get("tags") or ()),
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{self.url}: an instance cannot be read ({error!r})", "Has the API changed?") from None


def _price(item: dict[str, Any]) -> float:
    """Dollars an hour: cents as a number, dollars as a string."""
    terms = item.get("rental_terms") or {}
    price = terms.get("hourly_price") if terms.get("hourly_price") is not None else item.get("hourly_price", 0)
    return float(price.lstrip("$")) if isinstance(price, str) else (price or 0) / 100


def _offers(item: dict[str, Any]) -> list[Offer]:
    """The offers of an instance type, one for each region and way to rent it; none if the item cannot be read."""
    try:
        gpus = item["configuration"]
        kind = re.split(r"[_\s-]", str(gpus["gpu_type"]).upper())[0]
        if "PCIE" in f"{gpus['gpu_type']} {gpus.get('interconnect')}".upper():
            kind += "-PCIE"
        return [
            Offer(
                provider="shadeform",
                cloud=str(item["cloud"]),
                region=str(place["region"]),
                type=str(item["shade_instance_type"]),
                gpu=kind,
                count=int(gpus["num_gpus"]),
                dollars_per_hour=_price(place if place.get("hourly_price") is not None else item),
                vram_gb=int(gpus.get("vram_per_gpu_in_gb") or 0),
                spot=place.get("rental_type") == "spot",
                available=bool(place.get("available")),
                nvlink=bool(gpus.get("nvlink")),
            )
            for place in item.get("availability") or []
        ]
    except (LookupError, TypeError, ValueError):
        say(f"An instance type of {visible(str(item)[:60])}... cannot be read and is left out.")
        return []


def _retried(attempt: Callable[[], Any]) -> Any:
    try:
        return retried(attempt, Retries(TRIES, BACKOFF, BACKOFF_MAX, BACKOFF_MAX), lambda what: None, sleep)
    except Again as again:
        problem = f"{again.why} ({TRIES} tries)"
        raise UserError(problem, "Nothing is known about your machines: try again later.") from None


def _said(response: "httpx2.Response") -> str:
    """Its error in one line, for people."""
    try:
        answer = response.json()
        text = f"{answer.get('error_code', '')} {answer.get('error', '')}"
    except (ValueError, AttributeError):
        text = response.text
    return visible(" ".join(text.split()))[:200]
