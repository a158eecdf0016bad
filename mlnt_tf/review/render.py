"""Puts markup, style, script and data together into one HTML file without external parts."""

import base64
import hashlib
import html
import importlib.resources
import json
import re

SCRIPTS = ("csv.js", "store.js", "dom.js", "filters.js", "choose.js", "single.js", "grid.js",
           "overview.js", "main.js")


def read_assets():
    """Returns the page's own files: markup, style and script."""
    files = importlib.resources.files("mlnt_tf.review") / "assets"
    scripts = [(files / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return {"page": (files / "page.html").read_text(encoding="utf-8"),
            "style": (files / "page.css").read_text(encoding="utf-8"),
            "script": '"use strict";\n' + "".join(scripts)}


def render(content, images):
    """Returns the text of the page.

    The policy in its head forbids every access to the network, and every script but its own.

    Args:
      content: dict that JSON can represent, with the keys "run" and "sample".
      images: list of str, data URIs.
    """
    parts = read_assets()
    policy = ("default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
              f"script-src {_hash(parts['script'])}; style-src {_hash(parts['style'])}")
    kind = "Audit" if content["sample"] == "audit" else "Review"
    values = {"policy": html.escape(policy), "title": html.escape(f"{kind} of {content['run']}"),
              "style": parts["style"], "script": parts["script"],
              "content": embedded_json(content), "images": embedded_json(images)}
    # One pass, so that braces in the data are never taken for a place of the template.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], parts["page"])


def _hash(text):
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def embedded_json(value):
    """Returns JSON that can stand inside a script element: no `<`, `>` or `&`, and ASCII only."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
