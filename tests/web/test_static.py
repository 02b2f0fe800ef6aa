"""The chat page's files as they are served and packed."""

import gzip
import hashlib
import re
from base64 import b64encode

import httpx2

from lanbot.web.security import Access
from lanbot.web.static import PAGE, Files

REPORT = PAGE.parents[1] / "report" / "static" / "style.css"


def test_the_page_is_small() -> None:
    assert 100_000 < Files().bytes < 400_000


def test_vendored_files_are_those_of_the_notice() -> None:
    notice = (PAGE / "vendor" / "NOTICE").read_text()
    named = dict(zip(re.findall(r"/([\w.]+\.js) of", notice), re.findall(r"sha256 (\w{64})", notice), strict=True))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (PAGE / "vendor").glob("*.js")}
    assert named == found
    assert all((PAGE / "vendor" / name).is_file() for name in re.findall(r"LICENSE\.\w+", notice))


def test_page_and_report_have_the_same_colours() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", REPORT.read_text(), re.DOTALL)[:2]
    of_report = [dict(re.findall(r"--([\w-]+): (#\w+);", one)) for one in (light, dark)]
    of_page = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", (PAGE / "page.css").read_text())
    assert len(of_page) > 10
    assert [(name, of_report[0][name], of_report[1][name]) for name, *_ in of_page] == of_page


def test_browsers_keep_what_the_page_loads_and_ask_again_for_the_page(make_engine, serve) -> None:
    url = serve(make_engine(), Access(("key",)))  # the files are the same for everyone: no key
    page = httpx2.get(url)
    assert page.headers["cache-control"] == "no-cache"
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'self'" in policy
    for tag in ("script", "style"):  # what is in the page is what the policy names
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        hashes = [b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in inside]
        assert len(inside) == 1
        assert re.findall(rf"{tag}-src ([^;]*)", policy) == ["'self' " + " ".join(f"'sha256-{one}'" for one in hashes)]
    assert not re.search(r"\sstyle=|\son\w+=|https?://", page.text)
    again = httpx2.get(url, headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    loaded = re.findall(r'(?:src|href)="(assets/[^"]+)"', page.text)
    assert len(loaded) == 1
    loaded += [loaded[0].replace("icon.svg", name) for name in ("app.js", "vendor/marked.esm.js")]
    for path in loaded:
        one = httpx2.get(f"{url}/{path}")
        assert one.status_code == 200
        assert "immutable" in one.headers["cache-control"]
        assert one.headers["content-encoding"] == "gzip"
    with httpx2.stream("GET", url, headers={"accept-encoding": "gzip"}) as packed:
        assert gzip.decompress(b"".join(packed.iter_raw())).decode() == page.text
    for path in ("/assets/page.css", "/assets/../static.py", "/assets/x/vendor/NOTICE"):
        assert httpx2.get(f"{url}{path}", headers={"x-api-key": "key"}).status_code == 404
