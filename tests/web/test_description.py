"""The OpenAPI description: what it says holds, whatever is sent by it."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from lanbot.web.security import Access

SECONDS = int(os.environ.get("LANBOT_FUZZ_SECONDS", "60"))


def test_it_names_every_route_and_the_models(make_engine, serve) -> None:
    made = httpx2.get(f"{serve(make_engine())}/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/health"} <= set(made["paths"])
    schemas = made["components"]["schemas"]
    assert schemas["ChatBody"]["properties"]["model"]["enum"] == ["other", "tiny"]
    assert schemas["ChatBody"]["properties"]["n"]["anyOf"][0]["maximum"] == 8
    references = set(str(made).split("'#/components/schemas/")[1:])
    assert {one.partition("'")[0] for one in references} <= set(schemas)


@pytest.mark.slow
def test_nothing_that_the_description_allows_breaks_the_server(make_engine, serve, tmp_path: Path) -> None:
    """LANBOT_FUZZ_SECONDS of schemathesis: no 5xx, nothing that hangs, nothing that the description does not say."""
    url = serve(make_engine(context=256), Access(("the-key",)))
    program = Path(sys.executable).with_name("schemathesis")
    command = [str(program), "run", f"{url}/openapi.json", "-H", "Authorization: Bearer the-key"]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    more = ["--checks", checks, "--max-time", str(SECONDS), "--request-timeout", "30", "--no-color"]
    done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, check=False)
    print(done.stdout[-3_000:])
    assert done.returncode == 0
    assert httpx2.get(f"{url}/health").status_code == 200
