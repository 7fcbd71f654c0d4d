"""``kvloom cache contexts | save | restore``: what a running server has in RAM, over HTTP, with an admin key."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from kvloom.cli.say import bytes_text, show
from kvloom.errors import RequestError

_TIMEOUT_S = 600.0
_ADMIN = "set KVLOOM_ADMIN_KEY to a key of an admin"
_HINTS = {401: _ADMIN, 403: _ADMIN}
_OTHER = "`kvloom cache contexts` lists what the server has; saving and restoring need its --sessions-dir"


def list_contexts(url: str, as_json: bool) -> None:
    told = ask(url, "/cache/contexts")
    lines = [f"texts in RAM: {told['total']:,}"]
    for each in told["contexts"]:
        size = bytes_text(each["bytes"])
        lines.append(f"{each['id']}  {each['tokens']:>9,} tokens  {size:>10}  salt {each['root']}")
    show(told, "\n".join(lines), as_json)


def show_context(url: str, id: str, as_json: bool) -> None:
    """Of a text that is stored, or of all prompts of one reply."""
    told = ask(url, f"/cache/contexts/{urllib.parse.quote(id, safe='')}")
    lines = []
    if "contexts" not in told:
        lines.append(f"{id}  {told['tokens']:,} tokens  {bytes_text(told['bytes'])}")
        for group, spans in told["segments"].items():
            lines += [f"{_span(each)}  {each['tier']:<10}  {group}" for each in spans]
    for each in told.get("contexts", ()):
        lines.append(f"{id}  {each['tokens']:,} tokens  {each['status']}")
        lines += [_segment(segment) for segment in each["segments"]]
    show(told, "\n".join(lines), as_json)


def _segment(told: dict[str, Any]) -> str:
    found = f"found in {told['found_in']}" if "found_in" in told else ""
    return f"{_span(told)}  {told['state']:<10}  {told.get('tier') or told.get('why', '')}  {found}".rstrip()


def _span(told: dict[str, Any]) -> str:
    return f"{told['start']:>9,} to {told['stop']:>9,}"


def save_context(url: str, context: str, name: str, as_json: bool) -> None:
    told = ask(url, "/cache/save", {"context": context, "name": name})
    show(told, f"saved {told['tokens']:,} tokens as {told['name']}, {bytes_text(told['bytes'])}", as_json)


def restore_session(url: str, name: str, as_json: bool) -> None:
    told = ask(url, "/cache/restore", {"name": name})
    show(told, f"restored {told['tokens']:,} tokens of {told['name']}", as_json)


def ask(url: str, path: str, body: dict[str, str] | None = None) -> Any:
    """What a server answers to whose key is in the environment. Raises RequestError with what it says instead."""
    headers = {"Content-Type": "application/json"}
    key = os.environ.get("KVLOOM_ADMIN_KEY") or os.environ.get("KVLOOM_API_KEY")
    if key:
        headers["Authorization"] = f"Bearer {key}"
    if not url.startswith(("http://", "https://")):
        raise RequestError(f"`{url}` is no URL of a server", hint="write it like http://127.0.0.1:8000")
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url.rstrip("/").removesuffix("/v1") + path, data, headers)
    try:
        with urllib.request.urlopen(asked, timeout=_TIMEOUT_S) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            raise RequestError(_said(error.read(), error.code), hint=_HINTS.get(error.code, _OTHER)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RequestError(f"no answer from {url}: {error}", hint="is kvloom serve running there?") from None


def _said(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered with status {status}"
